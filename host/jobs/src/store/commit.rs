//! What the store's thread does with what it is asked: changes that come together go into one transaction, and those that must
//! not be lost are tried until they are stored.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{
    Change, Durability, Everything, Health,
    database::{Database, Failure, Write},
};

/// What is asked of the store.
pub enum Command {
    /// Tried once.
    Accept {
        write: Write,
        done: oneshot::Sender<Result<(), String>>,
    },
    /// Tried until it is done.
    Write {
        change: Change,
        durability: Durability,
        done: oneshot::Sender<()>,
    },
    Content {
        sha256: String,
        done: oneshot::Sender<Result<Bytes, String>>,
    },
    Settled(oneshot::Sender<()>),
}

/// Notes that are kept, the newest ones.
const MAX_NOTES: usize = 20;

pub type Commands = Vec<Command>;

/// What the store's thread and those who ask it share.
#[derive(Default)]
pub struct Shared {
    pub health: Mutex<Health>,
    pub everything: Mutex<Option<Everything>>,
}

/// The work of the store's thread, without the thread.
pub struct Committer {
    database: Database,
    shared: Arc<Shared>,
    /// What is to be written, in its order.
    queue: Vec<Item>,
}

struct Item {
    write: Write,
    durability: Durability,
    done: Done,
}

enum Done {
    Once(oneshot::Sender<Result<(), String>>),
    Until(oneshot::Sender<()>),
}

impl Committer {
    pub fn new(database: Database, shared: Arc<Shared>) -> Self {
        Self { database, shared, queue: Vec::new() }
    }

    /// Sees whether the store can be written, before anybody relies on it.
    pub fn begin(&mut self) {
        match self.database.apply(&[&Change::Probe.into()], Durability::Synced) {
            Ok(()) => {
                self.try_change(Change::Probed);
            }
            Err(Failure::Failing(error) | Failure::Refused(error)) => self.fail(&error),
            // The next look makes it anew.
            Err(Failure::Lost(_)) => {}
        }
    }

    /// Whether there is something to be tried again.
    pub fn is_behind(&self) -> bool {
        !self.queue.is_empty() || self.shared.health.lock().error.is_some()
    }

    /// Does what it is asked, and what is left from before. With nothing to do it looks whether the file is still there, and
    /// whether it can be written again.
    pub fn step(&mut self, commands: Commands) {
        let mut questions = Vec::new();
        for command in commands {
            match command {
                Command::Accept { write, done } => {
                    let (durability, done) = (Durability::Synced, Done::Once(done));
                    self.queue.push(Item { write, durability, done });
                }
                Command::Write { change, durability, done } => {
                    self.queue.push(Item { write: change.into(), durability, done: Done::Until(done) });
                }
                question => questions.push(question),
            }
        }
        self.write();
        for question in questions {
            match question {
                Command::Content { sha256, done } => {
                    let _ = done.send(self.database.content(&sha256).map(Bytes::from));
                }
                Command::Settled(done) => drop(done.send(())),
                Command::Accept { .. } | Command::Write { .. } => unreachable!("queued above"),
            }
        }
    }

    /// Puts all in order for the end of the process.
    pub fn close(&mut self) {
        self.write();
        self.database.close();
    }

    fn write(&mut self) {
        let probe = [Write::from(Change::Probe)];
        let idle = self.queue.is_empty();
        if idle && self.shared.health.lock().error.is_none() {
            self.database.look();
            if !self.database.is_lost() {
                return;
            }
        }
        let durability = self.queue.iter().map(|item| item.durability).max().unwrap_or(Durability::Synced);
        loop {
            let writes: Vec<&Write> = match idle {
                true => probe.iter().collect(),
                false => self.queue.iter().map(|item| &item.write).collect(),
            };
            match self.database.apply(&writes, durability) {
                Ok(()) => return self.written(idle),
                Err(Failure::Refused(_)) => return self.write_one_by_one(),
                Err(Failure::Failing(error)) => return self.fail(&error),
                Err(Failure::Lost(why)) => {
                    if let Err(error) = self.recover(&why) {
                        return self.fail(&error);
                    }
                }
            }
        }
    }

    fn written(&mut self, probed: bool) {
        // Whoever is told that a change is stored finds the store well, unless it takes no more than that.
        if self.shared.health.lock().error.is_some() && (probed || self.try_change(Change::Probe)) {
            let cleared = self.try_change(Change::Probed);
            if cleared && self.shared.health.lock().error.take().is_some() {
                tracing::info!("the ledger takes writes again");
            }
        }
        for item in self.queue.drain(..) {
            item.done.tell(Ok(()));
        }
    }

    fn try_change(&mut self, change: Change) -> bool {
        self.database.apply(&[&change.into()], Durability::Synced).is_ok()
    }

    /// One of the changes can't be made; the others can. Where one has to wait, those after it wait too: an older record must not
    /// come after a newer one.
    fn write_one_by_one(&mut self) {
        let mut items = std::mem::take(&mut self.queue).into_iter();
        while let Some(item) = items.next() {
            match self.database.apply(&[&item.write], item.durability) {
                Ok(()) => item.done.tell(Ok(())),
                Err(Failure::Refused(error)) => {
                    tracing::error!(error, change = ?item.write.change, "the ledger can't take this change");
                    item.done.tell(Err(error));
                }
                Err(Failure::Failing(_) | Failure::Lost(_)) => {
                    self.queue.push(item);
                    self.queue.extend(items);
                    return;
                }
            }
        }
    }

    /// What must be stored waits; what is tried once is answered.
    fn fail(&mut self, error: &str) {
        if self.shared.health.lock().error.replace(error.to_owned()).as_deref() != Some(error) {
            tracing::error!(error, "the ledger can't be written; it is tried again every second");
        }
        for item in std::mem::take(&mut self.queue) {
            match item.done {
                Done::Once(_) => item.done.tell(Err(error.to_owned())),
                Done::Until(_) => self.queue.push(item),
            }
        }
    }

    fn recover(&mut self, why: &str) -> Result<(), String> {
        let kept = match &*self.shared.everything.lock() {
            Some(everything) => everything(),
            None => return Err(why.to_owned()),
        };
        self.database.rebuild(&kept).map_err(|error| format!("{why}, and it can't be made anew: {error}"))?;
        let note = format!("{why}; it was made anew with the {} job(s) in memory", kept.records.len());
        tracing::error!("the ledger: {note}");
        let mut health = self.shared.health.lock();
        health.notes.push(note);
        let excess = health.notes.len().saturating_sub(MAX_NOTES);
        health.notes.drain(..excess);
        Ok(())
    }
}

impl Done {
    fn tell(self, result: Result<(), String>) {
        match self {
            // Whoever asked may have gone.
            Self::Once(done) => drop(done.send(result)),
            Self::Until(done) => drop(done.send(())),
        }
    }
}
