//! What the owner of a job does to it: cancel it, change its priority, tell it something, delete it.

use reverie_memory::Kept;
use uuid::Uuid;

use super::{Given, Jobs, submit::taken_apart, unknown, unwritten};
use crate::{
    Outcome, PRIORITIES, Snapshot, Status,
    error::{Error, ErrorKind},
    store::{Change, Durability},
};

impl Jobs {
    /// Cancels a job: a queued one is ended, a running one is asked to stop. Returns the status after it; waits until the end of
    /// a queued one is stored.
    ///
    /// # Errors
    /// `NotFound` for an unknown job.
    pub async fn cancel(&self, id: Uuid) -> Result<Status, Error> {
        let status = {
            let state = self.state.lock();
            match (state.handle(id), state.status(id)) {
                (Some(handle), Some(status)) => {
                    if status == Status::Running {
                        handle.request_cancel();
                    }
                    status
                }
                _ => {
                    let refused = self.refused.lock().get(id);
                    return refused.map(|job| job.status).ok_or_else(|| unknown(id));
                }
            }
        };
        if status != Status::Queued {
            return Ok(status);
        }
        self.end(id, Outcome::Cancelled).await;
        let handle = self.state.lock().handle(id).ok_or_else(|| unknown(id))?;
        // Somebody else may be ending it.
        let _ = handle.finished().wait_for(|done| *done).await;
        self.state.lock().status(id).ok_or_else(|| unknown(id))
    }

    /// Changes a job's priority, and waits until that is stored. A queued job changes its place; a running one its right of way
    /// at the device. Returns status and, if queued, the position in the queue (0: next).
    ///
    /// # Errors
    /// `NotFound` for an unknown job, `InvalidInput` out of [`PRIORITIES`].
    pub async fn set_priority(&self, id: Uuid, priority: i64) -> Result<Snapshot, Error> {
        check_priority(priority)?;
        let (snapshot, written) = {
            let mut state = self.state.lock();
            let refused = || self.refused.lock().get(id);
            let snapshot = state.set_priority(id, priority).or_else(refused).ok_or_else(|| unknown(id))?;
            if !snapshot.status.is_active() {
                return Ok(snapshot);
            }
            let written = self.note(&state, id, Durability::Synced);
            self.publish(&state, id);
            self.publish_queue(&state);
            (snapshot, written)
        };
        written.await;
        Ok(snapshot)
    }

    /// Puts a message into the inbox of a job that is queued or running. What a background job is told is stored, with the files
    /// that it names, when this returns, and comes again after a crash until the job has stored what came of it.
    ///
    /// # Errors
    /// `NotFound` for an unknown or ended job, `TooLarge` for a message that no inbox takes, `Busy` when it is full, `Unavailable`
    /// when it can't be stored.
    pub async fn post(&self, id: Uuid, message: Kept<String>, given: Vec<Given>) -> Result<(), Error> {
        let stored = {
            let mut state = self.state.lock();
            let handle = state.handle(id).filter(|_| state.status(id).is_some_and(Status::is_active));
            let handle = handle.ok_or_else(|| unknown(id))?;
            if !handle.spec.background {
                return handle.post(message);
            }
            state.record(id).ok_or_else(|| unknown(id))?;
            handle.post(message)?;
            let (inputs, contents) = taken_apart(given);
            state.add_inputs(id, inputs);
            let record = state.record(id).expect("not ending");
            self.store.accept(record, contents)
        };
        stored.await.map_err(unwritten)
    }

    /// Deletes a job that has ended, with its outputs. They are gone soon after this returns, also after a crash.
    ///
    /// # Errors
    /// `NotFound` for an unknown job, `Conflict` for one that has not ended.
    pub async fn delete(&self, id: Uuid) -> Result<(), Error> {
        let (jobs, objects) = {
            let mut state = self.state.lock();
            let n = state.n(id).ok_or_else(|| unknown(id))?;
            if state.status(id).is_some_and(Status::is_active) {
                let error = format!("job '{id}' has not ended: cancel it first");
                return Err(Error::new(ErrorKind::Conflict, error));
            }
            // With those of earlier attempts: without the job, nothing would lead to them. In the sweep's list from now on, so
            // that a store that loses its file is told of them.
            self.sweep.remove(Vec::new(), state.retention.remove(n));
            let objects = self.sweep.of(n);
            state.remove(&[n]);
            (vec![n], objects)
        };
        self.store.write(Change::Remove { jobs, objects }, Durability::Synced).await;
        Ok(())
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
