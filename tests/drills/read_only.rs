//! A data folder that is mounted read-only when the server starts, and writable later.

use std::{process::Command, time::Duration};

use reverie_tests::picture;
use serde_json::json;

use crate::{
    drill::{Drill, becomes},
    inside,
    line::Line,
    process::{self, Process},
};

const SOON: Duration = Duration::from_secs(30);

#[test]
fn read_only_folder() {
    if !inside::namespace("read_only::read_only_folder") {
        return;
    }
    let mut drill = Drill::begin("read_only_folder", 1);
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = Process::prepare(folder.path(), &["hub.status_interval_s=0.2", "jobs.concurrency=1"]);
    let data = folder.path().join("reverie-data");
    let mount = |options: &[&str]| {
        let status = Command::new("mount").args(options).arg(&data).status();
        assert!(status.expect("mount runs").success(), "{options:?}");
    };
    let own = data.display().to_string();
    mount(&["--bind", &own]);
    server.start();
    let mut line = Line::connect(&server.address, "me").expect("it serves");
    let upload = process::upload(&server.address, &picture(16, 16)).expect("uploaded");
    let done = line.submit(json!({"jobType": "sr", "fileRef": upload})).expect("sent").expect("accepted");
    let before = line.ended(&done, SOON).expect("an answer");
    let sleep = json!({"jobType": "echo-sleep", "ms": 50, "steps": 20});
    let running = line.submit(sleep).expect("sent").expect("accepted");
    let waiting = line.submit(json!({"jobType": "echo"})).expect("sent").expect("accepted");
    server.kill();
    mount(&["-o", "remount,bind,ro"]);
    match server.try_start() {
        Err(refused) => drill.fault(format!("it does not start: {refused:?}")),
        Ok(()) => {
            let mut line = Line::connect(&server.address, "me").expect("it serves");
            let got = line.ask(json!({"type": "job:get", "jobId": done})).expect("an answer");
            drill.check(got["job"] == before["job"], || format!("a finished job is not served: {got}"));
            let key = before["job"]["outputs"][0]["key"].as_str().unwrap_or_default();
            let found = process::stored(&server.address, key).map(|(status, _)| status);
            drill.check(found == Some(200), || format!("its output: {found:?}"));
            for job in [&running, &waiting] {
                let got = line.ask(json!({"type": "job:get", "jobId": job})).expect("an answer");
                let there = ["queued", "running"].iter().any(|status| got["job"]["status"] == *status);
                drill.check(there, || format!("a job that had not ended: {got}"));
            }
            let refused = line.submit(json!({"jobType": "echo"})).expect("sent");
            let code = refused.as_ref().err().map(|error| error["code"].clone());
            drill.check(code == Some("unavailable".into()), || format!("a new job: {refused:?}"));
            let health = server.health_is(503);
            drill.check(health.is_ok(), || format!("/health: {health:?}"));
            let system = line.ask(json!({"type": "system:status"})).expect("an answer");
            let (store, storage) = (&system["store"], &system["storage"]);
            drill.check(store["ok"] == false && store["error"].is_string(), || format!("store: {store}"));
            drill.check(storage["ok"] == false, || format!("storage: {storage}"));
            mount(&["-o", "remount,bind,rw"]);
            let goes_on = becomes(SOON, || line.submit(json!({"jobType": "echo"})).expect("sent").is_ok());
            drill.check(goes_on, || "jobs are still refused when it can be written".into());
            for job in [&running, &waiting] {
                let got = line.ended(job, SOON).expect("an answer");
                drill.check(got["job"]["status"] == "done", || format!("when it can be written: {got}"));
            }
            let health = server.health_is(200);
            drill.check(health.is_ok(), || format!("/health, when it can be written: {health:?}"));
            // Kept like any other.
            server.kill();
            server.start();
            let mut line = Line::connect(&server.address, "me").expect("it serves");
            for job in [&done, &running, &waiting] {
                let got = line.ended(job, SOON).expect("an answer");
                drill.check(got["job"]["status"] == "done", || format!("after a restart: {got}"));
            }
        }
    }
    server.kill();
    let _ = Command::new("umount").arg(&data).status();
    drill.end("1 finished job served, 2 waited until the folder could be written, 1 refused");
}
