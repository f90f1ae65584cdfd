//! A second server in the folder of the first.

use std::{fs, time::Duration};

use serde_json::json;

use crate::{drill::Drill, line::Line, process::Process};

#[test]
fn two_processes() {
    let mut drill = Drill::begin("two_processes", 1);
    let folder = tempfile::tempdir().expect("a folder");
    let mut first = Process::prepare(folder.path(), &["jobs.concurrency=1"]);
    first.start();
    let mut line = Line::connect(&first.address, "me").expect("it serves");
    let slow = json!({"jobType": "echo-sleep", "ms": 100, "steps": 20});
    let jobs: Vec<String> =
        (0..3).map(|_| line.submit(slow.clone()).expect("sent").expect("accepted")).collect();
    let lock = fs::read(first.data("ledger.db.lock")).expect("a lock");

    let other = ("another port", "jobs.ledger", format!("(process {})", first.id()));
    let same = ("the same port", "cannot listen on", first.address.clone());
    for (what, named, detail) in [same, other] {
        let mut second = Process::prepare(folder.path(), &["jobs.concurrency=1"]);
        if what == "the same port" {
            second.address.clone_from(&first.address);
        }
        let before = contents(&first);
        match second.try_start() {
            Ok(()) => drill.fault(format!("a second server starts on {what}")),
            Err(refused) => {
                let ended = refused.status.is_some_and(|status| status.code() == Some(1));
                drill.check(ended && refused.after < Duration::from_secs(5), || {
                    format!("on {what} it does not end at once: {refused:?}")
                });
                let said = refused.said.lines().filter(|line| line.contains(named) && line.contains(&detail));
                drill.check(said.count() == 1, || format!("on {what} it says {:?}", refused.said));
            }
        }
        drill
            .check(contents(&first) == before, || format!("a second server on {what} made or removed files"));
        drill.check(first.runs(), || format!("the first server ends by one on {what}"));
    }
    drill.check(fs::read(first.data("ledger.db.lock")).ok() == Some(lock), || "the lock was written".into());

    // The first one goes on, and what it accepts lasts.
    let more = line.submit(json!({"jobType": "echo"})).expect("sent").expect("accepted");
    let ended = line.ended(&jobs[0], Duration::from_secs(30)).expect("an answer");
    drill.check(ended["job"]["status"] == "done", || format!("a job of the first server: {ended}"));
    first.kill();
    first.start();
    let mut line = Line::connect(&first.address, "me").expect("it serves");
    for job in jobs.iter().chain([&more]) {
        let got = line.ended(job, Duration::from_secs(30)).expect("an answer");
        drill.check(got["job"]["status"] == "done", || format!("after a restart: {got}"));
    }
    drill.end("2 second servers refused, 4 jobs of the first done");
}

/// The files of a data folder by name.
fn contents(server: &Process) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(server.folder.join("reverie-data"))
        .expect("a folder")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
