//! A place in the queue, held while a job is written to the store.

use uuid::Uuid;

use crate::{
    Jobs, Spec,
    error::{Error, ErrorKind},
    state::State,
};

/// What a job finds that wants a place.
pub enum Place<'a> {
    /// A place, and its number by order of acceptance.
    Reserved(Reservation<'a>, u64),
    /// Its owner has submitted it before, with the same key.
    Known(Uuid),
    /// Its owner is submitting it, with the same key: it is to ask again when a key was given back.
    Pending,
}

/// A place in the queue, a name and a key, that are given back when the job does not come to it.
pub struct Reservation<'a> {
    jobs: &'a Jobs,
    name: Option<(String, String)>,
    key: Option<(String, String)>,
    n: u64,
}

impl<'a> Reservation<'a> {
    /// # Errors
    /// `Busy` when the queue is full, `Conflict` when the job's name is taken, or its key by another job.
    pub fn of(jobs: &'a Jobs, spec: &Spec) -> Result<Place<'a>, Error> {
        let mut state = jobs.state.lock();
        let refuse = |kind: ErrorKind, error: String| Err(Error::new(kind, error));
        let key = spec.owner.clone().zip(spec.key.clone());
        if let Some(key) = &key {
            if let Some(known) = state.keyed(key) {
                if known.spec.job_type == spec.job_type && known.spec.params == spec.params {
                    return Ok(Place::Known(known.id));
                }
                let error = format!(
                    "key '{}' is that of job '{}', which was submitted with other parameters",
                    key.1, known.id
                );
                return refuse(ErrorKind::Conflict, error);
            }
            if state.reserved_keys.contains(key) {
                return Ok(Place::Pending);
            }
        }
        let (queued, running) = state.background();
        let (limit, of_background) = (jobs.config.queue_limit, jobs.config.background_limit);
        if spec.background && queued + running >= of_background {
            let error =
                format!("{of_background} background jobs are there (jobs.background_limit); stop one first");
            return refuse(ErrorKind::Busy, error);
        }
        if !spec.background && state.queued() + state.reserved >= limit {
            let error = format!("Queue full: {limit} jobs wait (jobs.queue_limit); try again later");
            return refuse(ErrorKind::Busy, error);
        }
        let name = spec.name.clone().map(|name| (spec.job_type.clone(), name));
        if let Some(name) = &name
            && (state.named(&name.0, &name.1).is_some() || !state.reserved_names.insert(name.clone()))
        {
            let error = format!("a '{}' job named '{}' is queued or running", name.0, name.1);
            return refuse(ErrorKind::Conflict, error);
        }
        state.reserved_keys.extend(key.clone());
        state.reserved += 1;
        let n = state.place();
        Ok(Place::Reserved(Self { jobs, name, key, n }, n))
    }

    /// Gives it back in the same breath as the job comes to it, so that no accepted job is ever outside both counts.
    pub fn give_back(mut self, state: &mut State) {
        self.release(state);
        std::mem::forget(self);
    }

    fn release(&mut self, state: &mut State) {
        state.reserved -= 1;
        state.accepting.remove(&self.n);
        if let Some(name) = self.name.take() {
            state.reserved_names.remove(&name);
        }
        if let Some(key) = self.key.take() {
            state.reserved_keys.remove(&key);
        }
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let jobs = self.jobs;
        self.release(&mut jobs.state.lock());
        jobs.key_given_back();
    }
}
