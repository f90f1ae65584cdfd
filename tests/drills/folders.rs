//! The storage folder deleted while the server runs, and the ledger of an earlier version.

use std::{fs, time::Duration};

use reverie_tests::picture;
use serde_json::{Value, json};

use crate::{
    drill::{Drill, becomes},
    line::Line,
    process::{self, Process},
};

const SOON: Duration = Duration::from_secs(30);

#[test]
fn storage_deleted() {
    let mut drill = Drill::begin("storage_deleted", 1);
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = Process::prepare(folder.path(), &["hub.status_interval_s=0.2", "storage.retry_s=0"]);
    server.start();
    let mut line = Line::connect(&server.address, "me").expect("it serves");
    let enlarge = |line: &mut Line| -> Value {
        let upload = process::upload(&server.address, &picture(16, 16)).expect("uploaded");
        let job = line.submit(json!({"jobType": "sr", "fileRef": upload})).expect("sent").expect("accepted");
        line.ended(&job, SOON).expect("an answer")["job"].clone()
    };
    let before = enlarge(&mut line);
    drill.check(before["status"] == "done", || format!("before: {before}"));
    fs::remove_dir_all(server.data("storage")).expect("deleted");
    let after = enlarge(&mut line);
    drill.check(after["status"] == "done", || format!("after it was deleted: {after}"));
    let key = |job: &Value| job["outputs"][0]["key"].as_str().unwrap_or_default().to_owned();
    let status = |job: &Value| process::stored(&server.address, &key(job)).map(|(status, _)| status);
    drill.check(status(&after) == Some(200), || format!("an output made after: {:?}", status(&after)));
    drill.check(status(&before) == Some(404), || format!("one that was deleted: {:?}", status(&before)));
    let told = line.receive_where(SOON, |m| m["type"] == "system:status" && m["storage"]["ok"] == true);
    drill.check(told.is_ok(), || "the storage is not said to work".into());

    // In its place stands what is no folder.
    fs::remove_dir_all(server.data("storage")).expect("deleted");
    fs::write(server.data("storage"), "no folder").expect("written");
    let failed = enlarge(&mut line);
    let said = failed["error"].as_str().unwrap_or_default();
    drill.check(failed["code"] == "unavailable" && said.contains("storage cannot write"), || {
        format!("with a file in its place: {failed}")
    });
    let told = line.receive_where(SOON, |m| m["type"] == "system:status" && m["storage"]["ok"] == false);
    drill.check(told.is_ok(), || "the storage is not said to fail".into());
    fs::remove_file(server.data("storage")).expect("deleted");
    let after = enlarge(&mut line);
    drill.check(after["status"] == "done", || format!("when the file is gone: {after}"));
    let deleted = line.ask(json!({"type": "job:delete", "jobId": before["jobId"]})).expect("an answer");
    drill.check(deleted["status"] == "deleted", || format!("a job whose output is gone: {deleted}"));
    drill.end("2 outputs lost with the folder, 1 job failed, the others done");
}

#[test]
fn earlier_ledger() {
    let mut drill = Drill::begin("earlier_ledger", 1);
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = Process::prepare(folder.path(), &[]);
    let old = server.data("ledger.jsonl");
    let text = earlier();
    fs::write(&old, &text).expect("written");
    let check = |server: &Process, drill: &mut Drill, when: &str| {
        let mut line = Line::connect(&server.address, "me").expect("it serves");
        for (n, status) in [(1, "done"), (2, "error"), (3, "canceled"), (4, "done"), (5, "done")] {
            let got = line.ended(&id(n), SOON).expect("an answer");
            drill.check(got["job"]["status"] == status, || format!("{when}: job {n} is {got}"));
            if n == 1 {
                let (meta, key) = (&got["job"]["meta"], &got["job"]["outputs"][0]["key"]);
                drill.check(meta["seed"] == 7 && key == "sr-1.png", || format!("{when}: {got}"));
            }
            if n == 5 {
                let again = got["job"]["attempt"] == 2 && got["job"]["meta"]["params"]["text"] == "bräunlich";
                drill.check(again, || format!("{when}: a job that ran when the earlier server ended: {got}"));
            }
        }
        let listed = line.ask(json!({"type": "job:list"})).expect("an answer");
        let listed = listed["jobs"].as_array().map_or(0, Vec::len);
        drill.check(listed == 5, || format!("{when}: {listed} jobs are listed"));
        // So that its jobs don't come back where today's ledger is deleted.
        let kept = fs::read(server.data("ledger.jsonl.imported")).is_ok_and(|kept| kept == text);
        drill.check(kept && !old.exists(), || format!("{when}: the old file is not kept, or where it was"));
    };
    server.start();
    let said = |server: &Process| {
        let log = server.log();
        log.contains("an earlier version's ledger was taken over")
            && log.contains("could not be read: line 8")
    };
    drill.check(becomes(SOON, || said(&server)), || format!("the log does not tell: {}", server.log()));
    check(&server, &mut drill, "after the first start");
    server.kill();
    server.start();
    check(&server, &mut drill, "after the second start");
    let times = server.log().matches("was taken over").count();
    drill.check(times == 1, || format!("it was taken over {times} times"));
    drill.end("5 jobs taken over, 1 line that was cut short left out");
}

fn id(n: usize) -> String {
    format!("00000000-0000-4000-8000-{n:012}")
}

/// A ledger as version 0.1 wrote it: a line for each change, the last one cut short in the middle of a letter.
fn earlier() -> Vec<u8> {
    let line = |n: usize, status: &str, spec: bool| {
        let ended = !["queued", "running"].contains(&status);
        let mut line = json!({
            "job": {
                "id": id(n), "job_type": "echo", "owner": "client-of-the-drills-me", "status": status, "priority": n, "fraction": 0.0,
                "detail": {}, "outputs": [], "meta": {}, "created": 1.7e9, "started": null,
                "finished": ended.then_some(1.7e9 + 1.0),
            },
            "attempt": 1,
        });
        if spec {
            let params = json!({"n": n, "text": "bräunlich"});
            line["spec"] = json!({"job_type": "echo", "params": params, "owner": "client-of-the-drills-me", "priority": n});
        }
        line
    };
    let mut done = line(1, "done", false);
    done["job"]["meta"] = json!({"seed": 7});
    done["job"]["outputs"] = json!([{"url": "/storage/sr-1.png", "key": "sr-1.png"}]);
    let mut failed = line(2, "error", true);
    (failed["job"]["error"], failed["job"]["code"]) = (json!("no"), json!("internal"));
    // As it spelt it.
    let mut canceled = line(3, "cancelled", true);
    canceled["job"]["code"] = json!("cancelled");
    let lines = [
        line(1, "queued", true),
        done,
        failed,
        canceled,
        line(4, "queued", true),
        line(5, "queued", true),
        line(5, "running", false),
    ];
    let mut text: Vec<u8> = lines.iter().flat_map(|line| format!("{line}\n").into_bytes()).collect();
    let last = line(6, "queued", true).to_string().into_bytes();
    let letter = last.windows(2).position(|pair| pair == "ä".as_bytes()).expect("in its text");
    text.extend(&last[..=letter]);
    text
}
