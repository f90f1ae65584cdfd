//! The SQLite file: opened, read, changed. What it says is checked when it is opened; see [`super::rebuild`] for what happens
//! to a damaged one.

use std::{collections::HashMap, path::Path, sync::Arc};

use rusqlite::{Connection, ErrorCode, OptionalExtension as _, TransactionBehavior, params};

use super::{
    Change, Content, Durability, Kept, Loaded, Object, Record,
    contents::{self, Contents},
    disk::Disk,
    look,
    place::Place,
    rebuild, schema, sealed,
};

/// What a store that has failed must take before it is said to be well.
const PROBE_BYTES: u32 = 256 << 10;

/// Why a change was not made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// It can't be made, now or later.
    Refused(String),
    /// The file can't be written at the moment.
    Failing(String),
    /// The file is gone, another one, or damaged: it has to be made anew.
    Lost(String),
}

pub(super) enum Link {
    Open(Connection),
    /// To be opened again.
    Closed,
    /// To be made anew, because of this. A file that was deleted can still be read while it is open.
    Lost(String, Option<Connection>),
}

/// The jobs of one server in a SQLite file, or in memory.
pub struct Database {
    pub(super) place: Option<Place>,
    pub(super) link: Link,
    /// The number of the last record that was written.
    pub(super) seq: u64,
    pub(super) contents: Contents,
}

impl Database {
    /// One that ends with the process.
    ///
    /// # Errors
    /// What SQLite said.
    pub fn in_memory() -> Result<Self, String> {
        let link = (|| {
            let connection = Connection::open_in_memory()?;
            schema::migrate(&connection, 0)?;
            Ok::<_, rusqlite::Error>(Link::Open(connection))
        })();
        let link = link.map_err(|error| format!("SQLite in memory: {error}"))?;
        Ok(Self { place: None, link, seq: 0, contents: Contents::default() })
    }

    /// Opens a file, which is made where it is missing, and reads it. A ledger of earlier versions, `NAME.jsonl` beside
    /// `NAME.db`, is taken over into a new file, and kept. From a damaged file all is taken that is sound. Where the file
    /// can't be written, what is in it is read all the same.
    ///
    /// # Errors
    /// That another process has the file open, that it is none, or that a newer version of the program made it.
    pub fn open(path: &Path, disk: Arc<dyn Disk>) -> Result<(Self, Loaded), String> {
        rebuild::open(path, disk)
    }

    /// Makes changes, all or none.
    ///
    /// # Errors
    /// Why none was made.
    pub fn apply(&mut self, changes: &[&Write], durability: Durability) -> Result<(), Failure> {
        if let Err(error) = self.reopen() {
            return Err(self.failed(error));
        }
        match self.link {
            Link::Open(_) => {}
            Link::Closed => unreachable!("just opened"),
            Link::Lost(ref why, _) => return Err(Failure::Lost(why.clone())),
        }
        // Numbers are used once: the log may keep a record of a transaction that failed.
        self.transact(changes, durability).map_err(|error| self.failed(error))
    }

    /// The content of an input.
    ///
    /// # Errors
    /// That it is missing or damaged, or what SQLite said.
    pub fn content(&mut self, sha256: &str) -> Result<Vec<u8>, String> {
        self.reopen().map_err(|error| error.to_string())?;
        let Some(row) = self.contents.rows.get(sha256).copied() else {
            return Err("it is not in the ledger any more".into());
        };
        let Link::Open(connection) = &self.link else { return Err("the ledger can't be read".into()) };
        let read = connection.query_row("SELECT content FROM contents WHERE n = ?", [row], |row| row.get(0));
        let sealed: Vec<u8> = read.map_err(|error| error.to_string())?;
        match sealed::unseal_content(sealed) {
            Some((found, content)) if found == sha256 => Ok(content),
            _ => Err("it is damaged in the ledger".into()),
        }
    }

    /// Whether the file has to be made anew.
    pub fn is_lost(&self) -> bool {
        matches!(self.link, Link::Lost(..))
    }

    /// Looks whether the file that is open is still the one at its path.
    pub fn look(&mut self) {
        if let (Link::Open(_), Some(place)) = (&self.link, &mut self.place)
            && let Some(harm) = place.harm()
        {
            self.lose(harm);
        }
    }

    /// Puts the log into the file, before the end.
    pub fn close(&mut self) {
        self.look();
        if let Link::Open(connection) = &self.link {
            let _ = schema::checkpoint(connection);
        }
    }

    fn lose(&mut self, why: String) {
        self.link = match std::mem::replace(&mut self.link, Link::Closed) {
            Link::Open(connection) => Link::Lost(why, Some(connection)),
            _ => Link::Lost(why, None),
        };
    }

    fn reopen(&mut self) -> rusqlite::Result<()> {
        self.look();
        if let (Link::Closed, Some(place)) = (&self.link, &mut self.place) {
            match place.disk.identity(&place.path) {
                Ok(None) => self.lose("it was deleted while the server ran".into()),
                Ok(found) if place.identity.is_some() && found != place.identity => {
                    self.lose("it was replaced by another file while the server ran".into());
                }
                _ => {
                    place.take_lock()?;
                    let connection = schema::connect(&place.path, &*place.disk)?;
                    // What is written from now on must not end in front of frames that a failure has left.
                    let _ = schema::checkpoint(&connection);
                    self.contents.rows = look::contents(&connection)?.into_iter().collect();
                    self.link = Link::Open(connection);
                    place.opened();
                }
            }
        }
        Ok(())
    }

    /// Takes note of an error, and says what it means.
    fn failed(&mut self, error: rusqlite::Error) -> Failure {
        let said = error.to_string();
        match error.sqlite_error_code() {
            Some(ErrorCode::TooBig | ErrorCode::ConstraintViolation) => Failure::Refused(said),
            _ if schema::is_damage(&error) => {
                self.lose(format!("it is damaged ({said})"));
                Failure::Lost(said)
            }
            // In memory there is nothing to open again.
            _ if self.place.is_none() => Failure::Failing(said),
            _ => {
                if let Link::Open(_) = self.link {
                    self.link = Link::Closed;
                }
                Failure::Failing(said)
            }
        }
    }

    fn transact(&mut self, changes: &[&Write], durability: Durability) -> rusqlite::Result<()> {
        let Link::Open(connection) = &mut self.link else { unreachable!("opened by the caller") };
        let mode = if durability == Durability::Synced { "FULL" } else { "NORMAL" };
        connection.pragma_update(None, "synchronous", mode)?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Only taken over once the transaction is done.
        let mut added = Vec::new();
        let mut users: HashMap<u64, Vec<String>> = HashMap::new();
        for change in changes {
            for content in &change.contents {
                let known = |(sha256, _): &(String, i64)| *sha256 == content.sha256;
                if !self.contents.rows.contains_key(&content.sha256) && !added.iter().any(known) {
                    let row = insert_content(&transaction, &content.bytes)?;
                    added.push((content.sha256.clone(), row));
                }
            }
            make(&transaction, &change.change, &mut self.seq)?;
            match &change.change {
                Change::Job(record) => {
                    users.insert(record.n, contents::needed(record));
                }
                Change::Remove { jobs, .. } => users.extend(jobs.iter().map(|n| (*n, Vec::new()))),
                _ => {}
            }
        }
        let unneeded = self.contents.unneeded(&users, &added);
        for (_, row) in &unneeded {
            transaction.prepare_cached("DELETE FROM contents WHERE n = ?")?.execute([row])?;
        }
        transaction.commit()?;
        self.contents.take_over(users, added, unneeded);
        Ok(())
    }

    /// Takes note of what a file holds.
    pub(super) fn holds(&mut self, seq: u64, records: &[Record], contents: Vec<(String, i64)>) {
        self.seq = seq;
        self.contents = Contents::default();
        records.iter().for_each(|record| self.contents.need(record.n, contents::needed(record)));
        self.contents.rows = contents.into_iter().collect();
    }

    /// Contents that jobs need, so far as they can be had from a file that is still open.
    pub(super) fn remains(&mut self) -> HashMap<String, Vec<u8>> {
        let Link::Lost(_, Some(connection)) = &self.link else { return HashMap::new() };
        read_contents(connection)
    }
}

/// A change, with the contents that come with it.
#[derive(Debug, Clone)]
pub struct Write {
    pub change: Change,
    pub contents: Vec<Content>,
}

impl From<Change> for Write {
    fn from(change: Change) -> Self {
        Self { change, contents: Vec::new() }
    }
}

pub(super) fn make(connection: &Connection, change: &Change, seq: &mut u64) -> rusqlite::Result<()> {
    match change {
        Change::Job(record) => {
            *seq += 1;
            let mut statement = connection.prepare_cached(
                "INSERT INTO jobs (n, record) VALUES (?, ?) ON CONFLICT (n) DO UPDATE SET record = excluded.record",
            )?;
            statement.execute(params![record.n, sealed::seal(record, *seq)])?;
        }
        Change::Remove { jobs, objects } => {
            let mut delete = connection.prepare_cached("DELETE FROM jobs WHERE n = ?")?;
            for n in jobs {
                delete.execute([n])?;
            }
            drop(delete);
            make(connection, &Change::Doom(objects.clone()), seq)?;
        }
        Change::Object(object) => write_object(connection, object, false)?,
        Change::Doom(objects) => {
            for object in objects {
                write_object(connection, object, true)?;
            }
        }
        Change::Forget(keys) => {
            let mut delete = connection.prepare_cached("DELETE FROM objects WHERE key = ?")?;
            for key in keys {
                delete.execute([key])?;
            }
        }
        Change::Probe => {
            connection
                .prepare_cached("INSERT OR REPLACE INTO meta VALUES ('probe', zeroblob(?))")?
                .execute([PROBE_BYTES])?;
        }
        Change::Probed => {
            connection.prepare_cached("DELETE FROM meta WHERE name = 'probe'")?.execute([])?;
        }
        Change::Served(seconds) => {
            connection
                .prepare_cached("INSERT OR REPLACE INTO meta VALUES ('served', ?)")?
                .execute([stated(*seconds)])?;
        }
    }
    Ok(())
}

/// Seconds with their checksum.
fn stated(seconds: f64) -> String {
    format!("{seconds} {:08x}", crc32fast::hash(seconds.to_string().as_bytes()))
}

/// Seconds that servers have run on the store; 0 where that is damaged or missing.
pub(super) fn served(connection: &Connection) -> rusqlite::Result<f64> {
    let query = "SELECT value FROM meta WHERE name = 'served'";
    let text: Option<String> = connection.query_row(query, [], |row| row.get(0)).optional()?;
    let seconds = |text: &str| text.split(' ').next()?.parse().ok();
    let sound = |text: String| seconds(&text).filter(|seconds| stated(*seconds) == text);
    Ok(text.and_then(sound).unwrap_or(0.0))
}

pub(super) fn insert_content(connection: &Connection, content: &[u8]) -> rusqlite::Result<i64> {
    let mut statement = connection.prepare_cached("INSERT INTO contents (content) VALUES (?)")?;
    statement.execute([sealed::seal_content(content)])?;
    Ok(connection.last_insert_rowid())
}

pub(super) fn write_object(connection: &Connection, object: &Object, doomed: bool) -> rusqlite::Result<()> {
    let Object { key, n, attempt, bytes } = object;
    let mut statement =
        connection.prepare_cached("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?, ?)")?;
    statement.execute(params![key, n, attempt, bytes, doomed, checksum(object, doomed)])?;
    Ok(())
}

fn checksum(object: &Object, doomed: bool) -> u32 {
    let Object { key, n, attempt, bytes } = object;
    crc32fast::hash(format!("{key} {n} {attempt} {bytes} {doomed}").as_bytes())
}

/// All contents that can be read.
pub(super) fn read_contents(connection: &Connection) -> HashMap<String, Vec<u8>> {
    let read = || {
        let mut statement = connection.prepare("SELECT content FROM contents")?;
        let rows = statement.query_map([], |row| row.get(0))?;
        Ok::<_, rusqlite::Error>(rows.filter_map(Result::ok).filter_map(sealed::unseal_content).collect())
    };
    read().unwrap_or_default()
}

/// The outputs in the file, those to be deleted, and how many rows are damaged.
pub(super) fn read_objects(connection: &Connection, kept: &mut Kept) -> rusqlite::Result<usize> {
    let mut damaged = 0;
    let mut statement = connection.prepare("SELECT key, n, attempt, bytes, doomed, crc FROM objects")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let read = || {
            let object =
                Object { key: row.get(0)?, n: row.get(1)?, attempt: row.get(2)?, bytes: row.get(3)? };
            Ok::<_, rusqlite::Error>((object, row.get::<_, bool>(4)?, row.get::<_, u32>(5)?))
        };
        match read() {
            Ok((object, doomed, crc)) if crc == checksum(&object, doomed) => match doomed {
                true => kept.doomed.push(object),
                false => kept.objects.push(object),
            },
            _ => damaged += 1,
        }
    }
    Ok(damaged)
}
