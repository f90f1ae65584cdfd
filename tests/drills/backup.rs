//! Backups of a ledger that a server writes, as OPERATIONS.md says, and what is in them.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use reverie_tests::{picture, skipped};
use serde_json::json;

use crate::{
    drill::Drill,
    line::Line,
    process::{self, Process},
};

const SOON: Duration = Duration::from_secs(30);

#[test]
fn backup() {
    let version = Command::new("sqlite3").arg("--version").stdout(Stdio::null()).status();
    if !version.is_ok_and(|status| status.success()) {
        return skipped("backup: there is no sqlite3 command");
    }
    let mut drill = Drill::begin("backup", 1);
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = Process::prepare(folder.path(), &[]);
    server.start();
    let mut line = Line::connect(&server.address, "me").expect("it serves");
    let (mut done, mut kept) = (Vec::new(), 0);
    for way in [".backup", "VACUUM INTO"] {
        for n in 0..20 {
            let upload = process::upload(&server.address, &picture(8 + n, 8)).expect("uploaded");
            let sr = json!({"jobType": "sr", "fileRef": upload});
            let job = line.submit(sr).expect("sent").expect("accepted");
            let got = line.ended(&job, SOON).expect("an answer");
            done.push((job, got["job"]["outputs"][0]["key"].as_str().unwrap_or_default().to_owned()));
        }
        let slow = json!({"jobType": "echo-sleep", "ms": 10, "steps": 100});
        let running = line.submit(slow).expect("sent").expect("accepted");
        let restored = tempfile::tempdir().expect("a folder");
        let data = restored.path().join("reverie-data");
        fs::create_dir_all(&data).expect("a folder");
        let copy = data.join("ledger.db");
        let command = match way {
            ".backup" => format!(".backup {}", copy.display()),
            _ => format!("VACUUM INTO '{}'", copy.display()),
        };
        let address = server.address.clone();
        let others = std::thread::spawn(move || {
            let mut line = Line::connect(&address, "other").expect("it serves");
            for n in 0..100 {
                let _ = line.submit(json!({"jobType": "echo", "n": n}));
            }
        });
        let copied = Command::new("sqlite3").arg(server.data("ledger.db")).arg(command).status();
        drill.check(copied.is_ok_and(|status| status.success()), || format!("{way} fails"));
        copy_folder(&server.data("storage"), &data.join("storage"));
        others.join().expect("submitted");

        let mut other = Process::prepare(restored.path(), &[]);
        other.start();
        drill.check(!other.log().contains("the ledger:"), || format!("{way}: {}", other.log()));
        let mut line = Line::connect(&other.address, "me").expect("it serves");
        for (job, key) in &done {
            let got = line.ask(json!({"type": "job:get", "jobId": job})).expect("an answer");
            drill.check(got["job"]["status"] == "done", || format!("{way}: {got}"));
            let found = process::stored(&other.address, key).map(|(status, _)| status);
            drill.check(found == Some(200), || format!("{way}: the output {key}: {found:?}"));
            kept += 1;
        }
        let got = line.ended(&running, SOON).expect("an answer");
        drill.check(got["job"]["status"] == "done", || format!("{way}: a job that ran: {got}"));
    }
    let status = line.ask(json!({"type": "system:status"})).expect("an answer");
    let well = status["store"]["ok"] == true && status["store"]["notes"] == json!([]);
    drill.check(well, || format!("after backups the first server says {}", status["store"]));
    drill.end(format_args!("2 backups restored with {kept} finished jobs and their outputs"));
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder").flatten() {
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy_folder(&entry.path(), &target),
            // One that was deleted since it was listed is missing.
            false => drop(fs::copy(entry.path(), target)),
        }
    }
}
