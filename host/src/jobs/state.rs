//! The ledger in memory: records by age, and the queue derived from them.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Map, Value};
use uuid::Uuid;

use super::{JobHandle, MayStart, Outcome, Snapshot, Status, journal, record::now};
use crate::{
    config,
    error::{Error, ErrorKind},
};

#[derive(Default)]
pub struct State {
    /// By order of acceptance.
    records: BTreeMap<u64, Record>,
    by_id: HashMap<Uuid, u64>,
    next: u64,
    /// Jobs that are being written to the journal; they count against the queue's limit.
    pub reserved: usize,
    /// The types and names of those.
    pub reserved_names: HashSet<(String, String)>,
}

struct Record {
    handle: Arc<JobHandle>,
    snapshot: Snapshot,
    started: Option<Instant>,
}

/// What came of ending a job.
pub struct Finish {
    pub snapshot: Snapshot,
    pub handle: Arc<JobHandle>,
    pub ran: Option<Duration>,
}

impl State {
    pub fn enqueue(&mut self, handle: Arc<JobHandle>) {
        let snapshot = Snapshot::queued(&handle);
        self.insert(Record { handle, snapshot, started: None });
    }

    /// Takes up a job of an earlier process.
    pub fn restore(&mut self, replayed: journal::Replayed, max_attempts: u32) {
        let journal::Replayed { spec, mut snapshot, attempt, told } = replayed;
        let was_running = snapshot.status == Status::Running;
        let attempt = if was_running { attempt + 1 } else { attempt };
        if was_running && attempt - snapshot.checkpoint.unwrap_or(0) > max_attempts {
            let error =
                format!("the server ended while this job ran, {max_attempts} time(s); it was given up");
            (snapshot.status, snapshot.error, snapshot.code) =
                (Status::Error, Some(error), Some("internal".into()));
            snapshot.finished = Some(now());
        } else if was_running {
            (snapshot.status, snapshot.fraction, snapshot.started) = (Status::Queued, 0.0, None);
        }
        let handle = Arc::new(JobHandle::new(snapshot.id, spec, attempt).with_told(told));
        if !snapshot.status.is_active() {
            handle.finish();
        }
        self.insert(Record { handle, snapshot, started: None });
    }

    fn insert(&mut self, record: Record) {
        self.by_id.insert(record.handle.id, self.next);
        self.records.insert(self.next, record);
        self.next += 1;
    }

    pub fn start_next(&mut self, background: bool, may_start: MayStart<'_>) -> Option<Arc<JobHandle>> {
        let running_of = |job_type: &str| {
            let running = self.records.values().filter(|r| r.snapshot.status == Status::Running);
            running.filter(|r| r.snapshot.job_type == job_type).count()
        };
        let number = self
            .queue(background)
            .into_iter()
            .find(|number| may_start(&self.records[number].snapshot.job_type, &running_of))?;
        let record = self.records.get_mut(&number).expect("queued");
        record.snapshot.status = Status::Running;
        record.snapshot.started = Some(now());
        record.started = Some(Instant::now());
        Some(record.handle.clone())
    }

    pub fn progress(&mut self, id: Uuid, fraction: f32, detail: Map<String, Value>) -> bool {
        let Some(record) = self.record_mut(id).filter(|r| r.snapshot.status == Status::Running) else {
            return false;
        };
        record.snapshot.fraction = if fraction.is_finite() { fraction.clamp(0.0, 1.0) } else { 0.0 };
        record.snapshot.detail.extend(detail);
        true
    }

    /// Takes note that the running attempt has stored its work. False when that was known.
    pub fn checkpoint(&mut self, id: Uuid) -> bool {
        let Some(record) = self.record_mut(id) else { return false };
        let attempt = Some(record.handle.attempt);
        let settled = record.handle.settle();
        std::mem::replace(&mut record.snapshot.checkpoint, attempt) != attempt || settled
    }

    /// Puts a running job back into the queue, with what its inbox holds.
    pub fn requeue(&mut self, id: Uuid) -> Option<Snapshot> {
        let record = self.record_mut(id).filter(|r| r.snapshot.status == Status::Running)?;
        record.snapshot.status = Status::Queued;
        record.snapshot.checkpoint = Some(record.handle.attempt);
        record.handle.settle();
        record.started = None;
        Some(record.snapshot.clone())
    }

    /// The active job of this type and name.
    pub fn named(&self, job_type: &str, name: &str) -> Option<Uuid> {
        self.names(job_type).find(|(other, _)| other == name).map(|(_, id)| id)
    }

    /// Names and ids of the active jobs of this type that have one.
    pub fn names(&self, job_type: &str) -> impl Iterator<Item = (String, Uuid)> {
        let active = self.records.values().filter(|r| r.snapshot.status.is_active());
        let of_type = active.filter(move |r| r.handle.spec.job_type == job_type);
        of_type.filter_map(|r| Some((r.handle.spec.name.clone()?, r.handle.id)))
    }

    pub fn finish(&mut self, id: Uuid, outcome: Outcome) -> Option<Finish> {
        let record = self.record_mut(id).filter(|r| r.snapshot.status.is_active())?;
        let snapshot = &mut record.snapshot;
        snapshot.finished = Some(now());
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
        let ran = record.started.map(|at| at.elapsed());
        Some(Finish { snapshot: record.snapshot.clone(), handle: record.handle.clone(), ran })
    }

    pub fn set_priority(&mut self, id: Uuid, priority: i64) -> Option<Snapshot> {
        let record = self.record_mut(id)?;
        if record.snapshot.status.is_active() {
            record.snapshot.priority = priority;
            record.handle.set_priority(priority);
        }
        self.snapshot(id)
    }

    pub fn handle(&self, id: Uuid) -> Option<Arc<JobHandle>> {
        self.record(id).map(|r| r.handle.clone())
    }

    pub fn status(&self, id: Uuid) -> Option<Status> {
        self.record(id).map(|r| r.snapshot.status)
    }

    pub fn snapshot(&self, id: Uuid) -> Option<Snapshot> {
        let mut snapshot = self.record(id)?.snapshot.clone();
        if snapshot.status == Status::Queued {
            let number = self.by_id[&id];
            let background = self.records[&number].handle.spec.background;
            snapshot.position = self.queue(background).iter().position(|n| *n == number);
        }
        Some(snapshot)
    }

    pub fn snapshots(&self) -> impl Iterator<Item = Snapshot> + '_ {
        let positions: HashMap<u64, usize> = [false, true]
            .into_iter()
            .flat_map(|background| self.queue(background).into_iter().enumerate().map(|(i, n)| (n, i)))
            .collect();
        self.records.iter().map(move |(number, record)| {
            let position = positions.get(number).copied();
            Snapshot { position, ..record.snapshot.clone() }
        })
    }

    pub fn queue_snapshots(&self) -> impl Iterator<Item = Snapshot> + '_ {
        self.queue(false).into_iter().enumerate().map(|(position, number)| Snapshot {
            position: Some(position),
            ..self.records[&number].snapshot.clone()
        })
    }

    /// Queued jobs, without those of the background.
    pub fn queued(&self) -> usize {
        self.count(Status::Queued, false)
    }

    /// Running jobs, without those of the background.
    pub fn running(&self) -> usize {
        self.count(Status::Running, false)
    }

    /// Queued and running jobs of the background.
    pub fn background(&self) -> (usize, usize) {
        (self.count(Status::Queued, true), self.count(Status::Running, true))
    }

    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Drops the oldest finished jobs over the configured number and age.
    pub fn prune(&mut self, config: &config::Jobs) {
        let oldest = now() - config.keep_finished_hours * 3600.0;
        let finished: Vec<(u64, f64)> =
            self.records.iter().filter_map(|(n, r)| r.snapshot.finished.map(|at| (*n, at))).collect();
        let excess = finished.len().saturating_sub(config.keep_finished);
        for (i, (number, at)) in finished.into_iter().enumerate() {
            if i < excess || at < oldest {
                let record = self.records.remove(&number).expect("listed");
                self.by_id.remove(&record.handle.id);
            }
        }
    }

    /// The whole ledger as journal lines.
    pub fn lines(&self) -> Vec<String> {
        self.records.values().map(|r| journal::line(&r.handle, &r.snapshot, true)).collect()
    }

    fn count(&self, status: Status, background: bool) -> usize {
        let counted = |r: &&Record| r.snapshot.status == status && r.handle.spec.background == background;
        self.records.values().filter(counted).count()
    }

    /// The numbers of queued jobs, of the background or not, next first: by priority, then by age.
    fn queue(&self, background: bool) -> Vec<u64> {
        let waits =
            |r: &Record| r.snapshot.status == Status::Queued && r.handle.spec.background == background;
        let queued = self.records.iter().filter(|(_, r)| waits(r));
        let mut queue: Vec<(i64, u64)> = queued.map(|(n, r)| (-r.snapshot.priority, *n)).collect();
        queue.sort_unstable();
        queue.into_iter().map(|(_, number)| number).collect()
    }

    fn record(&self, id: Uuid) -> Option<&Record> {
        self.records.get(self.by_id.get(&id)?)
    }

    fn record_mut(&mut self, id: Uuid) -> Option<&mut Record> {
        self.records.get_mut(self.by_id.get(&id)?)
    }
}
