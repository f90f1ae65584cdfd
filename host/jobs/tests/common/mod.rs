//! What the tests of the store share.
#![allow(dead_code)]

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use reverie_jobs::{
    Config, Content, Input, Record, Snapshot, Spec, Status,
    store::{Database, Loaded, Machine, Write},
};
use serde_json::{Map, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// A pseudo-random sequence that a seed decides (SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }

    pub fn uuid(&mut self) -> Uuid {
        Uuid::from_u64_pair(self.next(), self.next())
    }
}

pub fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

pub fn open(path: &Path) -> Result<(Database, Loaded), String> {
    Database::open(path, Arc::new(Machine))
}

/// A folder that goes with the test; in memory where there is such a place, as syncing is not what is tested.
pub fn quick_folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder")
}

pub fn config() -> Config {
    Config {
        default_type: "image".into(),
        queue_limit: 100,
        max_params_bytes: 1 << 16,
        max_params_values: 1000,
        concurrency: 1,
        background_limit: 1,
        background_concurrency: 1,
        max_attempts: 2,
        max_interruptions: 3,
        keep_finished: 100,
        keep_finished_total: 1000,
        keep_finished_hours: 24.0,
        keep_records_mb: 0,
        keep_outputs_mb: 0,
        ledger: "jobs.db".into(),
    }
}

/// A queued job.
pub fn record(n: u64, id: Uuid, prompt: &str) -> Record {
    let params = json!({ "prompt": prompt }).as_object().cloned().expect("an object");
    let (job_type, owner) = ("image".to_owned(), Some("owner".to_owned()));
    let spec = Spec {
        job_type: job_type.clone(),
        params,
        owner: owner.clone(),
        priority: 0,
        name: None,
        background: false,
        key: None,
    };
    let job = json!({
        "id": id, "job_type": job_type, "owner": owner, "status": "queued", "priority": 0, "fraction": 0.0,
        "created": n as f64, "started": null, "finished": null,
    });
    let job: Snapshot = serde_json::from_value(job).expect("a snapshot");
    Record { n, spec, job, told: Vec::new(), inputs: Vec::new(), faults: 0, interruptions: 0, ended_at: None }
}

/// The same job, done.
pub fn done(record: &Record) -> Record {
    let mut record = record.clone();
    record.job.status = Status::Done;
    record.job.meta = Map::from_iter([("seed".to_owned(), json!(record.n * 1000))]);
    (record.inputs, record.ended_at) = (Vec::new(), Some(record.n as f64));
    record
}

pub fn content(bytes: Vec<u8>) -> Content {
    Content { sha256: sha256(&bytes), bytes: bytes.into() }
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A change that brings a job with contents as its inputs.
pub fn with_inputs(record: &mut Record, contents: Vec<Content>, random: &mut Random) -> Write {
    record.inputs = contents
        .iter()
        .map(|content| Input {
            upload: random.uuid(),
            media_type: "image/png".into(),
            sha256: content.sha256.clone(),
        })
        .collect();
    Write { change: job(record), contents }
}

pub fn job(record: &Record) -> reverie_jobs::store::Change {
    reverie_jobs::store::Change::Job(Box::new(record.clone()))
}

/// What two records that are the same have in common.
pub fn text(record: &Record) -> String {
    serde_json::to_string(record).expect("plain data")
}
