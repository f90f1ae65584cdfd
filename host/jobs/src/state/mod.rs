//! The jobs in memory: entries by age, and the queue derived from them.

mod end;
mod restart;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use serde_json::{Map, Value};
use uuid::Uuid;

pub use end::Ending;
pub use restart::Restored;

use reverie_memory::Held;

use crate::{
    Input, JobHandle, MayStart, Record, Snapshot, Spec, Status, detail, retention::Retention, weight,
};

#[derive(Default)]
pub struct State {
    /// By order of acceptance.
    entries: BTreeMap<u64, Entry>,
    by_id: HashMap<Uuid, u64>,
    /// Jobs by owner and key.
    by_key: HashMap<(String, String), u64>,
    /// Those that are queued or running.
    active: BTreeSet<u64>,
    /// Those that have ended, and their outputs.
    pub retention: Retention,
    next: u64,
    /// Jobs that are being written to the store; they count against the queue's limit.
    pub reserved: usize,
    /// Their records: some are in the store by now.
    pub accepting: BTreeMap<u64, Record>,
    /// The types and names of those.
    pub reserved_names: HashSet<(String, String)>,
    /// The owners and keys of those.
    pub reserved_keys: HashSet<(String, String)>,
}

struct Entry {
    handle: Arc<JobHandle>,
    snapshot: Snapshot,
    started: Option<Instant>,
    /// The end of it that is being stored: from then on nothing else of it is.
    ending: Option<Box<Record>>,
    inputs: Vec<Input>,
    faults: u32,
    interruptions: u32,
    ended_at: Option<f64>,
    /// Memory for what was asked and what came of it.
    held: Held,
}

impl State {
    /// A job's place by order of acceptance, which no other gets.
    pub fn place(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub fn enqueue(&mut self, n: u64, handle: Arc<JobHandle>, inputs: Vec<Input>, now: f64, held: Held) {
        let snapshot = Snapshot::queued(&handle, now);
        let entry = Entry {
            handle,
            snapshot,
            started: None,
            ending: None,
            inputs,
            faults: 0,
            interruptions: 0,
            ended_at: None,
            held,
        };
        self.insert(n, entry);
    }

    fn insert(&mut self, n: u64, entry: Entry) {
        let (id, spec) = (entry.handle.id, &entry.handle.spec);
        self.by_id.insert(id, n);
        if let (Some(owner), Some(key)) = (&spec.owner, &spec.key) {
            self.by_key.insert((owner.clone(), key.clone()), n);
        }
        if entry.snapshot.status.is_active() {
            self.active.insert(n);
        } else {
            entry.handle.finish();
            let owner = entry.snapshot.owner.as_deref();
            self.retention.ended(n, owner, entry.ended_at.unwrap_or(0.0), entry.held.bytes());
        }
        self.entries.insert(n, entry);
    }

    pub fn start_next(
        &mut self,
        background: bool,
        may_start: MayStart<'_>,
        now: f64,
    ) -> Option<Arc<JobHandle>> {
        let running = |fits: &dyn Fn(&Spec) -> bool| {
            let running = self.of_status(Status::Running);
            running.filter(|entry| fits(&entry.handle.spec)).count()
        };
        let n =
            self.queue(background).into_iter().find(|n| may_start(&self.entries[n].handle.spec, &running))?;
        let entry = self.entries.get_mut(&n).expect("queued");
        entry.snapshot.status = Status::Running;
        entry.snapshot.started = Some(now);
        entry.started = Some(Instant::now());
        Some(entry.handle.clone())
    }

    /// Whether these fields and the others that the job's progress has are within bounds.
    pub fn detail_fits(&self, id: Uuid, detail: &Map<String, Value>) -> bool {
        self.entry(id).is_none_or(|entry| detail::fits(&entry.snapshot.detail, detail))
    }

    pub fn progress(&mut self, id: Uuid, fraction: f32, detail: Map<String, Value>) -> bool {
        let Some(entry) =
            self.entry_mut(id).filter(|e| e.snapshot.status == Status::Running && e.ending.is_none())
        else {
            return false;
        };
        entry.snapshot.fraction = if fraction.is_finite() { fraction.clamp(0.0, 1.0) } else { 0.0 };
        entry.snapshot.detail.extend(detail);
        true
    }

    /// Takes note that the running attempt has stored its work. False when that was known.
    pub fn checkpoint(&mut self, id: Uuid) -> bool {
        let Some(entry) = self.entry_mut(id) else { return false };
        let settled = entry.handle.settle();
        let counted = std::mem::take(&mut entry.faults) + std::mem::take(&mut entry.interruptions) > 0;
        counted || settled
    }

    /// Puts a running job back into the queue, with what its inbox holds.
    pub fn requeue(&mut self, id: Uuid) -> bool {
        let Some(entry) =
            self.entry_mut(id).filter(|e| e.snapshot.status == Status::Running && e.ending.is_none())
        else {
            return false;
        };
        (entry.snapshot.status, entry.started) = (Status::Queued, None);
        (entry.faults, entry.interruptions) = (0, 0);
        entry.handle.settle();
        true
    }

    /// The active job of this type and name.
    pub fn named(&self, job_type: &str, name: &str) -> Option<Uuid> {
        self.names(job_type).find(|(other, _)| other == name).map(|(_, id)| id)
    }

    /// Names and ids of the active jobs of this type that have one.
    pub fn names(&self, job_type: &str) -> impl Iterator<Item = (String, Uuid)> {
        let active = self.active.iter().map(|n| &self.entries[n].handle);
        let of_type = active.filter(move |handle| handle.spec.job_type == job_type);
        of_type.filter_map(|handle| Some((handle.spec.name.clone()?, handle.id)))
    }

    /// The job that an owner has submitted with this key.
    pub fn keyed(&self, key: &(String, String)) -> Option<Arc<JobHandle>> {
        self.by_key.get(key).map(|n| self.entries[n].handle.clone())
    }

    pub fn set_priority(&mut self, id: Uuid, priority: i64) -> Option<Snapshot> {
        let entry = self.entry_mut(id)?;
        // What is not stored any more is not changed.
        if entry.snapshot.status.is_active() && entry.ending.is_none() {
            entry.snapshot.priority = priority;
            entry.handle.set_priority(priority);
        }
        self.snapshot(id)
    }

    pub fn handle(&self, id: Uuid) -> Option<Arc<JobHandle>> {
        self.entry(id).map(|e| e.handle.clone())
    }

    pub fn status(&self, id: Uuid) -> Option<Status> {
        self.entry(id).map(|e| e.snapshot.status)
    }

    pub fn n(&self, id: Uuid) -> Option<u64> {
        self.by_id.get(&id).copied()
    }

    pub fn input(&self, id: Uuid, upload: Uuid) -> Option<&Input> {
        self.entry(id)?.inputs.iter().find(|input| input.upload == upload)
    }

    /// Gives an active job further inputs: those that it does not have yet.
    pub fn add_inputs(&mut self, id: Uuid, inputs: Vec<Input>) {
        if let Some(entry) = self.entry_mut(id) {
            let new = inputs.into_iter().filter(|input| !entry.inputs.contains(input)).collect::<Vec<_>>();
            entry.inputs.extend(new);
        }
    }

    /// What is to be stored of a job; none while its end is.
    pub fn record(&self, id: Uuid) -> Option<Record> {
        let n = self.by_id.get(&id)?;
        self.entries.get(n).filter(|entry| entry.ending.is_none()).map(|entry| entry.record(*n))
    }

    /// All that is to be stored, as it is stored or is to be next.
    pub fn records(&self) -> Vec<Record> {
        let of = |(n, entry): (&u64, &Entry)| match &entry.ending {
            Some(record) => (**record).clone(),
            None => entry.record(*n),
        };
        let mut records: Vec<Record> = self.entries.iter().map(of).collect();
        records.extend(self.accepting.values().cloned());
        records.sort_unstable_by_key(|record| record.n);
        records
    }

    pub fn snapshot(&self, id: Uuid) -> Option<Snapshot> {
        let entry = self.entry(id)?;
        let mut snapshot = entry.snapshot.clone();
        if snapshot.status == Status::Queued {
            let n = self.by_id[&id];
            snapshot.position = self.queue(entry.handle.spec.background).iter().position(|other| *other == n);
        }
        Some(snapshot)
    }

    pub fn snapshots(&self) -> impl Iterator<Item = Snapshot> + '_ {
        let positions = self.positions();
        self.entries.iter().map(move |(n, entry)| entry.placed(positions.get(n)))
    }

    /// Jobs that were accepted before the one of this number, newest first; of the owners that fit.
    pub fn before<'a, F: Fn(Option<&str>) -> bool + 'a>(
        &'a self,
        end: u64,
        fits: F,
    ) -> impl Iterator<Item = Snapshot> + use<'a, F> {
        let positions = self.positions();
        let jobs = self.entries.range(..end).rev();
        let jobs = jobs.filter(move |(_, job)| fits(job.snapshot.owner.as_deref()));
        jobs.map(move |(n, entry)| entry.placed(positions.get(n)))
    }

    /// Places of the jobs that wait.
    fn positions(&self) -> HashMap<u64, usize> {
        let queues = [false, true].map(|background| self.queue(background));
        queues.into_iter().flat_map(|queue| queue.into_iter().enumerate().map(|(i, n)| (n, i))).collect()
    }

    pub fn queue_snapshots(&self) -> impl Iterator<Item = Snapshot> + '_ {
        self.queue(false)
            .into_iter()
            .enumerate()
            .map(|(position, n)| Snapshot { position: Some(position), ..self.entries[&n].snapshot.clone() })
    }

    /// Queued jobs, without those of the background.
    pub fn queued(&self) -> usize {
        self.count(Status::Queued, false)
    }

    /// The same of these owners.
    pub fn queued_of(&self, fits: impl Fn(Option<&str>) -> bool) -> usize {
        let queued = self.of_status(Status::Queued).filter(|entry| !entry.handle.spec.background);
        queued.filter(|entry| fits(entry.handle.spec.owner.as_deref())).count()
    }

    /// Running jobs, without those of the background.
    pub fn running(&self) -> usize {
        self.count(Status::Running, false)
    }

    /// Queued and running jobs of the background.
    pub fn background(&self) -> (usize, usize) {
        (self.count(Status::Queued, true), self.count(Status::Running, true))
    }

    fn count(&self, status: Status, background: bool) -> usize {
        self.of_status(status).filter(|entry| entry.handle.spec.background == background).count()
    }

    fn of_status(&self, status: Status) -> impl Iterator<Item = &Entry> {
        self.active.iter().map(|n| &self.entries[n]).filter(move |entry| entry.snapshot.status == status)
    }

    /// The numbers of queued jobs, of the background or not, next first: by priority, then by age.
    fn queue(&self, background: bool) -> Vec<u64> {
        let waits = |entry: &Entry| {
            entry.snapshot.status == Status::Queued
                && entry.ending.is_none()
                && entry.handle.spec.background == background
        };
        let queued = self.active.iter().map(|n| (n, &self.entries[n])).filter(|(_, entry)| waits(entry));
        let mut queue: Vec<(i64, u64)> = queued.map(|(n, entry)| (-entry.snapshot.priority, *n)).collect();
        queue.sort_unstable();
        queue.into_iter().map(|(_, n)| n).collect()
    }

    fn entry(&self, id: Uuid) -> Option<&Entry> {
        self.entries.get(self.by_id.get(&id)?)
    }

    fn entry_mut(&mut self, id: Uuid) -> Option<&mut Entry> {
        self.entries.get_mut(self.by_id.get(&id)?)
    }
}

impl Entry {
    /// Bytes of what was asked and of what came of it.
    fn weight(&self) -> usize {
        weight_of(&self.handle.spec, &self.snapshot)
    }

    fn is_running(&self) -> bool {
        self.snapshot.status == Status::Running && self.ending.is_none()
    }

    fn placed(&self, position: Option<&usize>) -> Snapshot {
        Snapshot { position: position.copied(), ..self.snapshot.clone() }
    }

    fn record(&self, n: u64) -> Record {
        Record {
            n,
            spec: self.handle.spec.clone(),
            job: Snapshot { position: None, ..self.snapshot.clone() },
            told: if self.snapshot.status.is_active() { self.handle.told() } else { Vec::new() },
            inputs: self.inputs.clone(),
            faults: self.faults,
            interruptions: self.interruptions,
            ended_at: self.ended_at,
        }
    }
}

/// Bytes of a job in memory, at most about.
pub fn weight_of(spec: &Spec, snapshot: &Snapshot) -> usize {
    /// Of what each job has.
    const ENTRY: usize = 2048;
    let error = snapshot.error.as_ref().map_or(0, String::len);
    ENTRY + weight::of(&spec.params) + weight::of(&snapshot.detail) + weight::of(&snapshot.meta) + error
}
