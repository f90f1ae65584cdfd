//! One process of the server: from the opening of its store to its end.

use std::{collections::HashSet, path::Path, sync::Arc};

use parking_lot::Mutex;
use reverie_jobs::{
    Event, Jobs, Status,
    store::{Command, Committer, Database, Kept, Loaded, Sqlite},
};
use reverie_memory::Budget;
use tokio::sync::mpsc::UnboundedReceiver;
use uuid::Uuid;

use crate::{executor::Executor, history::LEDGER, machine::Machine, workers, world::Shared};

pub struct Process {
    // In this order they go.
    pub tasks: Executor,
    committer: Committer,
    receiver: UnboundedReceiver<Command>,
    events: Arc<Mutex<Vec<Event>>>,
    pub jobs: Arc<Jobs>,
}

/// What the ledger holds for a process that opens it.
pub fn load(world: &Shared) -> Result<(Database, Loaded), String> {
    Database::open(Path::new(LEDGER), Arc::new(Machine::new(world.disk.clone())))
}

impl Process {
    pub fn new(world: &Shared, database: Database, loaded: Loaded) -> Self {
        let at_fault = at_fault(world, &loaded.kept);
        let (store, committer, receiver) = Sqlite::without_thread(database);
        let jobs = Jobs::open(
            world.config.clone(),
            Box::new(store),
            loaded,
            world.clock.clone(),
            &at_fault,
            Budget::unlimited(),
        );
        let events = Arc::new(Mutex::new(Vec::new()));
        let heard = events.clone();
        jobs.on_event(move |event| heard.lock().push(event.clone()));
        let mut process = Self { tasks: Executor::default(), committer, receiver, events, jobs };
        for number in 0..world.config.concurrency {
            process
                .spawn(format!("worker {number}"), workers::foreground(world.clone(), process.jobs.clone()));
        }
        process.spawn("dreamer".into(), workers::background(world.clone(), process.jobs.clone()));
        process
    }

    pub fn spawn(&mut self, name: String, task: impl Future<Output = ()> + 'static) {
        self.tasks.spawn(name, task);
    }

    /// Lets the store do the next of what it was asked, at most so much.
    pub fn commit(&mut self, most: usize) -> usize {
        let mut commands = Vec::new();
        while commands.len() < most
            && let Ok(command) = self.receiver.try_recv()
        {
            commands.push(command);
        }
        let count = commands.len();
        self.committer.step(commands);
        count
    }

    /// Lets a task go on, and clients hear what came of it.
    pub fn poll(&mut self, world: &Shared, task: usize) {
        self.tasks.poll(task);
        self.hear(world);
    }

    pub fn hear(&self, world: &Shared) {
        let events = std::mem::take(&mut *self.events.lock());
        world.heard(&self.jobs, events);
    }

    /// Whether nothing happens any more by itself.
    pub fn is_idle(&self) -> bool {
        self.tasks.ready().is_empty() && self.receiver.is_empty() && !self.committer.is_behind()
    }

    /// The end of a process in good order, as far as its store is concerned.
    pub fn close(mut self) {
        let jobs = self.jobs.clone();
        self.spawn("close".into(), async move { jobs.close().await });
        let last = self.tasks.ready().into_iter().last().expect("just spawned");
        self.tasks.poll(last);
        self.commit(usize::MAX);
        self.committer.close();
    }

    /// Ids of jobs that run.
    pub fn running(&self) -> Vec<Uuid> {
        let running = |job: &reverie_jobs::Snapshot| job.status == Status::Running;
        self.jobs.list(None).iter().filter(|job| running(job)).map(|job| job.id).collect()
    }
}

/// Now and then a job is known to have ended the process before.
fn at_fault(world: &Shared, kept: &Kept) -> HashSet<Uuid> {
    let running = kept.records.iter().filter(|record| record.job.status == Status::Running);
    running.map(|record| record.job.id).filter(|_| world.chance(1, 6)).collect()
}
