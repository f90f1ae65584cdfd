//! The end of the process that nobody asked for: by a panic of what it can't do without, and by a crash, with whose fault it
//! was.

#![deny(unsafe_code)]

pub mod blame;
pub mod report;
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "signal handlers are C's")]
mod signals;
pub mod vital;

use std::{io, path::Path};

/// Has a crash of this process recorded in the file `path`, which is made then: see [`report::read`]. To be called before others
/// install handlers of SIGSEGV and its like that pass on what is not theirs. The first call counts; on other systems than
/// Linux nothing is recorded.
///
/// # Errors
/// The system's; of a path that C can't take.
pub fn record_in(path: &Path) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    signals::install(path)?;
    let _ = path;
    Ok(())
}
