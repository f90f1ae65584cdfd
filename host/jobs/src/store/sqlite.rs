//! The store that a server has for itself: a SQLite file, and a thread that alone works on it.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::{
    Answer, Change, Content, Disk, Durability, Everything, Health, Loaded, Record, Store,
    commit::{Command, Commands, Committer, Shared},
    database::{Database, Write},
    disk::Machine,
    rebuild,
};

/// Commands that go into one transaction, at most.
const BATCH: usize = 256;

/// Between two looks at whether the file is there and takes writes.
const LOOK: Duration = Duration::from_secs(1);

pub struct Sqlite {
    commands: Option<mpsc::UnboundedSender<Command>>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// Locks on the file itself, beside the one on its name: it may have several names. Dropped after the thread has closed it.
    _itself: Vec<File>,
}

impl Sqlite {
    /// Opens a file, or, with an empty path, a store that ends with the process.
    ///
    /// # Errors
    /// Those of [`Database::open`]; that it is no file.
    pub fn open(path: &Path, disk: Arc<dyn Disk>) -> Result<(Self, Loaded), String> {
        let mut itself = Vec::new();
        let (database, loaded) = if path.as_os_str().is_empty() {
            (Database::in_memory()?, Loaded::default())
        } else {
            let path = real(path)?;
            itself.extend(lock_itself(&path)?);
            let before = disk.identity(&path);
            let opened = Database::open(&path, disk.clone())?;
            // Another one, if it had to be made.
            if disk.identity(&path).ok() != before.ok() {
                itself.extend(lock_itself(&path)?);
            }
            opened
        };
        let (mut store, mut committer, mut receiver) = Self::without_thread(database);
        store.shared.health.lock().notes = loaded.notes.clone();
        store._itself = itself;
        committer.begin();
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
            let runtime = runtime.expect("a runtime that only waits");
            while let Some(commands) = runtime.block_on(next(&mut receiver)) {
                committer.step(commands);
            }
            committer.close();
        };
        let thread = reverie_crash::vital::thread("ledger", work);
        store.thread = Some(thread.map_err(|error| format!("the ledger's thread: {error}"))?);
        Ok((store, loaded))
    }

    /// One whose commands somebody else hands to the committer.
    pub fn without_thread(database: Database) -> (Self, Committer, mpsc::UnboundedReceiver<Command>) {
        let shared = Arc::new(Shared::default());
        let (commands, receiver) = mpsc::unbounded_channel();
        let committer = Committer::new(database, shared.clone());
        (Self { commands: Some(commands), shared, thread: None, _itself: Vec::new() }, committer, receiver)
    }

    fn send(&self, command: Command) {
        if let Some(commands) = &self.commands {
            // Fails when the thread has ended, as its answers then do.
            let _ = commands.send(command);
        }
    }
}

/// The file that a path leads to, whatever links are on the way: what lies beside it belongs to it, and not to one of its names.
fn real(path: &Path) -> Result<PathBuf, String> {
    let refuse = |why: &str| Err(format!("jobs.ledger '{}': {why}", path.display()));
    match fs::metadata(path) {
        // A device or a folder is not to be moved aside.
        Ok(found) if !found.is_file() => refuse("it is there, and no file"),
        Ok(_) => fs::canonicalize(path).or_else(|error| refuse(&error.to_string())),
        Err(error) if error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(path).is_ok() => {
            refuse("it is a link to a file that is not there")
        }
        Err(_) => Ok(path.to_owned()),
    }
}

/// Locks a file that is there. One that can't be opened or locked is left to what opens it next.
fn lock_itself(path: &Path) -> Result<Option<File>, String> {
    let Ok(file) = File::open(path) else { return Ok(None) };
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            let (shown, holder) = (path.display(), rebuild::holder(path, &Machine));
            Err(format!(
                "jobs.ledger '{shown}' is in use by another server{holder}, under this name or another"
            ))
        }
        Ok(()) | Err(TryLockError::Error(_)) => Ok(Some(file)),
    }
}

/// What is asked next; nothing after a while without any. None when nobody can ask any more.
async fn next(receiver: &mut mpsc::UnboundedReceiver<Command>) -> Option<Commands> {
    let mut commands = Vec::new();
    match tokio::time::timeout(LOOK, receiver.recv_many(&mut commands, BATCH)).await {
        Ok(0) => None,
        Ok(_) | Err(_) => Some(commands),
    }
}

const GONE: &str = "the ledger's thread has ended";

impl Store for Sqlite {
    fn accept(&self, record: Record, contents: Vec<Content>) -> Answer<Result<(), String>> {
        let (done, answer) = oneshot::channel();
        let write = Write { change: Change::Job(Box::new(record)), contents };
        self.send(Command::Accept { write, done });
        Box::pin(async { answer.await.unwrap_or_else(|_| Err(GONE.into())) })
    }

    fn write(&self, change: Change, durability: Durability) -> Answer<()> {
        let (done, answer) = oneshot::channel();
        self.send(Command::Write { change, durability, done });
        Box::pin(async {
            if answer.await.is_err() {
                // It is never stored, so that nobody may be told that it was.
                std::future::pending().await
            }
        })
    }

    fn content(&self, sha256: &str) -> Answer<Result<Bytes, String>> {
        let (done, answer) = oneshot::channel();
        self.send(Command::Content { sha256: sha256.to_owned(), done });
        Box::pin(async { answer.await.unwrap_or_else(|_| Err(GONE.into())) })
    }

    fn settled(&self) -> Answer<()> {
        let (done, answer) = oneshot::channel();
        self.send(Command::Settled(done));
        Box::pin(async {
            if answer.await.is_err() {
                std::future::pending().await
            }
        })
    }

    fn health(&self) -> Health {
        let mut health = self.shared.health.lock().clone();
        if self.thread.as_ref().is_some_and(JoinHandle::is_finished) {
            health.error = Some(GONE.into());
        }
        health
    }

    fn recover_with(&self, everything: Everything) {
        *self.shared.everything.lock() = Some(everything);
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
