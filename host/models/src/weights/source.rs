//! A checkpoint's file, which others may write to while it is in use.
//!
//! It is read and not mapped: of a mapped file that is cut short, the next access ends the process. Whatever is read counts only
//! if the file's length and time of change are afterwards what they were when it was opened, so that no part of another file is
//! taken for this one. A file that is *replaced*, by renaming another over it, does not change: the old one is read on.

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};

use crate::error::{Error, Result};

/// Within this time a file can change twice and have the same time of change: the clocks of file systems have ticks.
const TICK: Duration = Duration::from_millis(20);
/// How many ticks a file that is being written is waited for.
const PATIENCE: u32 = 50;

/// An open file, as it was when it was opened.
pub(super) struct Source {
    file: File,
    /// Its path, for messages.
    path: Arc<str>,
    stamp: Stamp,
}

/// What tells that a file was written to.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    len: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self { len: metadata.len(), modified: metadata.modified().ok() })
    }

    /// Whether another change might not show.
    fn is_fresh(&self) -> bool {
        let Some(modified) = self.modified else { return false };
        let now = SystemTime::now();
        let age = now.duration_since(modified).unwrap_or_else(|future| future.duration());
        age <= TICK
    }
}

impl Source {
    /// Opens a file; one that was written just now a moment later.
    ///
    /// # Errors
    /// [`Error::File`] for what is no file or can't be read, and for a file that is written to for a second.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let name: Arc<str> = path.display().to_string().into();
        let failed = |reason: String| Error::File { file: name.to_string(), reason };
        let system = |e: io::Error| failed(e.to_string());
        // To open a pipe would wait for whoever writes into it.
        if !fs::metadata(path).map_err(system)?.is_file() {
            return Err(failed("is not a file".into()));
        }
        let file = File::open(path).map_err(system)?;
        for _ in 0..PATIENCE {
            let stamp = Stamp::of(&file).map_err(system)?;
            if !stamp.is_fresh() {
                return Ok(Self { file, path: name, stamp });
            }
            thread::sleep(TICK);
        }
        Err(failed("is being written; load it when it is complete".into()))
    }

    /// Its length in bytes.
    pub(super) fn len(&self) -> u64 {
        self.stamp.len
    }

    /// Fills `buffer` with what lies from the byte numbered `offset` on. What was read has no meaning before
    /// [`Source::check_unchanged`] says so.
    ///
    /// # Errors
    /// [`Error::Changed`] where the file has become too short; [`Error::File`].
    pub(super) fn read(&self, mut buffer: &mut [u8], mut offset: u64) -> Result<()> {
        while !buffer.is_empty() {
            match read_at(&self.file, buffer, offset) {
                Ok(0) => return Err(self.changed()),
                Ok(count) => {
                    buffer = &mut buffer[count..];
                    offset += count as u64;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(self.failed(&e)),
            }
        }
        Ok(())
    }

    /// That all that was read so far is of the file that was opened.
    ///
    /// # Errors
    /// [`Error::Changed`]; [`Error::File`].
    pub(super) fn check_unchanged(&self) -> Result<()> {
        match Stamp::of(&self.file) {
            Ok(stamp) if stamp == self.stamp => Ok(()),
            Ok(_) => Err(self.changed()),
            Err(e) => Err(self.failed(&e)),
        }
    }

    fn changed(&self) -> Error {
        Error::Changed { file: self.path.to_string() }
    }

    fn failed(&self, error: &io::Error) -> Error {
        Error::File { file: self.path.to_string(), reason: error.to_string() }
    }
}

#[cfg(unix)]
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, offset)
}

#[cfg(windows)]
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buffer, offset)
}
