//! The end of a job: prepared, stored by the caller, and then made.

use std::{sync::Arc, time::Duration};

use uuid::Uuid;

use super::State;
use crate::{
    JobHandle, Outcome, Record, Status,
    error::{Error, ErrorKind},
};

/// A job that is about to end.
pub struct Ending {
    pub n: u64,
    pub record: Record,
    pub handle: Arc<JobHandle>,
    pub ran: Option<Duration>,
}

impl State {
    /// Prepares the end of an active job: what is to be stored of it. It is as it was until [`State::end`].
    pub fn prepare_end(&mut self, id: Uuid, outcome: Outcome, now: f64, served: f64) -> Option<Ending> {
        let n = *self.by_id.get(&id)?;
        let entry =
            self.entries.get_mut(&n).filter(|e| e.snapshot.status.is_active() && e.ending.is_none())?;
        let mut record = entry.record(n);
        record.inputs = Vec::new();
        record.ended_at = Some(served);
        let snapshot = &mut record.job;
        snapshot.finished = Some(now);
        match outcome {
            Outcome::Done { outputs, meta } => {
                (snapshot.status, snapshot.fraction) = (Status::Done, 1.0);
                (snapshot.outputs, snapshot.meta) = (outputs, meta);
            }
            Outcome::Failed(Error { kind, message }) => {
                snapshot.status = Status::Error;
                (snapshot.error, snapshot.code) = (Some(message), Some(kind.code().into()));
            }
            Outcome::Cancelled | Outcome::Requeued => {
                snapshot.status = Status::Cancelled;
                (snapshot.error, snapshot.code) =
                    (Some("job canceled".into()), Some(ErrorKind::Cancelled.code().into()));
            }
        }
        entry.ending = Some(Box::new(record.clone()));
        let ran = entry.started.map(|at| at.elapsed());
        Some(Ending { n, record, handle: entry.handle.clone(), ran })
    }

    /// Ends a job, whose end is stored.
    pub fn end(&mut self, ending: &Ending) {
        let Some(entry) = self.entries.get_mut(&ending.n) else { return };
        entry.snapshot = ending.record.job.clone();
        entry.ended_at = ending.record.ended_at;
        (entry.ending, entry.inputs) = (None, Vec::new());
        entry.held.resize_anyway(entry.weight());
        self.active.remove(&ending.n);
        let owner = entry.snapshot.owner.as_deref();
        self.retention.ended(ending.n, owner, entry.ended_at.unwrap_or(0.0), entry.held.bytes());
    }

    /// Drops jobs that have ended.
    pub fn remove(&mut self, jobs: &[u64]) {
        for n in jobs {
            let Some(entry) = self.entries.remove(n) else { continue };
            self.by_id.remove(&entry.handle.id);
            let spec = &entry.handle.spec;
            if let (Some(owner), Some(key)) = (&spec.owner, &spec.key) {
                self.by_key.remove(&(owner.clone(), key.clone()));
            }
        }
    }
}
