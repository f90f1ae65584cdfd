//! A ledger that is flipped, cut, deleted or replaced, while the server is down and while it runs.

use std::{collections::HashMap, fs, time::Duration};

use serde_json::json;

use crate::{
    drill::{Dice, Drill, becomes},
    line::Line,
    process::Process,
    records::{self, Record},
};

/// Jobs in the ledger that is damaged.
const JOBS: usize = 60;

const SOON: Duration = Duration::from_secs(30);

/// What is done to the ledger and its log.
#[derive(Debug)]
enum Damage {
    Flip,
    /// A page of zeros or of noise, as a disk returns it.
    Page,
    Cut,
    Deleted,
    /// Only the log.
    LogDeleted,
    Emptied,
    Replaced,
}

#[test]
fn damaged_while_down() {
    let mut drill = Drill::begin("damaged_while_down", 12);
    let folder = tempfile::tempdir().expect("a folder");
    // All that waits stays as it is.
    let mut server = Process::prepare(folder.path(), &["jobs.concurrency=1"]);
    server.start();
    let mut line = Line::connect(&server.address, "me").expect("it serves");
    for n in 0..JOBS {
        let job = json!({"jobType": "echo", "n": n, "text": "é".repeat(n * 7)});
        let job = line.submit(job).expect("sent").expect("accepted");
        line.ended(&job, SOON).expect("an answer");
        // Half of them lie in the file, half in its log.
        if n == JOBS / 2 {
            drill.check(server.terminate(SOON), || "no orderly end".into());
            server.start();
            line = Line::connect(&server.address, "me").expect("it serves");
        }
    }
    server.kill();
    let ledger = server.data("ledger.db");
    let whole = records::read(&ledger);
    let known = records::newest(&whole);
    drill.check(known.len() >= JOBS / 2, || format!("only {} records stand in one piece", known.len()));
    let (mut damages, mut lost, mut noticed) = (0, 0, 0);
    while drill.goes_on() {
        let damage = match damages % 10 {
            0 => Damage::Deleted,
            1 => Damage::Replaced,
            2 => Damage::Emptied,
            3 => Damage::LogDeleted,
            4 | 5 => Damage::Cut,
            6 => Damage::Page,
            _ => Damage::Flip,
        };
        damages += 1;
        let mut files = whole.clone();
        let what = apply(&damage, &mut files, &mut drill.dice);
        records::write(&ledger, &files);
        if let Damage::Deleted = damage {
            fs::remove_file(&ledger).expect("deleted");
        }
        let logged = server.log().len();
        match server.try_start() {
            Ok(()) => {
                let said = server.log()[logged..].contains("the ledger:");
                noticed += usize::from(said);
                lost += compare(&mut drill, &server, &known, &files, said, &what);
            }
            Err(refused) => drill.fault(format!("{what}: does not start: {refused:?}")),
        }
        server.kill();
        remove_asides(&server);
    }
    let jobs = known.len() * damages;
    drill.end(format_args!(
        "{damages} damages, {noticed} noticed, {lost} of {jobs} records lost with their bytes"
    ));
}

/// Damages files; says what was done.
fn apply(damage: &Damage, files: &mut [Vec<u8>; 2], dice: &mut Dice) -> String {
    let which = usize::from(files[0].is_empty() || (!files[1].is_empty() && dice.once_in(2)));
    let name = ["the file", "the log"][which];
    let length = files[which].len() as u64;
    match damage {
        Damage::Flip => {
            let (at, bit) = (dice.below(length), dice.below(8));
            files[which][at as usize] ^= 1 << bit;
            format!("bit {bit} of byte {at} of {name} flipped")
        }
        Damage::Page => {
            let at = dice.below(length / 4096) as usize * 4096;
            let noise = dice.once_in(2);
            for byte in &mut files[which][at..at + 4096] {
                *byte = if noise { dice.next() as u8 } else { 0 };
            }
            format!("4096 bytes at {at} of {name} are {}", if noise { "noise" } else { "zeros" })
        }
        Damage::Cut => {
            let at = dice.below(length);
            files[which].truncate(at as usize);
            format!("{name} cut to {at} of {length} bytes")
        }
        Damage::Deleted => {
            *files = Default::default();
            "file and log deleted".into()
        }
        Damage::LogDeleted => {
            files[1].clear();
            "the log deleted".into()
        }
        Damage::Emptied => {
            *files = Default::default();
            "file emptied, log deleted".into()
        }
        Damage::Replaced => {
            files[0] = b"These are not the jobs you are looking for.\n".repeat(300);
            "the file replaced by a text".into()
        }
    }
}

/// Every job whose newest record still stands in the files has to be there as it says; how many others are not.
fn compare(
    drill: &mut Drill,
    server: &Process,
    known: &HashMap<String, Record>,
    files: &[Vec<u8>; 2],
    said: bool,
    what: &str,
) -> usize {
    let mut line = Line::connect(&server.address, "me").expect("it serves");
    let mut lost = 0;
    for (id, record) in known {
        let got = line.ask(json!({"type": "job:get", "jobId": id})).expect("an answer");
        let there = got["job"]["status"] == record.status.as_str();
        if records::stands(files, &record.text) {
            drill.check(there, || format!("{what}: the record of job {id} is sound, and it is {got}"));
        } else {
            lost += usize::from(!there);
        }
    }
    // A ledger without its last changes is a ledger of before: nothing in it says that there were any.
    let of_before = files[0].is_empty() || what.contains("the log deleted") || what.contains("the log cut");
    drill.check(said || lost == 0 || of_before, || {
        format!("{what}: {lost} jobs are lost, and nothing is said")
    });
    // Whatever was lost, new jobs are accepted and done.
    let job = line.submit(json!({"jobType": "echo"})).expect("sent");
    match job {
        Ok(job) => {
            let got = line.ended(&job, SOON).expect("an answer");
            drill.check(got["job"]["status"] == "done", || format!("{what}: a new job: {got}"));
        }
        Err(error) => drill.fault(format!("{what}: a new job is refused: {error}")),
    }
    lost
}

fn remove_asides(server: &Process) {
    for entry in fs::read_dir(server.folder.join("reverie-data")).expect("a folder").flatten() {
        if entry.file_name().to_string_lossy().contains("damaged-") {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[test]
fn damaged_while_running() {
    let mut drill = Drill::begin("damaged_while_running", 1);
    let (mut damages, mut kept) = (0, 0);
    for damage in ["deleted", "log deleted", "replaced", "cut", "emptied", "overwritten", "folder deleted"] {
        damages += 1;
        let folder = tempfile::tempdir().expect("a folder");
        let ledger = "jobs.ledger=reverie-data/ledger/jobs.db";
        let mut server = Process::prepare(folder.path(), &[ledger, "jobs.concurrency=2"]);
        server.start();
        let mut line = Line::connect(&server.address, "me").expect("it serves");
        let finished = line.submit(json!({"jobType": "echo", "n": 1})).expect("sent").expect("accepted");
        line.ended(&finished, SOON).expect("an answer");
        let sleep = json!({"jobType": "echo-sleep", "ms": 50, "steps": 40});
        let running = line.submit(sleep).expect("sent").expect("accepted");
        let path = server.data("ledger/jobs.db");
        match damage {
            "deleted" => fs::remove_file(&path).expect("deleted"),
            "log deleted" => fs::remove_file(path.with_extension("db-wal")).expect("deleted"),
            "cut" => {
                let file = fs::File::options().write(true).open(&path).expect("opened");
                file.set_len(5000).expect("cut");
            }
            "replaced" => {
                fs::write(path.with_extension("other"), "another file").expect("written");
                fs::rename(path.with_extension("other"), &path).expect("renamed");
            }
            "emptied" => drop(fs::File::create(&path).expect("emptied")),
            "overwritten" => fs::write(&path, vec![0xff; 65536]).expect("overwritten"),
            _ => fs::remove_dir_all(path.parent().expect("a folder")).expect("deleted"),
        }
        // What is accepted from here on has to last.
        let mut accepted = vec![finished, running];
        let goes_on = becomes(SOON, || {
            let submitted = line.submit(json!({"jobType": "echo", "n": 2})).expect("sent");
            accepted.extend(submitted.as_ref().ok().cloned());
            submitted.is_ok()
        });
        drill.check(goes_on, || format!("{damage}: jobs are refused for ever"));
        for n in 0..20 {
            let submitted = line.submit(json!({"jobType": "echo", "n": n})).expect("sent");
            match submitted {
                Ok(job) => accepted.push(job),
                Err(error) => drill.fault(format!("{damage}: refused after it went on: {error}")),
            }
        }
        // What an open file's pages say in memory hides what was done to them on the disk until they are read.
        let hidden = ["emptied", "overwritten"].contains(&damage);
        let noticed = becomes(if hidden { Duration::ZERO } else { SOON }, || {
            let status = line.ask(json!({"type": "system:status"})).expect("an answer");
            status["store"]["ok"] == true
                && status["store"]["notes"].as_array().is_some_and(|n| !n.is_empty())
        });
        drill.check(noticed || hidden, || format!("{damage}: system:status does not say so"));
        drill.check(server.log().contains("the ledger:") || hidden, || {
            format!("{damage}: the log does not say so")
        });
        server.kill();
        match server.try_start() {
            Ok(()) => {}
            Err(refused) => {
                drill.fault(format!("{damage}: does not start again: {refused:?}"));
                continue;
            }
        }
        let mut line = Line::connect(&server.address, "me").expect("it serves");
        let mut unknown = 0;
        for job in &accepted {
            let got = line.ended(job, SOON).expect("an answer");
            unknown += usize::from(got["job"]["status"] != "done");
        }
        kept += accepted.len() - unknown;
        drill.check(unknown == 0, || {
            format!("{damage} while it ran: after kill -9 {unknown} of {} jobs are not done", accepted.len())
        });
    }
    drill.end(format_args!("{damages} damages while it ran, {kept} jobs there after a kill -9"));
}
