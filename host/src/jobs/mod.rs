//! Jobs: accepted once, never forgotten. A job is in the ledger before its acknowledgement leaves; every change of it is
//! published through one hook, from whichever thread makes the change.

mod described;
mod journal;
mod record;
mod refused;
mod reservation;
mod state;

use std::{
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Map, Value};
use tokio::sync::{Notify, watch};
use uuid::Uuid;

use crate::{
    config,
    error::{Error, ErrorKind},
    metrics::Metrics,
};

pub use described::Described;
use journal::Journal;
pub use journal::{Inspected, inspect};
pub use record::{JobHandle, Output, Snapshot, Spec, Status, now};
use refused::Refused;
use reservation::Reservation;
use state::{Finish, State};

/// The range of `priority`; 0 unless given, higher runs first.
pub const PRIORITIES: std::ops::RangeInclusive<i64> = -100..=100;

/// A change of a job that clients hear of.
#[derive(Debug, Clone)]
pub enum Event {
    /// Any mutation.
    Progress(Snapshot),
    /// The end; preceded by a last `Progress`.
    Finished(Snapshot),
}

/// How a job ended.
#[derive(Debug, Clone)]
pub enum Outcome {
    Done {
        outputs: Vec<Output>,
        meta: Map<String, Value>,
    },
    Failed(Error),
    Cancelled,
    /// Not ended: back into the queue.
    Requeued,
}

type Hook = Box<dyn Fn(&Event) + Send + Sync>;

/// What a worker asks before it takes a job: whether this type may start now, given how many of it run.
pub type MayStart<'a> = &'a (dyn Fn(&str, &dyn Fn(&str) -> usize) -> bool + Send + Sync);

/// The ledger and the queue.
pub struct Jobs {
    config: config::Jobs,
    state: Mutex<State>,
    work: Notify,
    journal: Journal,
    refused: Mutex<Refused>,
    hook: OnceLock<Hook>,
    metrics: Arc<Metrics>,
    /// Jobs queued or running that are not of the background: asked by those that are, at every step.
    foreground: AtomicUsize,
    stopping: AtomicBool,
}

impl Jobs {
    /// Opens the ledger and takes up what an earlier process left: finished jobs can be asked for, others are queued again,
    /// or recorded as failed after `jobs.max_attempts`.
    ///
    /// # Errors
    /// A message that names the ledger file.
    pub fn open(config: config::Jobs, metrics: Arc<Metrics>) -> Result<Arc<Self>, String> {
        let (journal, replayed) = Journal::open(&config)?;
        let mut state = State::default();
        for record in replayed {
            state.restore(record, config.max_attempts);
        }
        state.prune(&config);
        journal.rewrite(state.lines());
        let jobs = Self {
            config,
            state: Mutex::new(state),
            work: Notify::new(),
            journal,
            refused: Mutex::default(),
            hook: OnceLock::new(),
            metrics,
            foreground: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
        };
        jobs.count(&jobs.state.lock().unwrap());
        Ok(Arc::new(jobs))
    }

    /// Sets the one listener. It is called with the ledger locked, so that events keep their order: it must neither wait nor
    /// call back.
    pub fn on_event(&self, hook: impl Fn(&Event) + Send + Sync + 'static) {
        assert!(self.hook.set(Box::new(hook)).is_ok(), "one hook");
    }

    /// Accepts a job. `accepted` runs once the job is in the ledger, before any event of it and before it can start.
    ///
    /// # Errors
    /// `Busy` when the queue is full, `Conflict` when the job's name is taken, `Unavailable` when the ledger can't be written.
    pub async fn submit(&self, spec: Spec, accepted: impl FnOnce(Uuid)) -> Result<Uuid, Error> {
        let reservation = Reservation::new(self, &spec)?;
        let handle = Arc::new(JobHandle::new(Uuid::new_v4(), spec, 1));
        self.journal.accept(&handle).await.map_err(unwritten)?;
        accepted(handle.id);
        let mut state = self.state.lock().unwrap();
        state.enqueue(handle.clone());
        // Given back in the same breath, so that no accepted job is ever outside both counts.
        reservation.give_back(&mut state);
        self.publish_queue(&state);
        self.work.notify_waiters();
        Ok(handle.id)
    }

    /// Takes the next job that may start, by priority and then by age, of the background or not; waits until there is one. The
    /// job is running from here on.
    pub async fn take(&self, background: bool, may_start: MayStart<'_>) -> Arc<JobHandle> {
        loop {
            let notified = self.work.notified();
            tokio::pin!(notified);
            // Registered before the look, so that a job that comes in between is not missed.
            notified.as_mut().enable();
            {
                let mut state = self.state.lock().unwrap();
                if let Some(handle) = state.start_next(background, may_start) {
                    self.journal.note(&handle, &state.snapshot(handle.id).expect("just started"));
                    self.publish(&state, handle.id);
                    self.publish_queue(&state);
                    return handle;
                }
            }
            notified.await;
        }
    }

    /// Lets waiting workers look again, as after a plugin was loaded or a limit was lifted.
    pub fn wake(&self) {
        self.work.notify_waiters();
    }

    /// Records the progress of a running job: `fraction` 0 to 1 and fields merged into `progress`.
    pub fn progress(&self, id: Uuid, fraction: f32, detail: Map<String, Value>) {
        let mut state = self.state.lock().unwrap();
        if state.progress(id, fraction, detail) {
            self.publish(&state, id);
        }
    }

    /// Takes note that a running job has stored its work: crashes before this count no more.
    pub fn checkpoint(&self, id: Uuid) {
        let mut state = self.state.lock().unwrap();
        if state.checkpoint(id)
            && let (Some(snapshot), Some(handle)) = (state.snapshot(id), state.handle(id))
        {
            self.journal.note(&handle, &snapshot);
        }
    }

    /// Puts a message into the inbox of a job that is queued or running. What a background job is told is in the ledger when this
    /// returns, and comes again after a crash until the job has stored what came of it.
    ///
    /// # Errors
    /// `NotFound` for an unknown or ended job, `Busy` when its inbox is full, `Unavailable` when the ledger can't be written.
    pub async fn post(&self, id: Uuid, message: String) -> Result<(), Error> {
        let written = {
            let state = self.state.lock().unwrap();
            let handle = state.handle(id).ok_or_else(|| unknown(id))?;
            let snapshot = state.snapshot(id).filter(|s| s.status.is_active()).ok_or_else(|| unknown(id))?;
            handle.post(message)?;
            if !handle.spec.background {
                return Ok(());
            }
            self.journal.tell(&handle, &snapshot)
        };
        written.await.map_err(unwritten)
    }

    /// The queued or running job of this type and name.
    pub fn named(&self, job_type: &str, name: &str) -> Option<Uuid> {
        self.state.lock().unwrap().named(job_type, name)
    }

    /// The names of the queued and running jobs of this type, oldest first.
    pub fn names(&self, job_type: &str) -> Vec<String> {
        self.state.lock().unwrap().names(job_type).map(|(name, _)| name).collect()
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

    /// Ends a running job, or puts it back into the queue.
    pub fn finish(&self, id: Uuid, outcome: Outcome) {
        let mut state = self.state.lock().unwrap();
        if let Outcome::Requeued = outcome {
            if state.handle(id).is_some_and(|handle| handle.is_cancelled()) {
                self.finish_locked(&mut state, id, Outcome::Cancelled);
            } else if let (Some(snapshot), Some(handle)) = (state.requeue(id), state.handle(id)) {
                self.journal.note(&handle, &snapshot);
                self.publish(&state, id);
            }
            return self.work.notify_waiters();
        }
        self.finish_locked(&mut state, id, outcome);
        self.work.notify_waiters();
    }

    /// Cancels a job: a queued one is ended at once, a running one is asked to stop. Returns the status after it.
    ///
    /// # Errors
    /// `NotFound` for an unknown job.
    pub fn cancel(&self, id: Uuid) -> Result<Status, Error> {
        let mut state = self.state.lock().unwrap();
        let Some(handle) = state.handle(id) else {
            let refused = self.refused.lock().unwrap().get(id);
            return refused.map(|job| job.status).ok_or_else(|| unknown(id));
        };
        match state.status(id) {
            Some(Status::Queued) => {
                self.finish_locked(&mut state, id, Outcome::Cancelled);
                self.publish_queue(&state);
            }
            Some(Status::Running) => {
                handle.request_cancel();
            }
            _ => {}
        }
        state.status(id).ok_or_else(|| unknown(id))
    }

    /// Changes a job's priority. A queued job changes its place; a running one its right of way at the device. Returns
    /// status and, if queued, the position in the queue (0: next).
    ///
    /// # Errors
    /// `NotFound` for an unknown job, `InvalidInput` out of [`PRIORITIES`].
    pub fn set_priority(&self, id: Uuid, priority: i64) -> Result<Snapshot, Error> {
        check_priority(priority)?;
        let mut state = self.state.lock().unwrap();
        let refused = || self.refused.lock().unwrap().get(id);
        let snapshot = state.set_priority(id, priority).or_else(refused).ok_or_else(|| unknown(id))?;
        if snapshot.status.is_active() {
            if let Some(handle) = state.handle(id) {
                self.journal.note(&handle, &snapshot);
            }
            self.publish(&state, id);
            self.publish_queue(&state);
        }
        Ok(snapshot)
    }

    /// # Errors
    /// `NotFound` for an unknown job, or one that ended so long ago that it was dropped.
    pub fn get(&self, id: Uuid) -> Result<Snapshot, Error> {
        let kept = self.state.lock().unwrap().snapshot(id);
        kept.or_else(|| self.refused.lock().unwrap().get(id)).ok_or_else(|| unknown(id))
    }

    /// What a job was asked with.
    pub fn params(&self, id: Uuid) -> Option<Map<String, Value>> {
        self.state.lock().unwrap().handle(id).map(|handle| handle.spec.params.clone())
    }

    /// Takes note of a job that could not be accepted, which can be asked for like one that failed: for a while, as only the
    /// last ones are kept, and not in the ledger.
    pub fn refuse(&self, job_type: &str, owner: Option<&str>, error: &Error) -> Snapshot {
        let snapshot = Snapshot::refused(job_type, owner, error);
        self.refused.lock().unwrap().keep(snapshot.clone());
        snapshot
    }

    /// All jobs, oldest first; of one owner if given.
    pub fn list(&self, owner: Option<&str>) -> Vec<Snapshot> {
        let state = self.state.lock().unwrap();
        state.snapshots().filter(|s| owner.is_none() || s.owner.as_deref() == owner).collect()
    }

    /// The handle of a job that is queued or running.
    pub fn active(&self, id: Uuid) -> Option<Arc<JobHandle>> {
        let state = self.state.lock().unwrap();
        state.status(id).filter(|s| s.is_active()).and_then(|_| state.handle(id))
    }

    /// Waits for the end of a job.
    ///
    /// # Errors
    /// `NotFound` for an unknown job.
    pub async fn wait(&self, id: Uuid) -> Result<Snapshot, Error> {
        let mut done: watch::Receiver<bool> =
            self.state.lock().unwrap().handle(id).ok_or_else(|| unknown(id))?.finished();
        let _ = done.wait_for(|done| *done).await;
        self.get(id)
    }

    /// How many jobs are queued and how many run, without those of the background.
    pub fn figures(&self) -> (usize, usize) {
        let state = self.state.lock().unwrap();
        (state.queued(), state.running())
    }

    /// The same of those.
    pub fn background(&self) -> (usize, usize) {
        self.state.lock().unwrap().background()
    }

    pub fn queue_limit(&self) -> usize {
        self.config.queue_limit
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

    /// Writes out what waits to be written to the ledger.
    pub async fn flush(&self) {
        self.journal.flush().await;
    }

    fn finish_locked(&self, state: &mut State, id: Uuid, outcome: Outcome) {
        let Some(Finish { snapshot, handle, ran }) = state.finish(id, outcome) else { return };
        let labels = [snapshot.job_type.as_str(), snapshot.status.as_str()];
        self.metrics.jobs_finished.with_label_values(&labels).inc();
        if let Some(ran) = ran {
            self.metrics.job_seconds.with_label_values(&[&snapshot.job_type]).observe(ran.as_secs_f64());
        }
        self.journal.note(&handle, &snapshot);
        self.publish(state, id);
        if let Some(hook) = self.hook.get() {
            hook(&Event::Finished(snapshot));
        }
        handle.finish();
        state.prune(&self.config);
        // A job that is just being accepted has a line in the file but no record yet.
        if state.reserved == 0 && self.journal.wants_rewrite(state.len()) {
            self.journal.rewrite(state.lines());
        }
    }

    fn publish(&self, state: &State, id: Uuid) {
        self.count(state);
        if let (Some(hook), Some(snapshot)) = (self.hook.get(), state.snapshot(id)) {
            hook(&Event::Progress(snapshot));
        }
    }

    /// Tells every waiting job's followers its place, which has changed.
    fn publish_queue(&self, state: &State) {
        self.count(state);
        if let Some(hook) = self.hook.get() {
            for snapshot in state.queue_snapshots() {
                hook(&Event::Progress(snapshot));
            }
        }
    }

    fn count(&self, state: &State) {
        let (queued, running) = (state.queued(), state.running());
        self.foreground.store(queued + running, Ordering::Relaxed);
        self.metrics.jobs.with_label_values(&["queued"]).set(queued as i64);
        self.metrics.jobs.with_label_values(&["running"]).set(running as i64);
        let (_, background) = state.background();
        self.metrics.jobs.with_label_values(&["background"]).set(background as i64);
    }
}

/// # Errors
/// `InvalidInput` out of [`PRIORITIES`].
pub fn check_priority(priority: i64) -> Result<(), Error> {
    if PRIORITIES.contains(&priority) {
        return Ok(());
    }
    let (low, high) = (PRIORITIES.start(), PRIORITIES.end());
    Err(Error::invalid(format!(
        "priority {priority} is out of range: accepted are integers from {low} to {high}"
    )))
}

fn unwritten(error: String) -> Error {
    tracing::error!(error, "the ledger can't be written");
    Error::new(ErrorKind::Unavailable, format!("the job ledger can't be written: {error}"))
}

fn unknown(id: Uuid) -> Error {
    Error::not_found(format!("no job '{id}' (unknown, or ended so long ago that it was dropped)"))
}
