//! A look at a ledger that changes nothing, also while a server writes it.

use std::{fs, io, path::Path};

use rusqlite::{Connection, OpenFlags};

use super::{log::Log, salvage::salvage, sealed, swap::beside};

/// What a look finds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inspected {
    /// Queued, or running when it was written last.
    pub active: usize,
    pub finished: usize,
    /// Records that can't be read.
    pub damaged: usize,
    /// Whether a server has it open.
    pub in_use: bool,
}

/// Looks at a ledger: through SQLite, or, where SQLite can't read it, at its pages.
///
/// # Errors
/// What the file system says, or that it is no ledger.
pub fn inspect(path: &Path) -> Result<Inspected, String> {
    let at = |error: io::Error| format!("'{}': {error}", path.display());
    let in_use = fs::File::open(beside(path, ".lock"))
        .is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(fs::TryLockError::WouldBlock)));
    let mut found = Inspected { in_use, ..Inspected::default() };
    let content = fs::read(path).map_err(at)?;
    let log = fs::read(beside(path, "-wal")).unwrap_or_default();
    // Without a server, SQLite would have to write to read.
    let quiet = !in_use && Log::of(&log).read == 0;
    if (in_use || quiet) && read(path, quiet, &mut found).is_ok() {
        return Ok(found);
    }
    found = Inspected { in_use, ..Inspected::default() };
    let salvaged = salvage(&content, &log);
    if salvaged.records.is_empty() && !content.starts_with(b"SQLite format 3\0") {
        return Err(format!("'{}' is no ledger of this version", path.display()));
    }
    for (_, record) in salvaged.records.values() {
        *(if record.job.status.is_active() { &mut found.active } else { &mut found.finished }) += 1;
    }
    found.damaged = usize::from(!in_use && Log::of(&log).unread > 0);
    Ok(found)
}

fn read(path: &Path, immutable: bool, found: &mut Inspected) -> rusqlite::Result<()> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let escaped = path.display().to_string().replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    let uri = format!("file:{escaped}{}", if immutable { "?immutable=1" } else { "?mode=ro" });
    let connection = Connection::open_with_flags(uri, flags)?;
    connection.busy_timeout(std::time::Duration::from_secs(2))?;
    let said: String = connection.query_row("PRAGMA quick_check('jobs')", [], |row| row.get(0))?;
    if said != "ok" {
        return Err(rusqlite::Error::InvalidQuery);
    }
    let mut statement = connection.prepare("SELECT record FROM jobs")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        match sealed::unseal(row.get_ref(0)?.as_bytes().unwrap_or_default()) {
            Some((_, record)) if record.job.status.is_active() => found.active += 1,
            Some(_) => found.finished += 1,
            None => found.damaged += 1,
        }
    }
    Ok(())
}
