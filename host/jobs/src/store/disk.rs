//! What a store does with files beside SQLite's own, as something that a test can let fail.

use std::{
    any::Any,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    path::Path,
};

/// Which file stands at a path: another one after it was deleted or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity(pub u64, pub u64);

pub trait Disk: Send + Sync {
    /// The SQLite VFS that files are opened through; none for the system's.
    fn vfs(&self) -> Option<&str> {
        None
    }

    /// # Errors
    /// Those of the file system, as of the other functions here.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// Bytes of a file.
    fn length(&self, path: &Path) -> io::Result<u64> {
        self.read(path).map(|content| content.len() as u64)
    }
    /// Writes a file as it is over itself, and syncs it: what an earlier sync was to write and did not, and what only seems to be
    /// on the disk since, is there then. Nothing is done where there is no file, or none that may be written.
    fn write_again(&self, path: &Path) -> io::Result<()>;

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes what was done to the names in a folder survive a loss of power.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;

    fn make_folder(&self, folder: &Path) -> io::Result<()>;

    /// None where nothing is there.
    fn identity(&self, path: &Path) -> io::Result<Option<Identity>>;

    /// Locks a file, which is made where it is missing, until what this returns is dropped. None where it is locked.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Any + Send>>>;
}

/// The machine's.
pub struct Machine;

impl Disk for Machine {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn length(&self, path: &Path) -> io::Result<u64> {
        fs::metadata(path).map(|found| found.len())
    }

    fn write_again(&self, path: &Path) -> io::Result<()> {
        use io::ErrorKind::{NotFound, PermissionDenied, ReadOnlyFilesystem};
        let mut file = match OpenOptions::new().read(true).write(true).open(path) {
            Err(error) if matches!(error.kind(), NotFound | PermissionDenied | ReadOnlyFilesystem) => {
                return Ok(());
            }
            opened => opened?,
        };
        let mut content = Vec::new();
        file.read_to_end(&mut content)?;
        file.rewind()?;
        file.write_all(&content)?;
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        // Elsewhere a folder can't be opened, and its names need no such thing.
        if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
    }

    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir_all(folder)
    }

    fn identity(&self, path: &Path) -> io::Result<Option<Identity>> {
        let found = match fs::metadata(path) {
            Ok(found) => found,
            // Where its folder is none any more, it is not there either.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        #[cfg(unix)]
        let identity = {
            use std::os::unix::fs::MetadataExt as _;
            Identity(found.dev(), found.ino())
        };
        // An open file can't be replaced there.
        #[cfg(not(unix))]
        let identity = Identity(0, u64::from(found.is_file()));
        Ok(Some(identity))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Any + Send>>> {
        // Not truncated: it says which process has it.
        let opened = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path);
        let mut file = match opened {
            // A file that can't be written can be locked.
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => File::open(path)?,
            opened => opened?,
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // For people; the lock is what counts.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Some(Box::new(file)))
    }
}
