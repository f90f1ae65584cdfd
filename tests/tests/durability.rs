//! What is accepted is not lost: crashes, restarts, orderly ends.

use std::time::Duration;

use reverie_tests::{Server, picture};
use serde_json::json;

#[test]
fn accepted_jobs_survive_a_crash() {
    let mut server = Server::start(&["jobs.concurrency=1"], &["echo"]);
    let mut client = server.connect_to("/v1/ws?clientId=client-of-tests-1");
    let done = client.submit(json!({"jobType": "echo", "x": 1}));
    client.finish(&done);
    let file_ref = server.upload(&picture(8, 8));
    let running = client.submit(json!({"jobType": "echo-sleep", "ms": 20, "steps": 100}));
    client.receive_where(|m| m["jobId"] == running.as_str() && m["status"] == "running");
    let queued = client.submit(json!({"jobType": "echo", "x": 2}));
    // Its upload is gone after the crash, and was stored with the job.
    let with_input = client.submit(json!({"jobType": "sr", "fileRef": file_ref}));
    server.crash_and_restart();

    let mut client = server.connect_to("/v1/ws?clientId=client-of-tests-1");
    for (job, status) in [(&done, "done"), (&running, "done"), (&queued, "done"), (&with_input, "done")] {
        let got = client.ended(job);
        assert_eq!(got["status"], status, "{got}");
    }
    let got = client.ask(json!({"type": "job:get", "jobId": running}));
    assert_eq!(got["job"]["attempt"], 2, "{got}");
    let refused = client.submit(json!({"jobType": "sr", "fileRef": file_ref}));
    let refused = client.finish(&refused);
    assert!(refused["error"].as_str().unwrap().contains("not found or expired"), "{refused}");
}

#[test]
fn a_job_during_which_the_server_ends_again_and_again_is_given_up() {
    let mut server = Server::start(&["jobs.max_interruptions=2"], &["echo"]);
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
    let ledger = reverie::jobs::inspect(&server.dir.path().join("reverie-data/ledger.db")).unwrap();
    assert_eq!((ledger.active, ledger.finished), (1, 1));
    server.crash_and_restart();
    assert_eq!(server.connect().ask(json!({"type": "job:get", "jobId": running}))["job"]["status"], "done");
    server.connect().ended(&queued);
}

#[test]
fn an_orderly_end_cuts_jobs_off_without_blame() {
    let mut server = Server::start(&["server.shutdown_grace_s=0", "jobs.max_interruptions=1"], &["echo"]);
    let mut client = server.connect();
    let job = client.submit(json!({"jobType": "echo-sleep", "ms": 20, "steps": 200}));
    for attempt in [1, 2, 3] {
        let mut client = server.connect();
        let running = |got: &serde_json::Value| got["job"]["status"] == "running";
        while !running(&client.ask(json!({"type": "job:get", "jobId": job}))) {}
        let got = client.ask(json!({"type": "job:get", "jobId": job}));
        assert_eq!(got["job"]["attempt"].as_u64().unwrap_or(1), attempt, "{got}");
        assert!(server.terminate());
        server.crash_and_restart();
    }
    assert_eq!(server.connect().ended(&job)["status"], "done");
}

#[test]
fn a_job_submitted_again_with_its_key_is_the_same_job() {
    let mut server = Server::start(&[], &["echo"]);
    let mut client = server.connect_to("/v1/ws?clientId=client-of-tests-1");
    let submit = json!({"type": "job:submit", "jobType": "echo", "x": 1, "key": "mine"});
    let first = client.ask(submit.clone())["jobId"].clone();
    let job = first.as_str().unwrap();
    client.finish(job);
    assert_eq!(client.ask(submit.clone())["jobId"], first);
    server.crash_and_restart();

    // A client that has missed the end is told it.
    let mut client = server.connect_to("/v1/ws?clientId=client-of-tests-1");
    assert_eq!(client.ask(submit.clone())["jobId"], first);
    assert_eq!(client.finish(job)["type"], "job:complete");
    let mut other = submit.clone();
    other["x"] = json!(2);
    let refused = client.submit(other);
    let refused = client.finish(&refused);
    assert!(refused["code"] == "conflict" && refused["error"].as_str().unwrap().contains(job), "{refused}");
    // Another client's key is another key.
    assert_ne!(server.connect_to("/v1/ws?clientId=another-of-tests-2").ask(submit)["jobId"], first);

    let post = |path: &str, key: &str| {
        let answer = ureq::post(format!("http://{}{path}", server.address))
            .config()
            .http_status_as_error(false)
            .build()
            .header("idempotency-key", key)
            .send(r#"{"jobType": "echo", "x": 1}"#)
            .unwrap();
        let (status, text) = (answer.status(), answer.into_body().read_to_string().unwrap());
        (status.as_u16(), serde_json::from_str::<serde_json::Value>(&text).unwrap())
    };
    let (status, answer) = post("/v1/jobs?clientId=client-of-tests-1", "mine");
    assert_eq!((status, &answer["jobId"]), (200, &first), "{answer}");
    let (status, answer) = post("/v1/jobs", "mine");
    assert!(status == 422 && answer["error"].as_str().unwrap().contains("clientId"), "{answer}");
    let (status, answer) = post("/v1/jobs?clientId=client-of-tests-1", &"k".repeat(129));
    assert!(status == 422 && answer["error"].as_str().unwrap().contains("1 to 128"), "{answer}");
}

/// By another name, by a link, and after somebody has removed the lock's file: the first one's jobs stay its own.
#[cfg(unix)]
#[test]
fn a_second_server_does_not_get_at_the_ledger_by_another_name() {
    use std::{fs, os::unix::fs::symlink, process::Command};
    let server = Server::start(&[], &["echo"]);
    let mut client = server.connect();
    let job = client.submit(json!({"jobType": "echo", "x": 1}));
    client.finish(&job);
    let data = server.dir.path().join("reverie-data");
    let ledger = data.join("ledger.db");
    symlink(&ledger, data.join("link.db")).unwrap();
    symlink(data.join("gone"), data.join("nowhere.db")).unwrap();
    fs::hard_link(&ledger, data.join("other.db")).unwrap();
    let refused = |name: &str, why: &str| {
        let second = Command::new(reverie_tests::binary())
            .current_dir(server.dir.path())
            .args(["serve", "--port", "0", "--set"])
            .arg(format!("jobs.ledger={}", data.join(name).display()))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&second.stderr).into_owned();
        assert!(!second.status.success() && said.contains(why), "{name}: {said}");
    };
    refused("link.db", "in use by another server");
    refused("other.db", "in use by another server");
    refused("nowhere.db", "link to a file that is not there");
    refused("storage", "no file");
    fs::remove_file(data.join("ledger.db.lock")).unwrap();
    refused("ledger.db", "in use by another server");
    assert_eq!(client.ended(&job)["status"], "done");
}

#[test]
fn a_deleted_job_is_gone_with_its_outputs() {
    let mut server = Server::start(&[], &["echo"]);
    let mut client = server.connect_to("/v1/ws?clientId=client-of-tests-1");
    let file_ref = server.upload(&picture(8, 8));
    let job = client.submit(json!({"jobType": "sr", "fileRef": file_ref}));
    let url = client.finish(&job)["outputs"][0]["url"].as_str().unwrap().to_owned();
    let running = client.submit(json!({"jobType": "echo-sleep", "ms": 20, "steps": 50}));
    let refused = client.ask(json!({"type": "job:delete", "jobId": running}));
    assert!(refused["type"] == "job:delete:ack" && refused["code"] == "conflict", "{refused}");
    let stored = |server: &Server| {
        let answer = ureq::get(format!("http://{}{url}", server.address)).call();
        !matches!(answer, Err(ureq::Error::StatusCode(404)))
    };
    assert!(stored(&server));
    let deleted = client.ask(json!({"type": "job:delete", "jobId": job}));
    assert_eq!((&deleted["jobId"], &deleted["status"]), (&json!(job), &json!("deleted")), "{deleted}");
    let got = client.ask(json!({"type": "job:get", "jobId": job}));
    assert_eq!(got["code"], "not_found", "{got}");
    server.crash_and_restart();
    let got = server.connect().ask(json!({"type": "job:get", "jobId": job}));
    assert_eq!(got["code"], "not_found", "{got}");
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while stored(&server) {
        assert!(std::time::Instant::now() < deadline, "the output is still there");
        std::thread::sleep(Duration::from_millis(20));
    }
}
