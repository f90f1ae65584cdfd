//! The queue with its store: keys, attempts, retention, and what is told.

mod common;

use std::{
    collections::HashSet,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use common::{config, quick_folder};
use parking_lot::Mutex;
use reverie_jobs::{
    Clock, Config, Event, Jobs, Outcome, Spec, Status,
    error::ErrorKind,
    store::{Machine, Sqlite},
};
use reverie_memory::Budget;
use serde_json::{Map, json};
use uuid::Uuid;

/// A clock that a test turns: unix seconds, and those that passed.
#[derive(Default)]
struct Turned(Mutex<(f64, f64)>);

impl Turned {
    fn set(&self, unix: f64, elapsed: f64) {
        *self.0.lock() = (unix, elapsed);
    }
}

impl Clock for Turned {
    fn unix(&self) -> f64 {
        self.0.lock().0
    }

    fn elapsed(&self) -> f64 {
        self.0.lock().1
    }
}

fn start(path: &Path, config: Config, clock: Arc<dyn Clock>, at_fault: &[Uuid]) -> Arc<Jobs> {
    open(path, config, clock, at_fault, Budget::unlimited())
}

fn start_with(path: &Path, config: Config, clock: Arc<dyn Clock>, memory: Arc<Budget>) -> Arc<Jobs> {
    open(path, config, clock, &[], memory)
}

fn open(
    path: &Path,
    config: Config,
    clock: Arc<dyn Clock>,
    at_fault: &[Uuid],
    memory: Arc<Budget>,
) -> Arc<Jobs> {
    let (store, loaded) = Sqlite::open(path, Arc::new(Machine)).expect("opens");
    assert!(loaded.notes.is_empty(), "{:?}", loaded.notes);
    let at_fault: HashSet<Uuid> = at_fault.iter().copied().collect();
    Jobs::open(config, Box::new(store), loaded, clock, &at_fault, memory)
}

fn spec(owner: &str, key: Option<&str>, prompt: &str) -> Spec {
    Spec {
        job_type: "image".into(),
        params: Map::from_iter([("prompt".to_owned(), json!(prompt))]),
        owner: Some(owner.into()),
        priority: 0,
        name: None,
        background: false,
        key: key.map(str::to_owned),
    }
}

async fn submit(jobs: &Jobs, owner: &str) -> Uuid {
    jobs.submit(spec(owner, None, "a lighthouse"), Vec::new(), |_| {}).await.expect("accepted").id
}

async fn take(jobs: &Jobs) -> Arc<reverie_jobs::JobHandle> {
    let taken = jobs.take(false, &|_, _| true);
    tokio::time::timeout(Duration::from_secs(10), taken).await.expect("there is one")
}

fn done() -> Outcome {
    Outcome::Done { outputs: Vec::new(), meta: Map::new() }
}

async fn run(jobs: &Jobs, owner: &str) -> Uuid {
    let id = submit(jobs, owner).await;
    assert_eq!(take(jobs).await.id, id);
    jobs.finish(id, done()).await;
    id
}

fn ids(jobs: &Jobs) -> Vec<Uuid> {
    jobs.list(None).into_iter().map(|job| job.id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_one_job_as_long_as_the_job_is_kept() {
    let folder = quick_folder();
    let path = folder.path().join("jobs.db");
    let jobs = start(&path, config(), Arc::new(Turned::default()), &[]);
    let many: Vec<_> = (0..20)
        .map(|_| {
            let jobs = jobs.clone();
            tokio::spawn(async move { jobs.submit(spec("a", Some("k"), "x"), Vec::new(), |_| {}).await })
        })
        .collect();
    let mut answers = Vec::new();
    for one in many {
        answers.push(one.await.unwrap().expect("accepted"));
    }
    let id = answers[0].id;
    assert!(answers.iter().all(|answer| answer.id == id));
    assert_eq!(answers.iter().filter(|answer| !answer.again).count(), 1);
    let other = jobs.submit(spec("a", Some("k"), "y"), Vec::new(), |_| {}).await;
    assert_eq!(other.expect_err("other parameters").kind, ErrorKind::Conflict);
    let others = jobs.submit(spec("b", Some("k"), "y"), Vec::new(), |_| {}).await.expect("another's key");
    assert_ne!(others.id, id);
    jobs.close().await;
    drop(jobs);

    let jobs = start(&path, config(), Arc::new(Turned::default()), &[]);
    let again = jobs.submit(spec("a", Some("k"), "x"), Vec::new(), |_| {}).await.expect("known");
    assert!(again.again && again.id == id);
    jobs.cancel(id).await.expect("cancelled");
    jobs.delete(id).await.expect("deleted");
    let new = jobs.submit(spec("a", Some("k"), "y"), Vec::new(), |_| {}).await.expect("free again");
    assert!(!new.again && new.id != id);
}

#[tokio::test]
async fn attempts_count_who_is_at_fault() {
    let folder = quick_folder();
    let path = folder.path().join("jobs.db");
    let restart = |at_fault: &[Uuid]| start(&path, config(), Arc::new(Turned::default()), at_fault);
    let jobs = restart(&[]);
    let id = submit(&jobs, "a").await;
    // Ends of the server that are orderly count for nothing, however many.
    let mut jobs = jobs;
    for _ in 0..5 {
        take(&jobs).await;
        jobs.close().await;
        drop(jobs);
        jobs = restart(&[]);
    }
    // Two that are not: the third would be too many, were there no checkpoint.
    for attempt in 0..5 {
        let handle = take(&jobs).await;
        assert_eq!(handle.id, id);
        if attempt == 1 || attempt == 3 {
            jobs.checkpoint(id);
            jobs.answers().await;
        }
        drop((handle, jobs));
        jobs = restart(&[]);
    }
    assert_eq!(jobs.get(id).expect("kept").status, Status::Queued);
    take(&jobs).await;
    jobs.checkpoint(id);
    jobs.answers().await;
    drop(jobs);
    let jobs = restart(&[id]);
    take(&jobs).await;
    drop(jobs);
    let jobs = restart(&[id]);
    // The end is stored before anybody is told.
    let next = submit(&jobs, "a").await;
    assert_eq!(take(&jobs).await.id, next);
    let ended = jobs.get(id).expect("kept");
    assert_eq!(ended.status, Status::Error);
    assert!(ended.error.is_some_and(|error| error.contains("ended the server 2 time(s)")));
}

#[tokio::test]
async fn retention_is_per_owner_and_of_all() {
    let folder = quick_folder();
    let path = folder.path().join("jobs.db");
    let config = Config { keep_finished: 3, keep_finished_total: 5, ..config() };
    let clock = Arc::new(Turned::default());
    let jobs = start(&path, config.clone(), clock.clone(), &[]);
    let quiet = run(&jobs, "quiet").await;
    let mut loud = Vec::new();
    for _ in 0..10 {
        loud.push(run(&jobs, "loud").await);
    }
    assert_eq!(ids(&jobs), [&[quiet][..], &loud].concat(), "those who wait for them get them");
    clock.set(0.0, 61.0);
    jobs.tick();
    assert_eq!(ids(&jobs), [&[quiet][..], &loud[7..]].concat());
    let third = [run(&jobs, "third").await, run(&jobs, "third").await];
    // Six are too many: the one who has most gives.
    assert_eq!(ids(&jobs), [&[quiet][..], &loud[8..], &third].concat());
    jobs.sweep_once(&mut |_| async { Ok(()) }).await;
    let before = ids(&jobs);
    jobs.close().await;
    drop(jobs);
    assert_eq!(ids(&start(&path, config, Arc::new(Turned::default()), &[])), before);
}

#[tokio::test]
async fn age_is_counted_by_the_clock_of_the_store() {
    let folder = quick_folder();
    let path = folder.path().join("jobs.db");
    let clock = Arc::new(Turned::default());
    clock.set(1e9, 0.0);
    let jobs = start(&path, config(), clock.clone(), &[]);
    let id = run(&jobs, "a").await;
    for days in [2.0, -2.0, 4000.0] {
        clock.set(1e9 + days * 86400.0, 10.0);
        jobs.tick();
        assert_eq!(ids(&jobs), [id], "a clock that jumps {days} days");
    }
    clock.set(1e9, 20.0 * 3600.0);
    jobs.tick();
    jobs.close().await;
    drop(jobs);
    // The time without a server does not count.
    let clock = Arc::new(Turned::default());
    clock.set(2e9, 0.0);
    let jobs = start(&path, config(), clock.clone(), &[]);
    assert_eq!(ids(&jobs), [id]);
    clock.set(2e9, 3.9 * 3600.0);
    jobs.tick();
    assert_eq!(ids(&jobs), [id]);
    clock.set(2e9, 4.1 * 3600.0);
    jobs.tick();
    assert!(ids(&jobs).is_empty());
}

#[tokio::test]
async fn jobs_are_listed_by_pages() {
    let folder = quick_folder();
    let jobs = start(&folder.path().join("jobs.db"), config(), Arc::new(Turned::default()), &[]);
    let mut own = Vec::new();
    for _ in 0..5 {
        own.push(submit(&jobs, "a").await);
        submit(&jobs, "b").await;
    }
    let page = |before, limit| {
        let (jobs, more) = jobs.page(|owner| owner == Some("a"), before, limit).expect("known");
        (jobs.iter().map(|job| job.id).collect::<Vec<_>>(), more)
    };
    assert_eq!(page(None, 2), (own[3..].to_vec(), true));
    assert_eq!(page(Some(own[3]), 2), (own[1..3].to_vec(), true));
    assert_eq!(page(Some(own[1]), 2), (own[..1].to_vec(), false));
    assert_eq!(page(None, 5), (own.clone(), false));
    let (all, more) = jobs.page(|_| true, None, 3).expect("known");
    assert_eq!((all.len(), more, all[2].position), (3, true, Some(9)));
    assert_eq!(jobs.page(|_| true, Some(Uuid::new_v4()), 3).expect_err("unknown").kind, ErrorKind::NotFound);
}

#[tokio::test]
async fn what_jobs_were_asked_with_is_bounded() {
    let folder = quick_folder();
    let path = folder.path().join("jobs.db");
    let clock = Arc::new(Turned::default());
    let budget = Budget::new(1 << 20);
    let config = Config { keep_records_mb: 1, queue_limit: 100, ..config() };
    let jobs = start_with(&path, config.clone(), clock.clone(), budget.clone());
    let submit = async |prompt: &str, values: usize| {
        let mut spec = spec("a", None, prompt);
        spec.params.insert("list".into(), vec![0; values].into());
        jobs.submit(spec, Vec::new(), |_| ()).await
    };
    let error = submit(&"x".repeat(1 << 16), 0).await.expect_err("long");
    assert!(error.kind == ErrorKind::TooLarge && error.message.contains("jobs.max_params_bytes"), "{error}");
    let error = submit("", 1000).await.expect_err("many");
    assert!(error.kind == ErrorKind::TooLarge && error.message.contains("jobs.max_params_values"), "{error}");
    assert_eq!(budget.used(), 0);
    // New work has three quarters of it.
    let prompt = "x".repeat(60_000);
    let mut accepted = Vec::new();
    let error = loop {
        match submit(&prompt, 0).await {
            Ok(submitted) => accepted.push(submitted.id),
            Err(error) => break error,
        }
    };
    assert!(error.kind == ErrorKind::Unavailable && error.message.contains("server.memory_mb"), "{error}");
    assert!((10..14).contains(&accepted.len()), "{}", accepted.len());
    for _ in &accepted {
        let handle = take(&jobs).await;
        jobs.finish(handle.id, done()).await;
    }
    // Those that have ended make room by and by.
    clock.set(0.0, 61.0);
    jobs.tick();
    assert_eq!(ids(&jobs), accepted, "less than a megabyte");
    let used = budget.used();
    jobs.delete(accepted.remove(0)).await.expect("ended");
    assert!(budget.used() < used);
    submit(&prompt, 0).await.expect("room for one more");
    jobs.close().await;
    let used = budget.used();
    drop(jobs);
    assert_eq!(budget.used(), 0);

    // What is there already is taken up whatever is free.
    let small = Budget::new(1000);
    let jobs = start_with(&path, config, clock, small.clone());
    assert_eq!((ids(&jobs).len(), small.used()), (accepted.len() + 1, used));
}

#[tokio::test]
async fn ended_jobs_go_by_the_memory_they_take() {
    let folder = quick_folder();
    let clock = Arc::new(Turned::default());
    let config = Config { keep_records_mb: 1, ..config() };
    let jobs = start(&folder.path().join("jobs.db"), config, clock.clone(), &[]);
    let mut all = Vec::new();
    for _ in 0..4 {
        let id = submit(&jobs, "a").await;
        take(&jobs).await;
        let meta = Map::from_iter([("text".to_owned(), json!("x".repeat(300_000)))]);
        jobs.finish(id, Outcome::Done { outputs: Vec::new(), meta }).await;
        all.push(id);
    }
    assert_eq!(ids(&jobs), all);
    clock.set(0.0, 61.0);
    jobs.tick();
    assert_eq!(ids(&jobs), all[1..]);
}

#[tokio::test]
async fn outputs_go_with_their_jobs_and_by_their_bytes() {
    let folder = quick_folder();
    let path = folder.path().join("jobs.db");
    let config = Config { keep_outputs_mb: 1, ..config() };
    let clock = Arc::new(Turned::default());
    let jobs = start(&path, config.clone(), clock.clone(), &[]);
    let mut all = Vec::new();
    for output in ["one", "two", "three"] {
        let id = submit(&jobs, "a").await;
        let handle = take(&jobs).await;
        jobs.stores(&handle, output, 500_000).await;
        jobs.finish(id, done()).await;
        all.push(id);
    }
    assert_eq!(ids(&jobs), all, "those who wait for them get them");
    clock.set(0.0, 61.0);
    jobs.tick();
    assert_eq!(ids(&jobs), all[1..], "three half megabytes are too many");
    jobs.delete(all[1]).await.expect("deleted");
    assert_eq!(jobs.get(all[1]).expect_err("gone").kind, ErrorKind::NotFound);
    assert_eq!(jobs.delete(all[1]).await.expect_err("gone").kind, ErrorKind::NotFound);
    // One that can't be deleted now is at the next start.
    let deleted = Mutex::new(Vec::new());
    jobs.sweep_once(&mut |key: String| {
        let fails = key == "two";
        if !fails {
            deleted.lock().push(key);
        }
        async move { if fails { Err("busy".to_owned()) } else { Ok(()) } }
    })
    .await;
    assert_eq!(*deleted.lock(), ["one"]);
    jobs.close().await;
    drop(jobs);
    let jobs = start(&path, config, Arc::new(Turned::default()), &[]);
    assert_eq!(ids(&jobs), [all[2]]);
    jobs.sweep_once(&mut |key: String| {
        deleted.lock().push(key);
        async { Ok(()) }
    })
    .await;
    assert_eq!(*deleted.lock(), ["one", "two"]);
}

#[tokio::test]
async fn a_listener_that_panics_stops_nothing() {
    let folder = quick_folder();
    let path = folder.path().join("jobs.db");
    let jobs = start(&path, config(), Arc::new(Turned::default()), &[]);
    let panics = Arc::new(AtomicBool::new(true));
    let told = Arc::new(Mutex::new(Vec::new()));
    let (when, log) = (panics.clone(), told.clone());
    jobs.on_event(move |event| {
        assert!(!when.load(Ordering::Relaxed), "the listener's own fault");
        if let Event::Finished { job, .. } = event {
            log.lock().push(job.id);
        }
    });
    let id = run(&jobs, "a").await;
    let waited = tokio::time::timeout(Duration::from_secs(10), jobs.wait(id)).await;
    assert_eq!(waited.expect("does not hang").expect("known").status, Status::Done);
    panics.store(false, Ordering::Relaxed);
    let next = run(&jobs, "a").await;
    assert_eq!(*told.lock(), [next]);
}

#[tokio::test]
async fn waiting_jobs_are_told_their_places_when_these_change() {
    let folder = quick_folder();
    let path = folder.path().join("jobs.db");
    let jobs = start(&path, config(), Arc::new(Turned::default()), &[]);
    let mut all = Vec::new();
    for _ in 0..4 {
        all.push(submit(&jobs, "a").await);
    }
    let told = Arc::new(Mutex::new(Vec::new()));
    let log = told.clone();
    jobs.on_event(move |event| {
        if let Event::Progress(job) = event
            && let Some(position) = job.position
        {
            log.lock().push((job.id, position));
        }
    });
    let heard = || std::mem::take(&mut *told.lock());
    assert_eq!(take(&jobs).await.id, all[0]);
    assert_eq!(heard(), [(all[1], 0), (all[2], 1), (all[3], 2)]);
    jobs.finish(all[0], done()).await;
    assert_eq!(heard(), [], "nobody moved");
    jobs.cancel(all[1]).await.expect("known");
    assert_eq!(heard(), [(all[2], 0), (all[3], 1)]);
}
