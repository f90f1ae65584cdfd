//! Jobs from one process to the next.

use std::sync::Arc;

use reverie_memory::{Budget, Use};

use super::{Entry, State, weight_of};
use crate::{Config, JobHandle, Record, Status};

/// What became of a job of an earlier process.
pub enum Restored {
    AsItWas,
    /// It ran, and waits to run again.
    Again,
    /// It ran, and is to end with this error.
    GivenUp(String),
}

impl State {
    /// Takes up a job of an earlier process; `at_fault` says whether it is known to have ended that.
    pub fn restore(
        &mut self,
        record: Record,
        at_fault: bool,
        config: &Config,
        memory: &Arc<Budget>,
    ) -> Restored {
        let Record { n, spec, mut job, told, inputs, mut faults, mut interruptions, ended_at } = record;
        let ran = job.status == Status::Running;
        if ran {
            *(if at_fault { &mut faults } else { &mut interruptions }) += 1;
            (job.status, job.fraction, job.started) = (Status::Queued, 0.0, None);
        }
        // One that waits may have been given up before, when that could not be stored.
        let restored = match () {
            () if !job.status.is_active() => Restored::AsItWas,
            () if faults >= config.max_attempts.max(1) => {
                Restored::GivenUp(format!("it ended the server {faults} time(s); it was given up"))
            }
            () if interruptions >= config.max_interruptions.max(1) => Restored::GivenUp(format!(
                "the server ended while this job ran, {interruptions} time(s); it was given up"
            )),
            () if ran => {
                job.attempt += 1;
                Restored::Again
            }
            () => Restored::AsItWas,
        };
        let handle = Arc::new(JobHandle::new(job.id, spec, job.attempt).with_told(told));
        handle.set_priority(job.priority);
        let inputs = if job.status.is_active() { inputs } else { Vec::new() };
        self.next = self.next.max(n);
        let held = memory.hold_anyway(Use::Jobs, weight_of(&handle.spec, &job));
        let entry = Entry {
            handle,
            snapshot: job,
            started: None,
            ending: None,
            inputs,
            faults,
            interruptions,
            ended_at,
            held,
        };
        self.insert(n, entry);
        restored
    }

    /// The running jobs as they are to be taken up at the next start: not by their fault.
    pub fn interrupt(&mut self) -> Vec<Record> {
        let running: Vec<u64> =
            self.active.iter().copied().filter(|n| self.entries[n].is_running()).collect();
        for n in &running {
            let entry = self.entries.get_mut(n).expect("active");
            (entry.snapshot.status, entry.snapshot.fraction, entry.snapshot.started) =
                (Status::Queued, 0.0, None);
            entry.snapshot.attempt += 1;
            // From here on nothing else of it is stored.
            entry.ending = Some(Box::new(entry.record(*n)));
        }
        running.iter().map(|n| self.entries[n].record(*n)).collect()
    }
}
