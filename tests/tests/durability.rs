//! What is accepted is not lost: crashes, restarts, orderly ends.

use std::time::Duration;

use reverie_tests::{Server, picture};
use serde_json::json;

#[test]
fn accepted_jobs_survive_a_crash() {
    let mut server = Server::start(&["jobs.concurrency=1"], &["echo"]);
    let mut client = server.connect_to("/v1/ws?clientId=me");
    let done = client.submit(json!({"jobType": "echo", "x": 1}));
    client.finish(&done);
    let file_ref = server.upload(&picture(8, 8));
    let running = client.submit(json!({"jobType": "echo-sleep", "ms": 20, "steps": 100}));
    client.receive_where(|m| m["jobId"] == running.as_str() && m["status"] == "running");
    let queued = client.submit(json!({"jobType": "echo", "x": 2}));
    // Its upload is gone after the crash: it must be reported as failed.
    let lost_input = client.submit(json!({"jobType": "sr", "fileRef": file_ref}));
    server.crash_and_restart();

    let mut client = server.connect_to("/v1/ws?clientId=me");
    for (job, status) in [(&done, "done"), (&running, "done"), (&queued, "done"), (&lost_input, "error")] {
        let subscribed = client.ask(json!({"type": "job:subscribe", "jobId": job}));
        let seen = &subscribed["job"]["status"];
        if seen == "queued" || seen == "running" {
            client.finish(job);
        }
        let got = client.ask(json!({"type": "job:get", "jobId": job}));
        assert_eq!(got["job"]["status"], status, "{got}");
    }
    let got = client.ask(json!({"type": "job:get", "jobId": lost_input}));
    assert!(got["job"]["error"].as_str().unwrap().contains("not found or expired"), "{got}");
}

#[test]
fn a_job_that_ends_the_server_is_given_up() {
    let mut server = Server::start(&["jobs.max_attempts=2"], &["echo"]);
    let mut client = server.connect();
    let job = client.submit(json!({"jobType": "echo-sleep", "ms": 100, "steps": 1000}));
    client.receive_where(|m| m["jobId"] == job.as_str() && m["status"] == "running");
    for _ in 0..2 {
        std::thread::sleep(Duration::from_millis(500));
        server.crash_and_restart();
    }
    let got = server.connect().ask(json!({"type": "job:get", "jobId": job}));
    assert!(
        got["job"]["status"] == "error" && got["job"]["error"].as_str().unwrap().contains("given up"),
        "{got}"
    );
}

#[test]
fn an_orderly_end_finishes_what_runs_and_keeps_what_waits() {
    let mut server = Server::start(&["jobs.concurrency=1"], &["echo"]);
    let mut client = server.connect();
    let running = client.submit(json!({"jobType": "echo-sleep", "ms": 50, "steps": 10}));
    client.receive_where(|m| m["jobId"] == running.as_str() && m["status"] == "running");
    let queued = client.submit(json!({"jobType": "echo-sleep", "ms": 1, "steps": 1}));
    assert!(server.terminate());
    assert_eq!(client.finish(&running)["type"], "job:complete");
    assert_eq!(client.closed(), Some(1001));
    let ledger = std::fs::read_to_string(server.dir.path().join("reverie-data/ledger.jsonl")).unwrap();
    let last = |job: &str| ledger.lines().rfind(|line| line.contains(job)).unwrap().to_owned();
    assert!(last(&running).contains("\"done\"") && last(&queued).contains("\"queued\""), "{ledger}");
}
