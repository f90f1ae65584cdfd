//! Outputs that go when their jobs go. That they are to be deleted is stored before the first of them is, and forgotten after
//! the last, so that a crash in between leaves none behind.

use std::{collections::HashSet, future::Future, mem, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{
    Jobs, Object,
    state::{Ending, State},
    store::{Change, Durability},
};

/// Outputs deleted between two changes of the store.
const BATCH: usize = 256;

/// What is to be deleted.
pub struct Sweep {
    due: Mutex<Due>,
    more: Notify,
}

#[derive(Default)]
struct Due {
    /// Jobs that the store has to drop, with their outputs.
    jobs: Vec<u64>,
    objects: Vec<Object>,
    /// Outputs that the store knows to be deleted.
    doomed: Vec<Object>,
}

impl Sweep {
    pub fn new(doomed: Vec<Object>) -> Self {
        Self { due: Mutex::new(Due { doomed, ..Due::default() }), more: Notify::new() }
    }

    /// Jobs that are dropped, and their outputs.
    pub fn remove(&self, jobs: Vec<u64>, objects: Vec<Object>) {
        let mut due = self.due.lock();
        due.jobs.extend(jobs);
        due.objects.extend(objects);
        self.more.notify_one();
    }

    /// Those of a job that the store does not know to be deleted.
    pub fn of(&self, n: u64) -> Vec<Object> {
        self.due.lock().objects.iter().filter(|object| object.n == n).cloned().collect()
    }

    /// All of them.
    pub fn objects(&self) -> Vec<Object> {
        let due = self.due.lock();
        due.objects.iter().chain(&due.doomed).cloned().collect()
    }
}

impl Jobs {
    /// Outputs that an earlier attempt has stored and this one does not name. What a background job stored once it may still
    /// need.
    pub(crate) fn drop_outputs_of_earlier_attempts(&self, state: &mut State, ending: &Ending) {
        let (handle, outputs) = (&ending.handle, &ending.record.job.outputs);
        if handle.spec.background {
            return;
        }
        let stale = |object: &Object| {
            object.attempt < handle.attempt && !outputs.iter().any(|output| output.key == object.key)
        };
        let objects = state.retention.take_objects(ending.n, stale);
        if !objects.is_empty() {
            self.sweep.remove(Vec::new(), objects);
        }
    }

    /// Drops jobs by their age, and stores how long servers have run; to be called now and then.
    pub fn tick(&self) {
        self.prune();
        drop(self.store.write(Change::Served(self.served()), Durability::Written));
    }

    /// The keys of the outputs of all jobs, and of those that are still to be deleted.
    pub fn output_keys(&self) -> HashSet<String> {
        let mut keys: HashSet<String> =
            self.state.lock().retention.objects().map(|object| object.key.clone()).collect();
        keys.extend(self.sweep.objects().into_iter().map(|object| object.key));
        keys
    }

    /// Deletes outputs, for ever. `delete` is asked for each; one that fails is asked for again at the next start.
    pub async fn sweep<F: Future<Output = Result<(), String>>>(
        self: Arc<Self>,
        mut delete: impl FnMut(String) -> F,
    ) {
        loop {
            self.sweep_once(&mut delete).await;
            self.sweep.more.notified().await;
        }
    }

    /// Deletes the outputs that are to be deleted by now.
    pub async fn sweep_once<F: Future<Output = Result<(), String>>>(
        &self,
        delete: &mut impl FnMut(String) -> F,
    ) {
        let (jobs, objects) = {
            let mut due = self.sweep.due.lock();
            let Due { jobs, objects, doomed } = &mut *due;
            let taken = (mem::take(jobs), objects.clone());
            // In both lists at no time, and in one at all times: the store may ask.
            doomed.append(objects);
            taken
        };
        if !jobs.is_empty() || !objects.is_empty() {
            self.store.write(Change::Remove { jobs, objects }, Durability::Synced).await;
        }
        let doomed: Vec<Object> = self.sweep.due.lock().doomed.clone();
        for batch in doomed.chunks(BATCH) {
            let mut gone = Vec::new();
            for object in batch {
                match delete(object.key.clone()).await {
                    Ok(()) => gone.push(object.key.clone()),
                    Err(error) => tracing::warn!(key = object.key, error, "an output can't be deleted"),
                }
            }
            self.sweep.due.lock().doomed.retain(|object| !gone.contains(&object.key));
            self.store.write(Change::Forget(gone), Durability::Written).await;
        }
    }
}
