//! The acceptance of a job: it is in the store before its acknowledgement leaves.

use std::sync::Arc;

use bytes::Bytes;
use reverie_memory::{Held, Use};
use uuid::Uuid;

use super::{Jobs, unwritten};
use crate::{
    Content, Input, JobHandle, MAX_KEY, Snapshot, Spec,
    error::{Error, ErrorKind},
    reservation::{Place, Reservation},
    state::State,
    store::{Change, Durability},
    weight,
};

/// Bytes that a job takes beside its parameters, about.
const JOB: usize = 2048;

/// A file that comes with a job.
#[derive(Debug, Clone)]
pub struct Given {
    pub input: Input,
    pub content: Bytes,
}

/// What became of a job that was submitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Submitted {
    pub id: Uuid,
    /// Whether its owner had submitted it before, with the same key.
    pub again: bool,
}

impl Jobs {
    /// Accepts a job with the files that it names. `accepted` runs once the job is stored, before any event of it and before it
    /// can start. One that its owner has submitted before, with the same key, is not accepted again.
    ///
    /// # Errors
    /// `TooLarge` or `InvalidInput` for more parameters than are accepted, `Busy` when the queue is full, `Conflict` when the job's
    /// name is taken, or its key by another job, `Unavailable` when it can't be stored or there is no memory for it.
    pub async fn submit(
        &self,
        spec: Spec,
        given: Vec<Given>,
        accepted: impl FnOnce(Uuid),
    ) -> Result<Submitted, Error> {
        let held = self.hold(&spec)?;
        let (reservation, n) = loop {
            let notified = self.keys.notified();
            tokio::pin!(notified);
            // Registered before the look, so that what is given back in between is not missed.
            notified.as_mut().enable();
            match Reservation::of(self, &spec)? {
                Place::Reserved(reservation, n) => break (reservation, n),
                Place::Known(id) => {
                    accepted(id);
                    return Ok(Submitted { id, again: true });
                }
                Place::Pending => notified.await,
            }
        };
        let handle = Arc::new(JobHandle::new(Uuid::new_v4(), spec, 1));
        let now = self.clock.unix();
        let (inputs, contents) = taken_apart(given);
        let mut fresh = State::default();
        fresh.enqueue(n, handle.clone(), inputs.clone(), now, self.memory.nothing(Use::Jobs));
        let record = fresh.record(handle.id).expect("just queued");
        let stored = {
            let mut state = self.state.lock();
            // A store that loses its file before this goes on asks for all that it had.
            state.accepting.insert(n, record.clone());
            self.store.accept(record, contents)
        };
        if let Err(error) = stored.await {
            // What failed may be in the file all the same.
            let gone = Change::Remove { jobs: vec![n], objects: Vec::new() };
            drop(self.store.write(gone, Durability::Synced));
            return Err(unwritten(error));
        }
        accepted(handle.id);
        let mut state = self.state.lock();
        state.enqueue(n, handle.clone(), inputs, now, held);
        // Given back in the same breath, so that no accepted job is ever outside both counts.
        reservation.give_back(&mut state);
        self.keys.notify_waiters();
        self.publish_queue(&state);
        self.work.notify_waiters();
        Ok(Submitted { id: handle.id, again: false })
    }

    /// Memory for what a job is asked with.
    fn hold(&self, spec: &Spec) -> Result<Held, Error> {
        let most = self.config.max_params_values;
        let values = weight::values(&spec.params);
        if values > most {
            let error = format!(
                "the job's parameters have {values} values; accepted are up to {most} (jobs.max_params_values)"
            );
            return Err(Error::new(ErrorKind::TooLarge, error));
        }
        let most = self.config.max_params_bytes;
        let bytes = serde_json::to_vec(&spec.params).map_or(usize::MAX, |text| text.len());
        if bytes > most {
            let error = format!(
                "the job's parameters are {bytes} bytes as JSON; accepted are up to {most} (jobs.max_params_bytes)"
            );
            return Err(Error::new(ErrorKind::TooLarge, error));
        }
        Ok(self.memory.hold(Use::Jobs, JOB + weight::of(&spec.params))?)
    }

    pub(crate) fn key_given_back(&self) {
        self.keys.notify_waiters();
    }

    /// Takes note of a job that could not be accepted, which can be asked for like one that failed: for a while, as only the
    /// last ones are kept, and not in the store.
    pub fn refuse(&self, job_type: &str, owner: Option<&str>, error: &Error) -> Snapshot {
        let snapshot = Snapshot::refused(job_type, owner, error, self.clock.unix());
        self.refused.lock().keep(snapshot.clone());
        snapshot
    }
}

pub(super) fn taken_apart(given: Vec<Given>) -> (Vec<Input>, Vec<Content>) {
    let apart = |Given { input, content }: Given| {
        let sha256 = input.sha256.clone();
        (input, Content { sha256, bytes: content })
    };
    given.into_iter().map(apart).unzip()
}

/// # Errors
/// `InvalidInput` for an idempotency key that is empty or longer than [`MAX_KEY`].
pub fn check_key(key: &str) -> Result<(), Error> {
    match key.chars().count() {
        1..=MAX_KEY => Ok(()),
        _ => Err(Error::invalid(format!("key: accepted are 1 to {MAX_KEY} characters"))),
    }
}
