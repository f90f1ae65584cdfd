//! All that a history has beside the store: its clients and what they were told, its chance, its clock, its disk.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
};

use reverie_jobs::{Config, Event, Jobs, Snapshot};
use uuid::Uuid;

use crate::{
    clock::Virtual,
    disk::Disk,
    generator::Generator,
    request::{Deletion, Request, Told},
};

pub type Shared = Rc<World>;

pub struct World {
    pub chance: RefCell<Generator>,
    pub requests: RefCell<Vec<Request>>,
    pub violations: RefCell<Vec<String>>,
    pub clock: Arc<Virtual>,
    pub disk: Arc<Disk>,
    pub config: Config,
    /// Which process runs.
    pub process: Cell<u64>,
    /// Whether clients and workers still do what keeps jobs from their end.
    pub mischief: Cell<bool>,
    outputs: Cell<u64>,
    trace: RefCell<Option<Vec<String>>>,
}

impl World {
    pub fn new(seed: u64, traced: bool) -> Self {
        let mut chance = Generator::new(seed);
        let disk = Arc::new(Disk::new(chance.split()));
        let few = chance.chance(1, 5);
        let hours = if chance.chance(1, 10) { 1.0 } else { 24.0 };
        let config = Config {
            default_type: "generate".into(),
            queue_limit: chance.pick(&[3, 64]),
            max_params_bytes: 1 << 16,
            max_params_values: 1000,
            concurrency: 2,
            background_limit: 4,
            background_concurrency: 1,
            max_attempts: 2,
            max_interruptions: chance.pick(&[1, 3, 5]),
            keep_finished: if few { 2 } else { 1000 },
            keep_finished_total: if few { 3 } else { 10_000 },
            keep_finished_hours: hours,
            keep_records_mb: 0,
            keep_outputs_mb: 0,
            ledger: crate::history::LEDGER.into(),
        };
        Self {
            chance: RefCell::new(chance),
            requests: RefCell::default(),
            violations: RefCell::default(),
            clock: Arc::new(Virtual::new()),
            disk,
            config,
            process: Cell::new(1),
            mischief: Cell::new(true),
            outputs: Cell::new(0),
            trace: RefCell::new(traced.then(Vec::new)),
        }
    }

    /// A line of the trace, where there is one.
    pub fn say(&self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut *self.trace.borrow_mut() {
            trace.push(line());
        }
    }

    pub fn trace(&self) -> Vec<String> {
        self.trace.borrow().clone().unwrap_or_default()
    }

    pub fn chance(&self, times: u64, of: u64) -> bool {
        self.chance.borrow_mut().chance(times, of)
    }

    pub fn below(&self, end: u64) -> u64 {
        self.chance.borrow_mut().below(end)
    }

    pub fn index(&self, length: usize) -> usize {
        self.chance.borrow_mut().index(length)
    }

    pub fn pick<T: Copy>(&self, of: &[T]) -> T {
        self.chance.borrow_mut().pick(of)
    }

    pub fn wrong(&self, what: String) {
        self.say(|| format!("WRONG: {what}"));
        self.violations.borrow_mut().push(what);
    }

    pub fn next_output(&self) -> u64 {
        self.outputs.set(self.outputs.get() + 1);
        self.outputs.get()
    }

    pub fn with<T>(&self, request: usize, act: impl FnOnce(&mut Request) -> T) -> T {
        act(&mut self.requests.borrow_mut()[request])
    }

    pub fn id(&self, request: usize) -> Option<Uuid> {
        self.with(request, |request| request.id)
    }

    /// Whose job this is.
    pub fn request_of(&self, jobs: &Jobs, id: Uuid) -> Option<usize> {
        let known = self.requests.borrow().iter().position(|request| request.id == Some(id));
        known.or_else(|| Some(jobs.params(id)?.get("request")?.as_u64()? as usize))
    }

    /// Takes note of the job of a request.
    pub fn is_job(&self, request: usize, id: Uuid) {
        let before = self.with(request, |request| request.id.replace(id));
        if before.is_some_and(|before| before != id) {
            self.wrong(format!("request {request} has two jobs: {} and {id}", before.expect("some")));
        }
    }

    /// What a client hears of a job, from an event or an answer.
    pub fn told(&self, request: usize, job: &Snapshot) {
        self.is_job(request, job.id);
        let wrong = self.with(request, |request| {
            if request.deletion == Deletion::Told {
                return Some("it is told of after its deletion was".to_owned());
            }
            if let Some(told) = &request.told {
                let same =
                    told.status == job.status && told.outputs == job.outputs && told.error == job.error;
                return (!same)
                    .then(|| format!("it was told to be {:?} and is {:?}", told.status, job.status));
            }
            if !job.status.is_active() {
                let (outputs, error) = (job.outputs.clone(), job.error.clone());
                request.told = Some(Told { status: job.status, outputs, error });
            }
            None
        });
        if let Some(wrong) = wrong {
            self.wrong(format!("request {request}: {wrong}"));
        }
    }

    pub fn heard(&self, jobs: &Jobs, events: Vec<Event>) {
        for event in events {
            let (Event::Progress(job) | Event::Finished { job, .. }) = event;
            match self.request_of(jobs, job.id) {
                Some(request) => {
                    self.say(|| {
                        let (status, attempt) = (job.status.as_str(), job.attempt);
                        format!("    told: request {request} is {status}, attempt {attempt}")
                    });
                    self.told(request, &job);
                }
                // Dropped by now.
                None => self.say(|| format!("    told of a job that is gone: {}", job.id)),
            }
        }
    }

    /// Whether a job may be gone without anybody's having deleted it.
    pub fn may_be_dropped(&self, request: usize) -> bool {
        let requests = self.requests.borrow();
        let this = &requests[request];
        if !this.may_have_ended() {
            return false;
        }
        let hours = self.config.keep_finished_hours;
        if this.ends_since.is_some_and(|since| self.clock.passed() - since >= hours * 3600.0) {
            return true;
        }
        let others = || requests.iter().filter(|other| other.may_have_ended() && other.id.is_some());
        let of_owner = others().filter(|other| other.spec.owner == this.spec.owner).count();
        of_owner > self.config.keep_finished || others().count() > self.config.keep_finished_total
    }

    /// A client was told that a job is unknown.
    pub fn is_unknown(&self, request: usize, to: &str) {
        let settled = self.with(request, |request| request.is_settled());
        if settled && !self.may_be_dropped(request) {
            self.wrong(format!("request {request}: {to} says that its job is unknown"));
        }
    }

    /// Jobs by request, and those of none.
    pub fn by_request(&self, jobs: &Jobs) -> HashMap<usize, Snapshot> {
        let mut found = HashMap::new();
        for job in jobs.list(None) {
            match self.request_of(jobs, job.id) {
                Some(request) => {
                    self.is_job(request, job.id);
                    if found.insert(request, job).is_some() {
                        self.wrong(format!("request {request} has two jobs"));
                    }
                }
                None => self.wrong(format!("job {} is of nobody", job.id)),
            }
        }
        found
    }
}
