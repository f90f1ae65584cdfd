//! The tables of the file, and connections to it.

use std::path::Path;

use rusqlite::{Connection, ErrorCode, OpenFlags, config::DbConfig, ffi};

use super::{
    disk::Disk,
    pages::PAGE,
    swap::{folder_of, log_of},
};

/// What made each version of the file from the one before.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE jobs (
        n INTEGER PRIMARY KEY,
        record TEXT NOT NULL,
        id TEXT AS (record ->> '$.job.id'),
        type TEXT AS (record ->> '$.job.job_type'),
        owner TEXT AS (record ->> '$.job.owner'),
        status TEXT AS (record ->> '$.job.status'),
        created REAL AS (record ->> '$.job.created')
    );
    CREATE TABLE contents (n INTEGER PRIMARY KEY, content BLOB NOT NULL);
    CREATE TABLE objects (
        key TEXT PRIMARY KEY, n INTEGER NOT NULL, attempt INTEGER NOT NULL, bytes INTEGER NOT NULL,
        doomed INTEGER NOT NULL, crc INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"];

/// Opens a file and brings it to the newest version.
pub fn connect(path: &Path, disk: &dyn Disk) -> rusqlite::Result<Connection> {
    let connection = open_as_it_is(path, disk)?;
    take_into_use(&connection, path, disk)?;
    Ok(connection)
}

/// Opens a file that may be damaged: neither this nor reading it or closing it changes the file or its log.
///
/// # Errors
/// Those of SQLite and of the disk. One of a damaged file, where the disk lets it be written and its head does not.
pub fn open_as_it_is(path: &Path, disk: &dyn Disk) -> rusqlite::Result<Connection> {
    // A sync that failed, in this process or one before, may have left behind a log of which only the system's memory has all:
    // nothing may be written behind that.
    disk.write_again(&log_of(path)).map_err(unsynced)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = match disk.vfs() {
        Some(vfs) => Connection::open_with_flags_and_vfs(path, flags, vfs)?,
        None => Connection::open_with_flags(path, flags)?,
    };
    let may_write = !connection.is_readonly("main")?;
    set_up(&connection)?;
    // Reading the file's head is part of that: from then on, a head that names a newer format makes SQLite refuse to write.
    if may_write && connection.is_readonly("main")? {
        let corrupt = ffi::Error::new(ffi::SQLITE_CORRUPT);
        let why = "its head says that it may not be written".to_owned();
        return Err(rusqlite::Error::SqliteFailure(corrupt, Some(why)));
    }
    Ok(connection)
}

pub fn take_into_use(connection: &Connection, path: &Path, disk: &dyn Disk) -> rusqlite::Result<()> {
    // Refuses a folder that takes no files before anything relies on it.
    use_log(connection)?;
    migrate(connection, version(connection)?)?;
    // SQLite does so too, but does not say when it fails: the log would be lost with its name.
    disk.sync_folder(folder_of(path)).map_err(unsynced)
}

/// Has SQLite use a write-ahead log. What it does without one would not survive a loss of power.
fn use_log(connection: &Connection) -> rusqlite::Result<()> {
    let mut statement = connection.prepare("PRAGMA journal_mode = WAL")?;
    let mut rows = statement.query([])?;
    let mut mode = String::new();
    // It says what it will do, and only at the end whether it was done.
    while let Some(row) = rows.next()? {
        mode = row.get(0)?;
    }
    match mode.as_str() {
        "wal" => Ok(()),
        _ => Err(unsynced(std::io::Error::other(format!("no write-ahead log, but mode '{mode}'")))),
    }
}

fn unsynced(error: std::io::Error) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_IOERR_FSYNC), Some(error.to_string()))
}

/// Puts the log into the file, and empties it.
pub fn checkpoint(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "wal_checkpoint", "TRUNCATE")
}

pub fn set_up(connection: &Connection) -> rusqlite::Result<()> {
    // A damaged file stays as it is; [`checkpoint`] says when the log goes into the file.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.set_prepared_statement_cache_capacity(32);
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    for (name, value) in [
        // Before there is a log, the end of a transaction is the removal of a file, which is synced only so.
        ("synchronous", "EXTRA"),
        // What is deleted does not come back out of a damaged file.
        ("secure_delete", "ON"),
        ("cell_size_check", "ON"),
        ("trusted_schema", "OFF"),
        ("temp_store", "MEMORY"),
        // Bytes to which the log is cut back.
        ("journal_size_limit", "67108864"),
        // On macOS: what is synced is on the disk and not in its memory.
        ("fullfsync", "ON"),
        ("checkpoint_fullfsync", "ON"),
    ] {
        connection.pragma_update(None, name, value)?;
    }
    Ok(())
}

pub fn create(path: &Path, disk: &dyn Disk) -> rusqlite::Result<Connection> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = match disk.vfs() {
        Some(vfs) => Connection::open_with_flags_and_vfs(path, flags, vfs)?,
        None => Connection::open_with_flags(path, flags)?,
    };
    connection.pragma_update(None, "page_size", PAGE as u32)?;
    set_up(&connection)?;
    migrate(&connection, 0)?;
    Ok(connection)
}

/// How many migrations a file has had. It says so twice.
///
/// # Errors
/// That of SQLite; one of a damaged file, where it does not say one number.
pub fn version(connection: &Connection) -> rusqlite::Result<usize> {
    let text: String =
        connection.query_row("SELECT value FROM meta WHERE name = 'version'", [], |row| row.get(0))?;
    let number: usize = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if text == number.to_string() { Ok(number) } else { Err(rusqlite::Error::InvalidQuery) }
}

/// What the tables are.
pub fn schema(connection: &Connection) -> rusqlite::Result<Vec<(String, Option<String>)>> {
    let mut statement = connection.prepare("SELECT name, sql FROM sqlite_schema ORDER BY name")?;
    statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

/// What they are to be.
pub fn intended_schema() -> rusqlite::Result<Vec<(String, Option<String>)>> {
    let connection = Connection::open_in_memory()?;
    migrate(&connection, 0)?;
    schema(&connection)
}

pub fn migrate(connection: &Connection, from: usize) -> rusqlite::Result<()> {
    for (number, migration) in (1..).zip(MIGRATIONS).skip(from) {
        let set = format!(
            "INSERT OR REPLACE INTO meta VALUES ('version', '{number}'); PRAGMA user_version = {number}"
        );
        connection.execute_batch(&format!("BEGIN IMMEDIATE; {migration}; {set}; COMMIT;"))?;
    }
    Ok(())
}

/// The newest version.
pub const VERSION: usize = MIGRATIONS.len();

/// How SQLite's check says that the disk did not give a page (`SQLITE_IOERR_READ`).
const FAILED_READ: &str = "error code=266";

/// Whether an error says nothing of what the file holds.
pub fn is_failing(error: &rusqlite::Error) -> bool {
    use ErrorCode::*;
    let failing = [
        DiskFull,
        ReadOnly,
        SystemIoFailure,
        CannotOpen,
        PermissionDenied,
        DatabaseBusy,
        DatabaseLocked,
        OutOfMemory,
    ];
    !is_damage(error) && error.sqlite_error_code().is_some_and(|code| failing.contains(&code))
}

/// Whether an error says that the file does not hold what it should.
pub fn is_damage(error: &rusqlite::Error) -> bool {
    let Some(error) = error.sqlite_error() else { return false };
    matches!(error.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
        // It ends too early.
        || error.extended_code == ffi::SQLITE_IOERR_SHORT_READ
}

/// What SQLite says of the file, with the list of free pages: one that is in use all the same would be overwritten.
///
/// # Errors
/// That of the disk, if it does not give what the file holds.
pub fn check(connection: &Connection) -> rusqlite::Result<String> {
    let said: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if said.contains(FAILED_READ) {
        let failed = ffi::Error::new(ffi::SQLITE_IOERR_READ);
        return Err(rusqlite::Error::SqliteFailure(failed, Some(said)));
    }
    Ok(said)
}
