//! A place in the queue, held while a job is written to the ledger.

use super::{Jobs, Spec, state::State};
use crate::error::{Error, ErrorKind};

/// A place in the queue, and a name, that are given back when the job does not come to it.
pub struct Reservation<'a> {
    jobs: &'a Jobs,
    name: Option<(String, String)>,
}

impl<'a> Reservation<'a> {
    /// # Errors
    /// `Busy` when the queue is full, `Conflict` when the job's name is taken.
    pub fn new(jobs: &'a Jobs, spec: &Spec) -> Result<Self, Error> {
        let mut state = jobs.state.lock().unwrap();
        let refuse = |kind: ErrorKind, error: String| Err(Error::new(kind, error));
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
        state.reserved += 1;
        Ok(Self { jobs, name })
    }

    /// Gives it back in the same breath as the job comes to it, so that no accepted job is ever outside both counts.
    pub fn give_back(mut self, state: &mut State) {
        self.release(state);
        std::mem::forget(self);
    }

    fn release(&mut self, state: &mut State) {
        state.reserved -= 1;
        if let Some(name) = self.name.take() {
            state.reserved_names.remove(&name);
        }
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let jobs = self.jobs;
        self.release(&mut jobs.state.lock().unwrap());
    }
}
