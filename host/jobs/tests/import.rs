//! Ledgers of earlier versions: read once, and kept.

mod common;

use std::{collections::HashSet, fs, sync::Arc};

use common::{config, open, quick_folder};
use reverie_jobs::{
    Jobs, Record, Status,
    store::{Machine, Sqlite},
};
use reverie_memory::Budget;
use serde_json::json;
use uuid::Uuid;

const OLD: &str = "jobs.jsonl";

fn line(n: u128, status: &str, attempt: u32, checkpoint: Option<u32>, prompt: Option<&str>) -> String {
    let job = json!({
        "id": Uuid::from_u128(n), "job_type": "image", "owner": "me", "status": status, "priority": 0,
        "fraction": 0.0, "created": 1.0, "started": null, "finished": null, "checkpoint": checkpoint,
    });
    let spec = prompt.map(
        |prompt| json!({ "job_type": "image", "params": { "prompt": prompt }, "owner": "me", "priority": 0 }),
    );
    let mut line = json!({ "job": job, "attempt": attempt });
    if let Some(spec) = spec {
        line["spec"] = spec;
    }
    line.to_string() + "\n"
}

/// What is taken over of an old ledger, and what is said.
fn import(old: &[u8]) -> (Vec<Record>, Vec<String>) {
    let folder = quick_folder();
    let path = folder.path().join("jobs.db");
    fs::write(folder.path().join(OLD), old).unwrap();
    let (database, loaded) = open(&path).expect("opens");
    // Kept byte for byte, and put away.
    let kept = folder.path().join("jobs.jsonl.imported");
    assert_eq!(fs::read(&kept).unwrap(), old);
    assert!(!folder.path().join(OLD).exists());
    drop(database);
    let (_, again) = open(&path).expect("opens");
    assert_eq!(again.kept.records.len(), loaded.kept.records.len());
    assert!(again.notes.is_empty(), "{:?}", again.notes);
    (loaded.kept.records, loaded.notes)
}

#[test]
fn the_last_line_of_a_job_counts() {
    let old = [
        line(1, "queued", 1, None, Some("one")),
        line(2, "queued", 1, None, Some("two")),
        line(1, "running", 1, None, None),
        line(2, "cancelled", 1, None, None),
        line(3, "queued", 1, None, Some("three")),
        line(3, "running", 5, Some(3), None),
    ];
    let (records, notes) = import(old.concat().as_bytes());
    assert!(notes.is_empty(), "{notes:?}");
    let found: Vec<_> = records.iter().map(|r| (r.n, r.job.status, r.job.attempt, r.interruptions)).collect();
    let expected =
        [(1, Status::Running, 1, 0), (2, Status::Cancelled, 1, 0), (3, Status::Running, 5, 2)].to_vec();
    assert_eq!(found, expected);
    assert_eq!(records[2].spec.params["prompt"], "three");
}

#[test]
fn what_cannot_be_read_is_said_and_the_rest_is_taken() {
    let (one, two) = (line(1, "queued", 1, None, Some("one")), line(2, "queued", 1, None, Some("灯台 two")));
    let inside = two.find('灯').unwrap() + 1;
    let cases: [(&str, Vec<u8>, usize, usize); 5] = [
        ("empty", Vec::new(), 0, 0),
        ("half a line", [one.as_bytes(), &two.as_bytes()[..two.len() / 2]].concat(), 1, 1),
        ("cut in a character", [one.as_bytes(), &two.as_bytes()[..inside]].concat(), 1, 1),
        ("garbage", [one.as_bytes(), b"\xff\0garbage\n\n", two.as_bytes()].concat(), 2, 1),
        (
            "a change without its job",
            [line(9, "done", 1, None, None).as_bytes(), one.as_bytes()].concat(),
            1,
            1,
        ),
    ];
    for (name, old, jobs, notes) in cases {
        let (records, said) = import(&old);
        assert_eq!((records.len(), said.len()), (jobs, notes), "{name}: {said:?}");
        assert!(said.iter().all(|note| note.contains(OLD) && note.contains("line ")), "{name}: {said:?}");
    }
}

#[test]
fn jobs_do_not_come_back_after_the_file_was_deleted() {
    let folder = quick_folder();
    let path = folder.path().join("jobs.db");
    fs::write(folder.path().join(OLD), line(1, "queued", 1, None, Some("one"))).unwrap();
    let (database, loaded) = open(&path).expect("opens");
    assert_eq!(loaded.kept.records.len(), 1);
    drop(database);
    for ending in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(common::with_ending(&path, ending));
    }
    let (_, loaded) = open(&path).expect("opens");
    assert!(loaded.kept.records.is_empty() && loaded.notes.is_empty());
}

#[test]
fn an_old_ledger_is_not_taken_for_a_damaged_one() {
    let folder = quick_folder();
    let path = folder.path().join(OLD);
    let old = line(1, "queued", 1, None, Some("one"));
    fs::write(&path, &old).unwrap();
    let error = open(&path).err().expect("refused");
    assert!(error.contains("earlier version") && error.contains("jobs.db"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), old);
    let (_, loaded) = open(&path.with_extension("db")).expect("opens");
    assert_eq!(loaded.kept.records.len(), 1);
}

#[tokio::test]
async fn outputs_of_imported_jobs_go_with_them() {
    let folder = quick_folder();
    let path = folder.path().join("jobs.db");
    let with_outputs = |n: u128, attempt: u32, keys: &[&str]| {
        let mut done: serde_json::Value =
            serde_json::from_str(&line(n, "done", attempt, None, None)).unwrap();
        done["job"]["outputs"] =
            keys.iter().map(|key| json!({ "url": format!("/storage/{key}"), "key": key })).collect();
        done["job"]["finished"] = 2.0.into();
        done.to_string() + "\n"
    };
    let old = [
        line(1, "queued", 1, None, Some("one")),
        line(2, "queued", 1, None, Some("two")),
        with_outputs(1, 3, &["one.png", "both.png"]),
        with_outputs(2, 1, &["two.png", "both.png"]),
    ];
    fs::write(folder.path().join(OLD), old.concat()).unwrap();
    drop(open(&path).expect("opens"));
    let (store, loaded) = Sqlite::open(&path, Arc::new(Machine)).expect("opens again");
    let mut found: Vec<_> =
        loaded.kept.objects.iter().map(|object| (object.key.as_str(), object.n, object.attempt)).collect();
    found.sort_unstable();
    assert_eq!(found, [("both.png", 2, 1), ("one.png", 1, 3), ("two.png", 2, 1)]);
    let clock = Arc::new(reverie_jobs::Machine::default());
    let jobs = Jobs::open(config(), Box::new(store), loaded, clock, &HashSet::new(), Budget::unlimited());
    jobs.delete(Uuid::from_u128(1)).await.expect("deleted");
    let mut deleted = Vec::new();
    jobs.sweep_once(&mut |key: String| {
        deleted.push(key);
        async { Ok(()) }
    })
    .await;
    assert_eq!(deleted, ["one.png"], "and not the one that another job has, too");
}
