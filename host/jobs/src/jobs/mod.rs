//! The jobs of a server: in memory, in the store, and as they are told. Each file here is a part of a job's life: [`submit`]
//! accepts it, [`run`] is what workers do with it, [`steer`] what its owner does to it, [`query`] what can be asked of it, and
//! [`restart`] takes it from one process to the next.

mod query;
mod restart;
mod run;
mod steer;
mod submit;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use reverie_memory::Budget;
use tokio::sync::Notify;
use uuid::Uuid;

pub use steer::check_priority;
pub use submit::{Given, Submitted, check_key};

use crate::{
    Clock, Config, Event,
    error::{Error, ErrorKind},
    refused::Refused,
    state::{Ending, State},
    store::{Answer, Change, Durability, Kept, Store},
    sweep::Sweep,
};

type Hook = Box<dyn Fn(&Event) + Send + Sync>;

/// The jobs of a server, and the queue.
pub struct Jobs {
    pub(crate) config: Config,
    memory: Arc<Budget>,
    pub(crate) state: Mutex<State>,
    work: Notify,
    /// Told when a key that was reserved is given back.
    keys: Notify,
    pub(crate) store: Box<dyn Store>,
    clock: Arc<dyn Clock>,
    /// What the store's clock said when it was opened.
    served_before: f64,
    pub(crate) sweep: Sweep,
    refused: Mutex<Refused>,
    /// Jobs that were given up when the store was opened, and when that is stored.
    given_up: Mutex<Vec<(Ending, Answer<()>)>>,
    hook: OnceLock<Hook>,
    /// Jobs queued or running that are not of the background: asked by those that are, at every step.
    foreground: AtomicUsize,
    stopping: AtomicBool,
}

impl Jobs {
    /// Sets the one listener. It is called with the jobs locked, so that events keep their order: it must neither wait nor call
    /// back.
    pub fn on_event(&self, hook: impl Fn(&Event) + Send + Sync + 'static) {
        assert!(self.hook.set(Box::new(hook)).is_ok(), "one hook");
    }

    /// Seconds that servers have run on the store.
    pub(crate) fn served(&self) -> f64 {
        self.served_before + self.clock.elapsed()
    }

    /// Drops jobs that are over what is kept.
    pub(crate) fn prune(&self) {
        let mut state = self.state.lock();
        let (jobs, objects) = state.retention.excess(&self.config, self.served());
        if !jobs.is_empty() {
            state.remove(&jobs);
            self.sweep.remove(jobs, objects);
        }
    }

    /// Has the record of a job stored as it is now.
    fn note(&self, state: &State, id: Uuid, durability: Durability) -> Answer<()> {
        match state.record(id) {
            Some(record) => self.store.write(Change::Job(Box::new(record)), durability),
            None => Box::pin(async {}),
        }
    }

    fn kept(&self) -> Kept {
        let state = self.state.lock();
        Kept {
            records: state.records(),
            objects: state.retention.objects().cloned().collect(),
            doomed: self.sweep.objects(),
            served: self.served(),
        }
    }

    /// Calls the listener. Its panic must not leave a job half started or half ended.
    fn tell(&self, event: &Event) {
        if let Some(hook) = self.hook.get()
            && catch_unwind(AssertUnwindSafe(|| hook(event))).is_err()
        {
            tracing::error!("the listener of jobs panicked");
        }
    }

    fn publish(&self, state: &State, id: Uuid) {
        self.count(state);
        if let Some(snapshot) = state.snapshot(id).filter(|_| self.hook.get().is_some()) {
            self.tell(&Event::Progress(snapshot));
        }
    }

    /// Tells every waiting job's followers its place, which has changed.
    fn publish_queue(&self, state: &State) {
        self.count(state);
        if self.hook.get().is_some() {
            for snapshot in state.queue_snapshots() {
                self.tell(&Event::Progress(snapshot));
            }
        }
    }

    fn count(&self, state: &State) {
        self.foreground.store(state.queued() + state.running(), Ordering::Relaxed);
    }
}

fn unwritten(error: String) -> Error {
    let error = format!("the job can't be stored: the ledger can't be written ({error}); try again later");
    Error::new(ErrorKind::Unavailable, error)
}

/// That there is no such job, or none any more.
pub fn unknown(id: Uuid) -> Error {
    Error::not_found(format!("no job '{id}' (unknown, or ended so long ago that it was dropped)"))
}
