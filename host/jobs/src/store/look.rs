//! What is in a file that may be damaged.

use std::{io, path::Path};

use rusqlite::{Connection, ErrorCode};

use super::{Kept, Record, database, disk::Disk, image, schema, sealed, swap::log_of};

/// What a look at a file found.
pub enum Look {
    Sound(Box<Sound>),
    Damaged(Vec<String>),
}

pub struct Sound {
    pub connection: Connection,
    /// Whether the connection is to the file, or to what was read of it.
    pub is_file: bool,
    /// The number of the newest record.
    pub seq: u64,
    pub kept: Kept,
    pub contents: Vec<(String, i64)>,
}

/// Opens a file and reads all of it but contents. Where it can't be opened now, what was read of it is looked at.
pub fn look(path: &Path, disk: &dyn Disk, log: &[u8], notes: &mut Vec<String>) -> Result<Look, String> {
    // SQLite would delete its log.
    if disk.length(path).is_ok_and(|length| length == 0) {
        return Ok(Look::Damaged(vec!["it is empty".into()]));
    }
    let looked = match schema::open_as_it_is(path, disk) {
        Ok(connection) => examine(path, connection, Some(disk))?,
        Err(error) => Err(error),
    };
    let looked = match looked {
        Err(error) if schema::is_failing(&error) => {
            notes.push(format!("it can't be opened for writing: {error}"));
            let file = disk.read(path).map_err(|error| unreadable(path, error))?;
            match image::open(&file, log) {
                Ok(connection) => examine(path, connection, None)?,
                Err(error) => Err(error),
            }
        }
        looked => looked,
    };
    Ok(looked.unwrap_or_else(|error| Look::Damaged(vec![format!("it can't be opened: {error}")])))
}

/// Reads all of a file but contents, and takes it into use if it is sound and on a disk. What the disk fails with is no damage,
/// and the inner error.
fn examine(
    path: &Path,
    connection: Connection,
    disk: Option<&dyn Disk>,
) -> Result<rusqlite::Result<Look>, String> {
    let version = match schema::version(&connection) {
        Ok(version) => version,
        Err(error) => return Ok(Err(error)),
    };
    if version > schema::VERSION {
        return Err(format!(
            "jobs.ledger '{}' was made by a newer version of this program (its version {version}, here {})",
            path.display(),
            schema::VERSION
        ));
    }
    let mut notes = Vec::new();
    let mut kept = Kept::default();
    Ok(match read(&connection, &mut kept, &mut notes) {
        Ok((seq, contents)) if notes.is_empty() => {
            let taken = disk.map_or(Ok(()), |disk| schema::take_into_use(&connection, path, disk));
            let is_file = disk.is_some();
            taken.map(|()| Look::Sound(Box::new(Sound { connection, is_file, seq, kept, contents })))
        }
        Ok(_) => Ok(Look::Damaged(notes)),
        Err(error) if schema::is_failing(&error) => Err(error),
        Err(error) => {
            notes.push(format!("SQLite can't read it: {error}"));
            Ok(Look::Damaged(notes))
        }
    })
}

pub fn unreadable(path: &Path, error: impl std::fmt::Display) -> String {
    format!("jobs.ledger '{}' can't be read: {error}", path.display())
}

pub fn read_log(path: &Path, disk: &dyn Disk) -> Result<Option<Vec<u8>>, String> {
    match disk.read(&log_of(path)) {
        Ok(log) => Ok(Some(log)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(path, error)),
    }
}

fn read(
    connection: &Connection,
    kept: &mut Kept,
    notes: &mut Vec<String>,
) -> rusqlite::Result<(u64, Vec<(String, i64)>)> {
    let said = schema::check(connection)?;
    if said != "ok" {
        notes.push(format!("SQLite says: {}", said.replace('\n', "; ")));
    }
    if schema::schema(connection)? != schema::intended_schema()? {
        notes.push("the description of its tables is damaged".into());
    }
    let mut statement = connection.prepare("SELECT n, record FROM jobs ORDER BY n")?;
    let mut rows = statement.query([])?;
    let mut newest = 0;
    while let Some(row) = rows.next()? {
        let n: u64 = row.get(0)?;
        match sealed::unseal(row.get_ref(1)?.as_bytes().unwrap_or_default()) {
            Some((seq, record)) if record.n == n => {
                newest = newest.max(seq);
                kept.records.push(record);
            }
            _ => notes.push(format!("the record of job number {n} is damaged")),
        }
    }
    let damaged = database::read_objects(connection, kept)?;
    if damaged > 0 {
        notes.push(format!(
            "{damaged} entries of the list of outputs are damaged: those outputs are never deleted"
        ));
    }
    kept.served = database::served(connection)?.max(served_at_least(&kept.records));
    let contents = contents(connection)?;
    let rows: usize = connection.query_row("SELECT count(*) FROM contents", [], |row| row.get(0))?;
    if rows > contents.len() {
        notes.push(format!("{} content(s) of inputs are damaged", rows - contents.len()));
    }
    Ok((newest, contents))
}

/// The store's clock said this when the last of the jobs ended.
pub fn served_at_least(records: &[Record]) -> f64 {
    records.iter().filter_map(|record| record.ended_at).fold(0.0, f64::max)
}

/// SHA-256 and row of each content, from the head of it.
pub fn contents(connection: &Connection) -> rusqlite::Result<Vec<(String, i64)>> {
    let mut statement = connection.prepare("SELECT n, substr(content, 1, ?) FROM contents")?;
    let rows = statement.query_map([sealed::CONTENT_HEAD], |row| {
        let sha256 = row.get_ref(1)?.as_bytes().ok().and_then(sealed::stated_sha256);
        Ok(sha256.zip(row.get(0).ok()))
    })?;
    let mut found = Vec::new();
    for row in rows {
        match row {
            Ok(row) => found.extend(row),
            // A damaged one is missing to the job that needs it, and to no other.
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// The list of outputs of a damaged file, so far as SQLite can read it.
pub fn side_tables(path: &Path, disk: &dyn Disk, log: &[u8]) -> Kept {
    let mut kept = Kept::default();
    if disk.length(path).is_ok_and(|length| length == 0) {
        return kept;
    }
    let opened = schema::open_as_it_is(path, disk).ok();
    // A file whose head is damaged may be readable as an image, which gets some of its head anew.
    let opened = opened.or_else(|| image::open(&disk.read(path).ok()?, log).ok());
    if let Some(connection) = opened {
        let _ = database::read_objects(&connection, &mut kept);
        kept.served = database::served(&connection).unwrap_or(0.0);
    }
    kept
}
