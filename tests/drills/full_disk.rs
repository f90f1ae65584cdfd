//! A disk without space: of everything, and of the storage alone.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    time::Duration,
};

use reverie_tests::picture;
use serde_json::{Value, json};

use crate::{
    drill::{Drill, becomes},
    inside,
    line::Line,
    process::{self, Process},
};

/// How soon the server has to see that there is no space, and that there is again.
const SOON: Duration = Duration::from_secs(15);

#[test]
fn full_disk() {
    if !inside::namespace("full_disk::full_disk") {
        return;
    }
    let mut drill = Drill::begin("full_disk", 8);
    let folder = tempfile::tempdir().expect("a folder");
    inside::mount(&folder.path().join("reverie-data"), 24 << 20);
    // Each background check of the storage is one of `hub.status_interval_s`.
    let mut server = Process::prepare(folder.path(), &["hub.status_interval_s=0.2", "jobs.concurrency=4"]);
    server.start();
    let (mut accepted, mut refused, mut rounds) = (Vec::new(), 0, 0);
    while rounds == 0 || drill.goes_on() {
        rounds += 1;
        refused += round(&mut drill, &mut server, &mut accepted);
    }
    server.kill();
    server.start();
    let mut line = Line::connect(&server.address, "me").expect("it serves");
    for job in &accepted {
        let got = line.ended(job, SOON).expect("an answer");
        drill.check(got["job"]["status"] == "done", || format!("after a restart, job {job}: {got}"));
    }
    drill.end(format_args!("{rounds} times full, {} jobs accepted, {refused} refused", accepted.len()));
}

/// Fills the disk while jobs run and clients submit, and makes space again. How many were refused.
fn round(drill: &mut Drill, server: &mut Process, accepted: &mut Vec<String>) -> usize {
    let mut line = Line::connect(&server.address, "me").expect("it serves");
    let upload = process::upload(&server.address, &picture(16, 16)).expect("uploaded");
    let finished = line.submit(json!({"jobType": "sr", "fileRef": upload})).expect("sent").expect("accepted");
    let before = line.ended(&finished, SOON).expect("an answer");
    drill.check(before["job"]["status"] == "done", || format!("with space: {before}"));
    let running = json!({"jobType": "echo-sleep", "ms": 50, "steps": 60});
    let running: Vec<String> =
        (0..3).map(|_| line.submit(running.clone()).expect("sent").expect("accepted")).collect();
    fill(&server.data("filler"));

    let mut refused = 0;
    let unavailable = |refused: &Value| {
        let said = refused["error"].as_str().unwrap_or_default();
        refused["code"] == "unavailable" && said.contains("can't be stored") && said.contains("full")
    };
    // What the log of the ledger has left over from before may take a few.
    for n in 0..400 {
        let job = json!({"jobType": "echo", "n": n, "ballast": "x".repeat(4000)});
        match line.submit(job).expect("the server answers") {
            Ok(job) => accepted.push(job),
            Err(error) => {
                refused += 1;
                drill.check(unavailable(&error), || format!("refused with {error}"));
                if refused >= 10 {
                    break;
                }
            }
        }
    }
    drill.check(refused >= 10, || format!("on a full disk only {refused} jobs are refused"));
    // A small one might find room where those did not.
    let large = json!({"jobType": "echo", "ballast": "x".repeat(200_000)});
    let (status, body) = server.post_json("/v1/jobs", &large).unwrap_or_default();
    drill.check(status == 503 && body["code"] == "unavailable", || format!("POST /v1/jobs: {status} {body}"));
    let health = server.health_is(503);
    drill.check(health.is_ok(), || format!("/health on a full disk: {health:?}"));
    let system = line.ask(json!({"type": "system:status"})).expect("an answer");
    let said = system["store"]["error"].as_str().unwrap_or_default();
    drill.check(system["store"]["ok"] == false && said.contains("full"), || {
        format!("system:status: {}", system["store"])
    });
    // What has ended is readable.
    let got = line.ask(json!({"type": "job:get", "jobId": finished})).expect("an answer");
    drill.check(got["job"] == before["job"], || format!("a finished job, on a full disk: {got}"));
    let key = got["job"]["outputs"][0]["key"].as_str().unwrap_or_default().to_owned();
    let output = process::stored(&server.address, &key).map(|(status, _)| status);
    drill.check(output == Some(200), || format!("its output, on a full disk: {output:?}"));
    // Those that end now are not told so before it is stored.
    std::thread::sleep(Duration::from_secs(3));
    for job in &running {
        let got = line.ask(json!({"type": "job:get", "jobId": job})).expect("an answer");
        drill.check(got["job"]["status"] == "running", || format!("ends while nothing can be stored: {got}"));
    }

    fs::remove_file(server.data("filler")).expect("removed");
    for job in &running {
        let got = line.ended(job, SOON).expect("an answer");
        drill.check(got["job"]["status"] == "done", || format!("with space again: {got}"));
    }
    let goes_on = becomes(SOON, || {
        let submitted = line.submit(json!({"jobType": "echo"})).expect("sent");
        accepted.extend(submitted.as_ref().ok().cloned());
        submitted.is_ok()
    });
    drill.check(goes_on, || "with space again, jobs are still refused".into());
    let health = server.health_is(200);
    drill.check(health.is_ok(), || format!("/health with space again: {health:?}"));
    let system = line.ask(json!({"type": "system:status"})).expect("an answer");
    drill.check(system["store"]["ok"] == true, || format!("with space again: {}", system["store"]));
    accepted.extend(running);
    accepted.push(finished);
    refused
}

#[test]
fn full_storage() {
    if !inside::namespace("full_disk::full_storage") {
        return;
    }
    let mut drill = Drill::begin("full_storage", 1);
    let folder = tempfile::tempdir().expect("a folder");
    inside::mount(&folder.path().join("reverie-data/storage"), 1 << 20);
    let filler = folder.path().join("reverie-data/storage/filler");
    // A job waits for space, or does not.
    for waits in [true, false] {
        let retry = if waits { "storage.retry_s=60" } else { "storage.retry_s=0" };
        let mut server = Process::prepare(folder.path(), &["hub.status_interval_s=0.2", retry]);
        server.start();
        let mut line = Line::connect(&server.address, "me").expect("it serves");
        let enlarge = |line: &mut Line| {
            let upload = process::upload(&server.address, &picture(16, 16)).expect("uploaded");
            let sr = json!({"jobType": "sr", "fileRef": upload});
            line.submit(sr).expect("sent").expect("accepted")
        };
        let before = enlarge(&mut line);
        let before = line.ended(&before, SOON).expect("an answer");
        drill.check(before["job"]["status"] == "done", || format!("with space: {before}"));
        fill(&filler);
        let job = enlarge(&mut line);
        let told = line.receive_where(SOON, |m| m["type"] == "system:status" && m["storage"]["ok"] == false);
        drill.check(told.is_ok(), || "system:status does not say that the storage fails".into());
        let echo = line.submit(json!({"jobType": "echo"})).expect("sent").expect("accepted");
        let echo = line.ended(&echo, SOON).expect("an answer");
        drill.check(echo["job"]["status"] == "done", || format!("a job without output: {echo}"));
        let key = before["job"]["outputs"][0]["key"].as_str().unwrap_or_default().to_owned();
        let output = process::stored(&server.address, &key).map(|(status, _)| status);
        drill.check(output == Some(200), || format!("an output from before: {output:?}"));
        if waits {
            std::thread::sleep(Duration::from_millis(1500));
            let got = line.ask(json!({"type": "job:get", "jobId": job})).expect("an answer");
            drill.check(got["job"]["status"] == "running", || format!("it does not wait for space: {got}"));
        } else {
            let failed = line.ended(&job, SOON).expect("an answer");
            let said = failed["job"]["error"].as_str().unwrap_or_default();
            let clear = said.contains("storage cannot write") && said.contains("no storage space");
            drill.check(failed["job"]["code"] == "unavailable" && clear, || {
                format!("it does not say why: {failed}")
            });
        }
        fs::remove_file(&filler).expect("removed");
        let after = if waits { job } else { enlarge(&mut line) };
        let after = line.ended(&after, SOON).expect("an answer");
        drill.check(after["job"]["status"] == "done", || format!("with space again: {after}"));
        let told = line.receive_where(SOON, |m| m["type"] == "system:status" && m["storage"]["ok"] == true);
        drill.check(told.is_ok(), || "system:status does not say that the storage works again".into());
        let left: Vec<String> = fs::read_dir(server.data("storage"))
            .expect("the storage")
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| name.contains('#'))
            .collect();
        drill.check(left.is_empty(), || format!("halves of outputs are left: {left:?}"));
    }
    drill.end("1 job waited for space and is done, 1 was not to wait and failed, the others are done");
}

/// Takes all the space there is.
fn fill(path: &Path) {
    let mut file = File::create(path).expect("a file");
    for size in [1 << 16, 4096, 1] {
        let piece = vec![0xaa; size];
        while file.write_all(&piece).is_ok() {}
    }
}
