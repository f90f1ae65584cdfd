//! What workers do with jobs: take the next one, say how far it is and what it stores, and end it. An end is in the store before
//! anybody hears of it.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::Jobs;
use crate::{
    Event, Input, JobHandle, MayStart, Object, Outcome,
    error::{Error, ErrorKind},
    state::Ending,
    store::{Change, Durability},
};

impl Jobs {
    /// Takes the next job that may start, by priority and then by age, of the background or not; waits until there is one, and
    /// until its start is stored. The job is running from here on.
    pub async fn take(&self, background: bool, may_start: MayStart<'_>) -> Arc<JobHandle> {
        self.tell_given_up().await;
        let (handle, written) = loop {
            let notified = self.work.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            {
                let mut state = self.state.lock();
                if let Some(handle) = state.start_next(background, may_start, self.clock.unix()) {
                    let written = self.note(&state, handle.id, Durability::Synced);
                    self.publish_queue(&state);
                    break (handle, written);
                }
            }
            notified.await;
        };
        // A job that ends the process or the machine at once must be found running.
        written.await;
        self.publish(&self.state.lock(), handle.id);
        handle
    }

    /// Lets waiting workers look again, as after a plugin was loaded or a limit was lifted.
    pub fn wake(&self) {
        self.work.notify_waiters();
    }

    /// Records the progress of a running job: `fraction` 0 to 1 and fields merged into `progress`. False where those would lead over
    /// [`MAX_DETAIL`](crate::MAX_DETAIL): then nothing is recorded.
    pub fn progress(&self, id: Uuid, fraction: f32, detail: Map<String, Value>) -> bool {
        let mut state = self.state.lock();
        if !state.detail_fits(id, &detail) {
            return false;
        }
        if state.progress(id, fraction, detail) {
            self.publish(&state, id);
        }
        true
    }

    /// Takes note that a running job has stored its work: crashes before this count no more.
    pub fn checkpoint(&self, id: Uuid) {
        let mut state = self.state.lock();
        if state.checkpoint(id) {
            drop(self.note(&state, id, Durability::Synced));
        }
    }

    /// Takes note that a job is about to store an output, so that the output goes when the job goes. Waits until that is stored.
    pub async fn stores(&self, job: &JobHandle, key: &str, bytes: u64) {
        let written = {
            let mut state = self.state.lock();
            let Some(n) = state.n(job.id) else { return };
            let object = Object { key: key.to_owned(), n, attempt: job.attempt, bytes };
            state.retention.stored(object.clone());
            self.store.write(Change::Object(object), Durability::Synced)
        };
        written.await;
    }

    /// The content of a file that a job was asked with; none where it was not.
    ///
    /// # Errors
    /// `Unavailable` when it can't be read.
    pub async fn input(&self, id: Uuid, upload: Uuid) -> Result<Option<(String, Bytes)>, Error> {
        let input = self.state.lock().input(id, upload).cloned();
        let Some(Input { media_type, sha256, .. }) = input else { return Ok(None) };
        let content = self.store.content(&sha256).await;
        let content = content.map_err(|why| {
            let error = format!("fileRef '{}' can't be read from the ledger: {why}", upload.simple());
            Error::new(ErrorKind::Unavailable, error)
        })?;
        Ok(Some((media_type, content)))
    }

    /// Ends a running job, or puts it back into the queue. Its end is stored before anybody is told; where the store fails, this
    /// waits until it does not.
    pub async fn finish(&self, id: Uuid, mut outcome: Outcome) {
        if let Outcome::Requeued = outcome {
            let mut state = self.state.lock();
            if !state.handle(id).is_some_and(|handle| handle.is_cancelled()) {
                if state.requeue(id) {
                    drop(self.note(&state, id, Durability::Written));
                    self.publish(&state, id);
                }
                return self.work.notify_waiters();
            }
            outcome = Outcome::Cancelled;
        }
        self.end(id, outcome).await;
    }

    /// Whether jobs of the background have to wait: while any other job is queued or running.
    pub fn foreground(&self) -> bool {
        self.foreground.load(Ordering::Relaxed) > 0
    }

    /// Tells jobs of the background to store their state and go back into the queue.
    pub fn stop_background(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether they were told so.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    pub(super) async fn end(&self, id: Uuid, outcome: Outcome) {
        let (ending, written) = {
            let mut state = self.state.lock();
            let Some(ending) = state.prepare_end(id, outcome, self.clock.unix(), self.served()) else {
                return;
            };
            let written = self.store.write(Change::Job(Box::new(ending.record.clone())), Durability::Synced);
            (ending, written)
        };
        written.await;
        self.ended(&ending);
    }

    /// Those that were given up end like others: when it is stored, and not before.
    async fn tell_given_up(&self) {
        loop {
            let Some((ending, written)) = self.given_up.lock().pop() else { return };
            written.await;
            self.ended(&ending);
        }
    }

    /// A job has ended, and its end is stored.
    fn ended(&self, ending: &Ending) {
        let mut state = self.state.lock();
        state.end(ending);
        self.publish(&state, ending.record.job.id);
        self.tell(&Event::Finished { job: ending.record.job.clone(), ran: ending.ran });
        ending.handle.finish();
        self.drop_outputs_of_earlier_attempts(&mut state, ending);
        drop(state);
        self.prune();
        // Those behind one that waited move up; one that ran had left the queue when it was taken.
        if ending.ran.is_none() {
            self.publish_queue(&self.state.lock());
        }
        self.work.notify_waiters();
    }
}
