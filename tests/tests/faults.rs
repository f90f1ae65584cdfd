//! A server that crashes by a fault of its own, and one that is ended from outside: which job that is counted against.

#![cfg(target_os = "linux")]

use std::{fs, os::unix::process::ExitStatusExt, path::Path};

use reverie_tests::Server;
use serde_json::json;

const SIGBUS: i32 = 7;
const SIGSEGV: i32 = 11;

/// Cuts all weights below a folder to nothing: what has them mapped faults where it reads them.
fn cut_weights(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            cut_weights(&path);
        } else if path.extension().is_some_and(|extension| extension == "safetensors") {
            fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
        }
    }
}

#[test]
fn a_crash_counts_against_the_job_that_caused_it_alone() {
    let settings =
        ["jobs.max_attempts=1", "jobs.concurrency=2", "execution.backend=cpu", "execution.threads=2"];
    let mut server = Server::start(&settings, &["echo"]);
    let mut client = server.connect_to("/v1/ws?clientId=client-of-tests-1");
    // The model is in memory from here on, and its tables of words are read from its file.
    let first = client.submit(json!({"jobType": "generate", "prompt": "a cat"}));
    assert_eq!(client.finish(&first)["type"], "job:complete");
    let innocent = client.submit(json!({"jobType": "echo-sleep", "ms": 20, "steps": 200}));
    client.receive_where(|m| m["jobId"] == innocent.as_str() && m["status"] == "running");
    cut_weights(&server.dir.path().join("reverie-data/embedded"));
    let guilty = client.submit(json!({"jobType": "generate", "prompt": "a dog"}));
    assert_eq!(server.ended().signal(), Some(SIGBUS));
    let record = server.dir.path().join("reverie-data/ledger.db.crash");
    assert_eq!(
        fs::read_to_string(&record).unwrap(),
        // A thread of the CPU's computations met it.
        format!("signal {SIGBUS}\njob {}\ndevice\n", guilty.replace('-', ""))
    );

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
