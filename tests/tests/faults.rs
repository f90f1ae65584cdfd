//! A server that crashes by a fault of its own, and one that is ended from outside: which job that is counted against.

#![cfg(target_os = "linux")]

use std::{fs, os::unix::process::ExitStatusExt};

use reverie_tests::Server;
use serde_json::json;

const SIGBUS: i32 = 7;
const SIGSEGV: i32 = 11;

#[test]
fn a_crash_counts_against_the_job_that_caused_it_alone() {
    let settings =
        ["jobs.max_attempts=1", "jobs.concurrency=2", "execution.backend=cpu", "execution.threads=2"];
    let faults = tempfile::NamedTempFile::new().unwrap();
    let library = std::env::current_exe().unwrap().with_file_name("libreverie_drill_faults.so");
    let environment = [
        ("LD_PRELOAD", library.to_str().expect("UTF-8")),
        ("REVERIE_DRILL_FAULTS", faults.path().to_str().expect("UTF-8")),
    ];
    let mut server = Server::start_with(&environment, &settings, &["echo"]);
    let mut client = server.connect_to("/v1/ws?clientId=client-of-tests-1");
    // The model is in memory from here on, and its tables of words are read from its file.
    let first = client.submit(json!({"jobType": "generate", "prompt": "a cat"}));
    assert_eq!(client.finish(&first)["type"], "job:complete");
    let innocent = client.submit(json!({"jobType": "echo-sleep", "ms": 20, "steps": 200}));
    client.receive_where(|m| m["jobId"] == innocent.as_str() && m["status"] == "running");
    // See `read_crash` of the preloaded library: whoever reads weights from here on crashes.
    let crash = [0, 0, 0, 0, 1].map(i64::to_le_bytes).concat();
    fs::write(faults.path(), crash).unwrap();
    let guilty = client.submit(json!({"jobType": "generate", "prompt": "a dog"}));
    assert_eq!(server.ended().signal(), Some(SIGBUS));
    let record = server.dir.path().join("reverie-data/ledger.db.crash");
    assert_eq!(
        fs::read_to_string(&record).unwrap(),
        // A thread of the CPU's computations met it.
        format!("signal {SIGBUS}\njob {}\ndevice\n", guilty.replace('-', ""))
    );

    fs::write(faults.path(), "").unwrap();
    server.crash_and_restart();
    assert!(!record.exists(), "it is dealt with");
    let mut client = server.connect_to("/v1/ws?clientId=client-of-tests-1");
    let got = client.ask(json!({"type": "job:get", "jobId": guilty}));
    let error = got["job"]["error"].as_str().unwrap_or_default();
    assert!(got["job"]["status"] == "error" && error.contains("it ended the server 1 time(s)"), "{got}");
    let got = client.ask(json!({"type": "job:get", "jobId": innocent, "subscribe": true}));
    assert!(got["job"]["status"] == "queued" || got["job"]["status"] == "running", "{got}");
    assert_eq!(client.finish(&innocent)["type"], "job:complete");
}

#[test]
fn a_signal_from_outside_is_no_jobs_fault() {
    let mut server = Server::start(&["jobs.max_attempts=1"], &["echo"]);
    let mut client = server.connect_to("/v1/ws?clientId=client-of-tests-1");
    let job = client.submit(json!({"jobType": "echo-sleep", "ms": 20, "steps": 100}));
    client.receive_where(|m| m["jobId"] == job.as_str() && m["status"] == "running");
    server.signal("-SEGV");
    assert_eq!(server.ended().signal(), Some(SIGSEGV));
    server.crash_and_restart();
    let mut client = server.connect_to("/v1/ws?clientId=client-of-tests-1");
    client.ask(json!({"type": "job:subscribe", "jobId": job}));
    assert_eq!(client.finish(&job)["type"], "job:complete");
}
