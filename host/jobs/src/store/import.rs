//! The ledger of versions before 0.2: one JSON line for each change, the last line of a job counts. It is only read, once.

use std::{
    collections::{HashMap, HashSet},
    io,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use uuid::Uuid;

use super::{Disk, Object, Record, swap::beside};
use crate::{Output, Snapshot, Spec};

/// Lines that are named when they can't be read.
const NAMED: usize = 5;

/// One line. `spec` stands in a job's first line and after a rewrite.
#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    spec: Option<Spec>,
    job: Snapshot,
    attempt: u32,
    #[serde(default)]
    told: Vec<String>,
}

/// Whether a configuration names the ledger of earlier versions as today's.
pub fn is_old(path: &Path, disk: &dyn Disk) -> bool {
    old_ledger(path) == path
        && disk.read(path).is_ok_and(|content| content.trim_ascii_start().starts_with(b"{"))
}

/// Where the ledger of earlier versions lay, by where today's lies.
pub fn old_ledger(path: &Path) -> PathBuf {
    path.with_extension("jsonl")
}

/// The jobs, oldest first, and what could not be read.
type Imported = (Vec<Record>, Vec<String>);

/// The jobs of the old ledger that lies beside `path`, oldest first, and what could not be read of it; none where there is none.
///
/// # Errors
/// That it can't be read at all.
pub fn read(path: &Path, disk: &dyn Disk) -> Result<Option<Imported>, String> {
    let old = old_ledger(path);
    match disk.read(&old) {
        Ok(content) => Ok(Some(parse(&content, &old))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("the earlier version's ledger '{}' can't be read: {error}", old.display())),
    }
}

/// The outputs that imported jobs name, so that they go when their jobs go. Their sizes were not recorded: 0 bytes. One that
/// several jobs name goes with the last of them.
pub fn outputs(records: &[Record]) -> Vec<Object> {
    let mut known = HashSet::new();
    let all =
        records.iter().rev().flat_map(|record| record.job.outputs.iter().map(move |output| (record, output)));
    let once = all.filter(|(_, output)| known.insert(&output.key));
    let object = |(record, output): (&Record, &Output)| Object {
        key: output.key.clone(),
        n: record.n,
        attempt: record.job.attempt,
        bytes: 0,
    };
    once.map(object).collect()
}

/// Renames an old ledger that was taken over, so that its jobs do not come back where today's is deleted.
///
/// # Errors
/// Those of the file system.
pub fn put_away(old: &Path, disk: &dyn Disk) -> io::Result<()> {
    let name = |number: usize| {
        beside(old, &if number == 1 { ".imported".into() } else { format!(".imported-{number}") })
    };
    let free = (1..).map(name).find(|name| !matches!(disk.identity(name), Ok(Some(_)))).expect("endless");
    disk.rename(old, &free)
}

fn parse(content: &[u8], old: &Path) -> Imported {
    let mut order: Vec<Uuid> = Vec::new();
    let mut jobs: HashMap<Uuid, Record> = HashMap::new();
    let mut unread = Vec::new();
    for (number, line) in (1..).zip(content.split(|byte| *byte == b'\n')) {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let Line { spec, mut job, attempt, told } = match serde_json::from_slice(line) {
            Ok(line) => line,
            Err(error) => {
                unread.push(format!("line {number} ({error})"));
                continue;
            }
        };
        job.attempt = attempt;
        // The attempts since it stored its work last are those that count.
        let interruptions = attempt.saturating_sub(job.checkpoint.unwrap_or(1));
        match (jobs.get_mut(&job.id), spec) {
            (Some(known), _) => {
                (known.job, known.told, known.interruptions) = (job, told, interruptions);
            }
            (None, Some(spec)) => {
                order.push(job.id);
                let record = Record {
                    n: order.len() as u64,
                    spec,
                    told,
                    inputs: Vec::new(),
                    faults: 0,
                    interruptions,
                    ended_at: job.finished.map(|_| 0.0),
                    job,
                };
                jobs.insert(record.job.id, record);
            }
            (None, None) => unread.push(format!("line {number} (the first line of its job is missing)")),
        }
    }
    let mut notes = Vec::new();
    if !unread.is_empty() {
        let more = unread.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        unread.truncate(NAMED);
        notes.push(format!(
            "of the earlier version's ledger '{}' these could not be read: {}{more}",
            old.display(),
            unread.join(", ")
        ));
    }
    (order.iter().filter_map(|id| jobs.remove(id)).collect(), notes)
}
