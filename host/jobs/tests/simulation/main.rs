//! Fault simulation: histories of a server and its clients on a disk that fails, tears and forgets, with ends of the process
//! and of the power at every point, each repeatable by its seed, compared with what clients were told.
//!
//! `REVERIE_SIMULATION_HISTORIES=N` runs N histories, `REVERIE_SIMULATION_FIRST=S` those from seed S on, 0 if not given;
//! `REVERIE_SIMULATION_SEED=S` runs the one of seed S and prints its trace.

mod checks;
mod clients;
mod clock;
mod disk;
mod executor;
mod generator;
mod history;
mod image;
mod locks;
mod machine;
mod process;
mod request;
mod vfs;
mod vfs_file;
mod workers;
mod world;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use parking_lot::Mutex;

const HISTORIES: u64 = 10_000;

/// Failing histories that are shown.
const SHOWN: usize = 3;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}: '{text}' is no number")))
}

fn show(seed: u64, report: &history::Report) -> String {
    let trace = report.trace.join("\n");
    let violations = report.violations.join("\n  ");
    format!("{trace}\nseed {seed}:\n  {violations}\n  (again: REVERIE_SIMULATION_SEED={seed})")
}

/// The timers that a job's inbox makes need a runtime to be made; it never runs.
fn in_runtime<T>(act: impl FnOnce() -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let _entered = runtime.enter();
    act()
}

#[test]
fn what_clients_are_told_holds() {
    vfs::register();
    if let Some(seed) = number("REVERIE_SIMULATION_SEED") {
        let report = in_runtime(|| history::run(seed, true));
        println!("{}", show(seed, &report));
        assert!(report.violations.is_empty(), "seed {seed}");
        return;
    }
    let histories = number("REVERIE_SIMULATION_HISTORIES").unwrap_or(HISTORIES);
    let first = number("REVERIE_SIMULATION_FIRST").unwrap_or(0);
    let (next, ends, faults, jobs) =
        (AtomicU64::new(first), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let failed = Mutex::new(Vec::new());
    let work = || {
        in_runtime(|| {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= first + histories || failed.lock().len() >= 20 {
                    break;
                }
                let report = history::run(seed, false);
                ends.fetch_add(report.ends, Ordering::Relaxed);
                faults.fetch_add(report.faults, Ordering::Relaxed);
                jobs.fetch_add(report.jobs, Ordering::Relaxed);
                if !report.violations.is_empty() {
                    failed.lock().push((seed, report.violations));
                }
            }
        });
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let mut failed = failed.into_inner();
    failed.sort_unstable();
    println!(
        "{histories} histories from seed {first} on: {} jobs, {} ends of the process or the power, {} faults of the \
         disk",
        jobs.into_inner(),
        ends.into_inner(),
        faults.into_inner()
    );
    for (seed, _) in failed.iter().take(SHOWN) {
        println!("{}\n", show(*seed, &in_runtime(|| history::run(*seed, true))));
    }
    let seeds: Vec<String> =
        failed.iter().map(|(seed, violations)| format!("seed {seed}: {}", violations[0])).collect();
    assert!(failed.is_empty(), "histories failed:\n{}", seeds.join("\n"));
}
