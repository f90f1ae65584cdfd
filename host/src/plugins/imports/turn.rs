//! When a call's computation, on another thread, has its turn at the device, and what tells it that nobody waits for it any
//! more.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::super::instance::CallState;
use crate::{
    error::Error,
    execution::{Lease, Ticket},
    jobs::{JobHandle, Jobs, PRIORITIES},
};

/// Sets the flag when it is dropped.
pub struct Abandon(Arc<AtomicBool>);

impl Drop for Abandon {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Whom a computation is for.
pub struct Turn {
    pub jobs: Arc<Jobs>,
    pub job: Option<Arc<JobHandle>>,
    abandoned: Arc<AtomicBool>,
}

impl Turn {
    /// Also what stops the computation when the call is dropped, as by a deadline.
    pub fn new(call: &CallState) -> (Self, Abandon) {
        let abandoned = Arc::new(AtomicBool::new(false));
        let turn =
            Self { jobs: call.services.jobs.clone(), job: call.job().cloned(), abandoned: abandoned.clone() };
        (turn, Abandon(abandoned))
    }

    /// That of its job; a background job's is below all others.
    pub fn priority(&self) -> i64 {
        let own = self.job.as_ref().map_or(0, |job| job.priority());
        if self.background() { own + 2 * *PRIORITIES.start() - 1 } else { own }
    }

    /// Whether nobody waits for it: the call was dropped, the job cancelled, or the server is being stopped and the job can be
    /// gone on with later.
    pub fn stopped(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
            || self.job.as_ref().is_some_and(|job| job.is_cancelled())
            || self.background() && self.jobs.is_stopping()
    }

    /// Whether it is of a background job.
    pub fn background(&self) -> bool {
        self.job.as_ref().is_some_and(|job| job.spec.background)
    }

    /// Whether it has to wait, as another job is there.
    pub fn yields(&self) -> bool {
        self.background() && self.jobs.foreground()
    }

    /// Takes note that the computation had to wait.
    pub fn waited(&self, time: Duration) {
        if let Some(job) = &self.job {
            job.add_waited(time);
        }
    }

    /// The device for one step.
    ///
    /// # Errors
    /// `Cancelled`.
    pub fn lease<'a>(&self, ticket: &Ticket<'a>) -> Result<Lease<'a>, Error> {
        let began = Instant::now();
        let lease = ticket.lease_unless(|| self.yields(), || self.priority(), || self.stopped());
        self.waited(began.elapsed());
        lease.ok_or_else(Error::cancelled)
    }
}
