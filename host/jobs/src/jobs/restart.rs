//! From one process to the next: what an earlier one left is taken up, and what the next is to take up is left.

use std::{
    collections::HashSet,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicUsize},
    },
    time::Duration,
};

use parking_lot::Mutex;
use reverie_memory::Budget;
use tokio::sync::Notify;
use uuid::Uuid;

use super::Jobs;
use crate::{
    Clock, Config, Outcome,
    error::Error,
    state::{Restored, State},
    store::{Change, Durability, Kept, Loaded, Store},
    sweep::Sweep,
};

/// The part of the memory that jobs which have ended may have.
const FOR_ENDED: usize = 4;

impl Jobs {
    /// Takes up what an earlier process left in its store: jobs that have ended can be asked for, others are queued again, or
    /// recorded as failed after `jobs.max_attempts` or `jobs.max_interruptions`. `at_fault` are the jobs that are known to have
    /// ended that process.
    pub fn open(
        mut config: Config,
        store: Box<dyn Store>,
        loaded: Loaded,
        clock: Arc<dyn Clock>,
        at_fault: &HashSet<Uuid>,
        memory: Arc<Budget>,
    ) -> Arc<Self> {
        // Those that have ended must not take the room of new ones.
        let most = (memory.limit() / FOR_ENDED) >> 20;
        config.keep_records_mb = match config.keep_records_mb {
            0 => most.max(1),
            given => given.min(most.max(1)),
        };
        let mut state = State::default();
        let Kept { records, objects, doomed, served } = loaded.kept;
        let mut given_up = Vec::new();
        for record in records {
            let id = record.job.id;
            match state.restore(record, at_fault.contains(&id), &config, &memory) {
                Restored::AsItWas => {}
                Restored::Again => {
                    let record = state.record(id).expect("just restored");
                    drop(store.write(Change::Job(Box::new(record)), Durability::Written));
                }
                Restored::GivenUp(why) => {
                    let outcome = Outcome::Failed(Error::internal(why));
                    let ending = state.prepare_end(id, outcome, clock.unix(), served).expect("just restored");
                    let record = Box::new(ending.record.clone());
                    given_up.push((ending, store.write(Change::Job(record), Durability::Synced)));
                }
            }
        }
        for object in objects {
            state.retention.stored(object);
        }
        let jobs = Arc::new_cyclic(|weak: &Weak<Self>| {
            let weak = weak.clone();
            store.recover_with(Box::new(move || weak.upgrade().map(|jobs| jobs.kept()).unwrap_or_default()));
            Self {
                config,
                memory,
                state: Mutex::new(state),
                work: Notify::new(),
                keys: Notify::new(),
                store,
                clock,
                served_before: served,
                sweep: Sweep::new(doomed),
                refused: Mutex::default(),
                given_up: Mutex::new(given_up),
                hook: OnceLock::new(),
                foreground: AtomicUsize::new(0),
                stopping: AtomicBool::new(false),
            }
        });
        jobs.prune();
        jobs.count(&jobs.state.lock());
        jobs
    }

    /// Waits until nothing runs, at most `grace`. True when nothing does.
    pub async fn drained(&self, grace: Duration) -> bool {
        let deadline = tokio::time::Instant::now() + grace;
        while self.figures().1 + self.background().1 > 0 {
            if tokio::time::Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        true
    }

    /// Stores what is left to be stored, at the end of the process: jobs that still run are to be taken up at the next start.
    pub async fn close(&self) {
        for record in self.state.lock().interrupt() {
            drop(self.store.write(Change::Job(Box::new(record)), Durability::Synced));
        }
        drop(self.store.write(Change::Served(self.served()), Durability::Synced));
        self.store.settled().await;
    }
}
