//! The server is ended again and again at random moments while clients work: by `kill -9`, and by SIGTERM.

use std::{collections::BTreeSet, time::Duration};

use crate::{drill::Drill, fleet::Fleet, process::Process};

const CLIENTS: usize = 4;

/// How long jobs may take to end once there are no new ones.
const SETTLE: Duration = Duration::from_secs(60);

/// Keeps all, so that whatever is unknown is lost.
const SETTINGS: &[&str] = &[
    "jobs.queue_limit=100000",
    "jobs.keep_finished=1000000",
    "jobs.keep_finished_total=1000000",
    "jobs.concurrency=4",
    "uploads.ttl_s=3600",
];

#[test]
fn kill_storm() {
    let drill = Drill::begin("kill_storm", 15);
    // A job has no part in the kills, however often it ran.
    let settings = [SETTINGS, &["jobs.max_interruptions=1000000"]].concat();
    storm(drill, &settings, |drill, server, fleet| {
        server.kill();
        // While it starts, too.
        if drill.dice.once_in(4) {
            fleet.next_life();
            server.stumble(Duration::from_millis(drill.dice.between(5, 600)));
        }
    });
}

#[test]
fn sigterm_storm() {
    let drill = Drill::begin("sigterm_storm", 10);
    // One attempt that counts is one too many.
    let attempts = ["jobs.max_interruptions=1", "jobs.max_attempts=1", "server.shutdown_grace_s=1"];
    let settings = [SETTINGS, &attempts].concat();
    storm(drill, &settings, |drill, server, _| {
        let ended = server.terminate(Duration::from_secs(20));
        drill.check(ended, || "the server does not end well after SIGTERM".into());
    });
}

fn storm(mut drill: Drill, settings: &[&str], mut end: impl FnMut(&mut Drill, &mut Process, &Fleet)) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = Process::prepare(folder.path(), settings);
    server.start();
    let mut fleet = Fleet::begin(&server.address, CLIENTS, &mut drill.dice);
    let mut ends = 0;
    while drill.goes_on() {
        std::thread::sleep(Duration::from_millis(drill.dice.between(20, 900)));
        drill.check(server.runs(), || "the server ended by itself".into());
        end(&mut drill, &mut server, &fleet);
        ends += 1;
        fleet.next_life();
        std::thread::sleep(Duration::from_millis(drill.dice.below(50)));
        server.start();
        let faults = fleet.examine(10, &mut drill.dice);
        drill.faults(faults);
    }
    let faults = fleet.settle(SETTLE);
    drill.faults(faults);
    end(&mut drill, &mut server, &fleet);
    server.start();
    let faults = [fleet.examine(usize::MAX, &mut drill.dice), fleet.compare_lists()].concat();
    drill.faults(faults);
    compare_storage(&mut drill, &server, &fleet);
    let summary = fleet.summary();
    drill.end(format_args!("{} ends; {summary}", ends + 1));
}

/// What lies in the storage is what jobs have: attempts that were cut short leave nothing behind for ever.
fn compare_storage(drill: &mut Drill, server: &Process, fleet: &Fleet) {
    let (kept, gone) = fleet.outputs();
    let (kept, gone): (BTreeSet<String>, BTreeSet<String>) =
        (kept.into_iter().collect(), gone.into_iter().collect());
    let listed = || -> BTreeSet<String> {
        let entries = std::fs::read_dir(server.data("storage")).expect("the storage");
        let files = entries.flatten().filter(|entry| entry.path().is_file());
        files.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let left = || -> Vec<String> {
        listed().into_iter().filter(|name| !kept.contains(name) && !gone.contains(name)).collect()
    };
    crate::drill::becomes(Duration::from_secs(5), || left().is_empty());
    let left = left();
    drill.check(left.is_empty(), || {
        format!("{} of {} outputs belong to no job, such as {:?}", left.len(), listed().len(), left.first())
    });
}
