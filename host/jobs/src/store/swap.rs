//! Putting a new file in the place of an old one, so that a crash between any two steps leaves one of them, with its log.

use std::{
    io,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags};

use super::{disk::Disk, schema};

/// The ending of a new file that is complete, and of one that is being written.
pub const NEW: &str = ".new";
pub const PART: &str = ".part";

/// How many damaged files are kept beside the good one.
const KEPT_ASIDE: usize = 5;

pub fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

pub fn log_of(path: &Path) -> PathBuf {
    beside(path, "-wal")
}

/// Puts the new file in the place of the old one, which goes to `aside`.
pub fn swap(path: &Path, aside: &Path, disk: &dyn Disk) -> io::Result<()> {
    if !is_begun(path, disk)? {
        // What was kept by this name goes whole: a file and the log of another would be taken for a pair.
        for stale in [aside.to_owned(), log_of(aside)] {
            if disk.identity(&stale)?.is_some() {
                disk.remove(&stale)?;
            }
        }
    }
    disk.rename(&beside(path, PART), &beside(path, NEW))?;
    // From here on the new one is all there is: it must not go with the power.
    disk.sync_folder(folder_of(path))?;
    if disk.identity(path)?.is_some() {
        disk.rename(path, aside)?;
    }
    put_in_place(path, aside, disk)
}

pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// What is left to do once the old file is out of the way: its log must not be taken for one of the new file.
fn put_in_place(path: &Path, aside: &Path, disk: &dyn Disk) -> io::Result<()> {
    let folder = folder_of(path);
    // The old file must not come back without its log.
    disk.sync_folder(folder)?;
    if disk.identity(&log_of(path))?.is_some() {
        disk.rename(&log_of(path), &log_of(aside))?;
    }
    let index = beside(path, "-shm");
    if disk.identity(&index)?.is_some() {
        disk.remove(&index)?;
    }
    disk.sync_folder(folder)?;
    disk.rename(&beside(path, NEW), path)?;
    disk.sync_folder(folder)
}

/// Finishes or drops what an earlier process has begun.
pub fn finish(path: &Path, disk: &dyn Disk) -> io::Result<()> {
    let new = beside(path, NEW);
    if disk.identity(&new)?.is_none() {
        return Ok(());
    }
    if is_begun(path, disk)?
        && let Some(aside) = stated_aside(path, disk)?
    {
        return put_in_place(path, &aside, disk);
    }
    disk.remove(&new)
}

/// Whether the old file is out of the way, and the new one not yet in its place.
fn is_begun(path: &Path, disk: &dyn Disk) -> io::Result<bool> {
    Ok(disk.identity(path)?.is_none() && disk.identity(&beside(path, NEW))?.is_some())
}

/// Where the new file says that the old one goes, which only a complete one does.
fn stated_aside(path: &Path, disk: &dyn Disk) -> io::Result<Option<PathBuf>> {
    let new = beside(path, NEW);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opened = match disk.vfs() {
        Some(vfs) => Connection::open_with_flags_and_vfs(new, flags, vfs),
        None => Connection::open_with_flags(new, flags),
    };
    let query = "SELECT value FROM meta WHERE name = 'aside'";
    match opened.and_then(|connection| connection.query_row(query, [], |row| row.get::<_, String>(0))) {
        Ok(ending) => Ok(Some(beside(path, &ending))),
        // Not to be thrown away for that.
        Err(error) if schema::is_failing(&error) => Err(io::Error::other(error)),
        Err(_) => Ok(None),
    }
}

/// What a damaged file is renamed to, with its log; where an earlier try has renamed the file, what it chose.
pub fn name_aside(path: &Path, disk: &dyn Disk) -> PathBuf {
    if is_begun(path, disk).unwrap_or(false)
        && let Ok(Some(aside)) = stated_aside(path, disk)
    {
        return aside;
    }
    let name = |number: usize| beside(path, &format!(".damaged-{number}"));
    let is_free = |name: &PathBuf| {
        [name.clone(), log_of(name)].iter().all(|path| matches!(disk.identity(path), Ok(None)))
    };
    (1..=KEPT_ASIDE).map(name).find(is_free).unwrap_or_else(|| name(KEPT_ASIDE))
}

/// How the name of a file that was put aside ends.
pub fn ending_of(aside: &Path, path: &Path) -> String {
    let (aside, path) = (aside.to_string_lossy(), path.to_string_lossy());
    aside.strip_prefix(&*path).expect("beside it").to_owned()
}
