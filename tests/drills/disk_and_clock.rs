//! A disk that is slow, or takes no writes; a clock that jumps. They are made by a library that is preloaded into the server:
//! `tests/drills/faults`.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use reverie_tests::picture;
use serde_json::json;

use crate::{
    drill::{Drill, becomes},
    line::Line,
    process::{self, Process},
};

const SOON: Duration = Duration::from_secs(30);

/// As the C library has them on Linux.
const EIO: i64 = 5;
const EROFS: i64 = 30;

/// What the preloaded library does; see its own `Faults`.
#[derive(Default)]
struct Faults {
    sync_ms: i64,
    sync_error: i64,
    write_error: i64,
    clock_s: i64,
}

/// A server with the library, and the file that turns faults on and off.
struct Faulty {
    process: Process,
    file: PathBuf,
}

impl Faulty {
    fn prepare(folder: &std::path::Path, settings: &[&str]) -> Self {
        let library = std::env::current_exe().unwrap().with_file_name("libreverie_drill_faults.so");
        assert!(library.exists(), "built with this test");
        let mut process = Process::prepare(folder, settings);
        let file = folder.join("faults");
        for (name, value) in [("LD_PRELOAD", &library), ("REVERIE_DRILL_FAULTS", &file)] {
            process.environment.push((name.into(), value.display().to_string()));
        }
        let faulty = Self { process, file };
        faulty.set(Faults::default());
        faulty
    }

    fn set(&self, faults: Faults) {
        let Faults { sync_ms, sync_error, write_error, clock_s } = faults;
        let bytes = [sync_ms, sync_error, write_error, clock_s, 0].map(i64::to_le_bytes).concat();
        // One write, so that no call reads half of it.
        fs::write(&self.file, bytes).expect("written");
    }
}

#[test]
fn slow_disk() {
    let mut drill = Drill::begin("slow_disk", 1);
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = Faulty::prepare(folder.path(), &["jobs.concurrency=4"]);
    server.process.start();
    let mut line = Line::connect(&server.process.address, "me").expect("it serves");
    server.set(Faults { sync_ms: 300, ..Faults::default() });
    let began = Instant::now();
    let mut jobs = Vec::new();
    for n in 0..40 {
        line.send(&json!({"type": "job:submit", "id": n, "jobType": "echo", "n": n, "key": format!("k{n}")}))
            .unwrap();
    }
    while jobs.len() < 40 {
        let ack = line.receive_where(SOON, |message| message["type"] == "job:ack");
        jobs.push(ack.expect("acknowledged")["jobId"].as_str().unwrap().to_owned());
    }
    let acknowledged = began.elapsed();
    drill.check(acknowledged > Duration::from_millis(290), || {
        format!("acknowledged after {acknowledged:?}, before a sync can have ended")
    });
    drill.check(acknowledged < Duration::from_secs(6), || {
        format!("40 jobs took {acknowledged:?}: they do not share syncs of 0.3 s")
    });
    // What needs no disk does not wait for it.
    let asked = Instant::now();
    line.ask(json!({"type": "job:list"})).expect("an answer");
    line.ask(json!({"type": "ping"})).expect("an answer");
    let answered = asked.elapsed();
    drill.check(answered < Duration::from_millis(250), || format!("job:list and ping take {answered:?}"));
    server.set(Faults { sync_ms: 100, ..Faults::default() });
    let health = server.process.health_is(200);
    drill.check(health.is_ok(), || format!("/health on a slow disk: {health:?}"));
    server.process.kill();
    server.set(Faults::default());
    server.process.start();
    let mut line = Line::connect(&server.process.address, "me").expect("it serves");
    for job in &jobs {
        let got = line.ended(job, SOON).expect("an answer");
        drill.check(got["job"]["status"] == "done", || format!("after a restart: {got}"));
    }
    drill
        .end(format_args!("40 jobs acknowledged after {} ms with syncs of 300 ms", acknowledged.as_millis()));
}

/// Writes that fail (a file system that became read-only, a lost disk), and syncs that fail, while the server runs.
#[test]
fn failing_disk() {
    let mut drill = Drill::begin("failing_disk", 1);
    for (what, faults) in [
        ("read-only", Faults { write_error: EROFS, ..Faults::default() }),
        ("input/output errors", Faults { write_error: EIO, ..Faults::default() }),
        ("syncs that fail", Faults { sync_error: EIO, ..Faults::default() }),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let mut server = Faulty::prepare(folder.path(), &["hub.status_interval_s=0.2"]);
        server.process.start();
        let mut line = Line::connect(&server.process.address, "me").expect("it serves");
        let before = line.submit(json!({"jobType": "echo"})).expect("sent").expect("accepted");
        line.ended(&before, SOON).expect("an answer");
        let sleep = json!({"jobType": "echo-sleep", "ms": 50, "steps": 20});
        let running = line.submit(sleep).expect("sent").expect("accepted");
        server.set(faults);
        for n in 0..5 {
            match line.submit(json!({"jobType": "echo", "n": n})).expect("sent") {
                Ok(job) => {
                    drill.fault(format!("{what}: job {job} is acknowledged, and can't have been stored"))
                }
                Err(error) => drill.check(error["code"] == "unavailable", || format!("{what}: {error}")),
            }
        }
        let health = server.process.health_is(503);
        drill.check(health.is_ok(), || format!("{what}: /health: {health:?}"));
        let system = line.ask(json!({"type": "system:status"})).expect("an answer");
        drill.check(system["store"]["ok"] == false, || format!("{what}: {}", system["store"]));
        let got = line.ask(json!({"type": "job:get", "jobId": before})).expect("an answer");
        drill.check(got["job"]["status"] == "done", || format!("{what}: a finished job: {got}"));
        server.set(Faults::default());
        let got = line.ended(&running, SOON).expect("an answer");
        drill.check(got["job"]["status"] == "done", || format!("{what}, over: {got}"));
        let mut after = None;
        let goes_on = becomes(SOON, || {
            after = line.submit(json!({"jobType": "echo"})).expect("sent").ok();
            after.is_some()
        });
        drill.check(goes_on, || format!("{what}, over: jobs are still refused"));
        server.process.kill();
        server.process.start();
        let mut line = Line::connect(&server.process.address, "me").expect("it serves");
        for job in [Some(before), Some(running), after].into_iter().flatten() {
            let got = line.ended(&job, SOON).expect("an answer");
            drill.check(got["job"]["status"] == "done", || format!("{what}, after a restart: {got}"));
        }
    }
    drill.end("3 kinds of failing disks: new jobs refused, none lost");
}

/// A ledger that can't be written when the server starts.
#[test]
fn read_only_at_start() {
    let mut drill = Drill::begin("read_only_at_start", 1);
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = Faulty::prepare(folder.path(), &[]);
    server.process.start();
    let mut line = Line::connect(&server.process.address, "me").expect("it serves");
    let before = line.submit(json!({"jobType": "echo"})).expect("sent").expect("accepted");
    line.ended(&before, SOON).expect("an answer");
    server.process.kill();
    server.set(Faults { write_error: EROFS, ..Faults::default() });
    match server.process.try_start() {
        Ok(()) => {
            let mut line = Line::connect(&server.process.address, "me").expect("it serves");
            let got = line.ask(json!({"type": "job:get", "jobId": before})).expect("an answer");
            drill.check(got["job"]["status"] == "done", || format!("what is in it is not served: {got}"));
            let refused = line.submit(json!({"jobType": "echo"})).expect("sent");
            drill.check(refused.is_err(), || "a job is acknowledged that can't be stored".into());
            let system = line.ask(json!({"type": "system:status"})).expect("an answer");
            drill.check(system["store"]["ok"] == false, || format!("system:status: {}", system["store"]));
            server.set(Faults::default());
            let goes_on = becomes(SOON, || line.submit(json!({"jobType": "echo"})).expect("sent").is_ok());
            drill.check(goes_on, || "jobs are still refused when it can be written".into());
            let system = line.ask(json!({"type": "system:status"})).expect("an answer");
            drill.check(system["store"]["ok"] == true, || format!("system:status: {}", system["store"]));
        }
        Err(refused) => drill.fault(format!("it does not start: {refused:?}")),
    }
    drill.end("a finished job served, new ones refused until it could be written");
}

#[test]
fn clock_jumps() {
    let mut drill = Drill::begin("clock_jumps", 1);
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = Faulty::prepare(folder.path(), &["jobs.keep_finished_hours=24"]);
    server.process.start();
    let mut line = Line::connect(&server.process.address, "me").expect("it serves");
    let upload =
        |server: &Faulty| process::upload(&server.process.address, &picture(8, 8)).expect("uploaded");
    let day = 24 * 3600;
    let (mut jobs, mut outputs) = (Vec::new(), Vec::new());
    for clock_s in [0, 2 * day, 0, -2 * day, 2 * day, 0] {
        let uploaded = upload(&server);
        // The upload is younger than its `ttl_s`, whatever the clock says.
        server.set(Faults { clock_s, ..Faults::default() });
        let job =
            line.submit(json!({"jobType": "sr", "fileRef": uploaded})).expect("sent").expect("accepted");
        let got = line.ended(&job, SOON).expect("an answer");
        drill.check(got["job"]["status"] == "done", || format!("with the clock at {clock_s:+} s: {got}"));
        outputs.push(got["job"]["outputs"][0]["key"].as_str().unwrap_or_default().to_owned());
        let created = got["job"]["created"].as_f64().unwrap_or_default();
        let now = process::now() + clock_s as f64;
        drill.check((created - now).abs() < 600.0, || "the clock of the server does not jump".into());
        jobs.push(job);
        // Each end of a job looks for those that are too old; so does each start.
        if clock_s != 0 {
            server.process.kill();
            server.process.start();
            line = Line::connect(&server.process.address, "me").expect("it serves");
        }
        for (job, key) in jobs.iter().zip(&outputs) {
            let got = line.ask(json!({"type": "job:get", "jobId": job})).expect("an answer");
            drill.check(got["job"]["status"] == "done", || format!("with the clock at {clock_s:+} s: {got}"));
            let found = process::stored(&server.process.address, key).map(|(status, _)| status);
            drill.check(found == Some(200), || format!("with the clock at {clock_s:+} s: {key}: {found:?}"));
        }
    }
    drill.end(format_args!("5 jumps of two days or more, {} jobs and their outputs there", jobs.len()));
}
