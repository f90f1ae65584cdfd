//! Where a file is, and whether it is still what was opened.

use std::{any::Any, path::PathBuf, sync::Arc};

use rusqlite::{Error, ffi};

use super::{
    disk::{Disk, Identity},
    swap::{beside, log_of},
};

/// Where a file is, and that no other process has it.
pub struct Place {
    pub path: PathBuf,
    pub disk: Arc<dyn Disk>,
    pub lock: Option<Box<dyn Any + Send>>,
    /// Which file was opened.
    pub identity: Option<Identity>,
    /// Which log, where it was there.
    pub log: Option<Identity>,
    /// Bytes that the file had, which never become fewer.
    pub length: u64,
}

impl Place {
    /// Takes note of what was opened.
    pub fn opened(&mut self) {
        self.identity = self.disk.identity(&self.path).ok().flatten();
        self.log = self.disk.identity(&log_of(&self.path)).ok().flatten();
        self.length = self.disk.length(&self.path).unwrap_or(0);
    }

    /// Locks the place, if that was not possible before.
    pub fn take_lock(&mut self) -> Result<(), Error> {
        if self.lock.is_none() {
            let error = |text: String| {
                let busy = ffi::Error::new(ffi::SQLITE_BUSY);
                Error::SqliteFailure(busy, Some(text))
            };
            let locked =
                self.disk.lock(&beside(&self.path, ".lock")).map_err(|why| error(why.to_string()))?;
            self.lock = Some(locked.ok_or_else(|| error("it is in use by another server".into()))?);
        }
        Ok(())
    }

    /// What happened to what was opened, if anything.
    pub fn harm(&mut self) -> Option<String> {
        let log = log_of(&self.path);
        for (path, what, known) in [(&self.path, "it", self.identity), (&log, "its log", self.log)] {
            match self.disk.identity(path) {
                Ok(found) if found == known || known.is_none() => {}
                Ok(Some(_)) => {
                    return Some(format!("{what} was replaced by another file while the server ran"));
                }
                Ok(None) => return Some(format!("{what} was deleted while the server ran")),
                Err(_) => return None,
            }
        }
        let length = self.disk.length(&self.path).ok()?;
        let before = std::mem::replace(&mut self.length, length);
        (length < before).then(|| format!("it was cut from {before} to {length} bytes while the server ran"))
    }
}
