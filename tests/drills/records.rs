//! The records of a ledger as they lie in its files, for drills that damage it: each is a JSON text that says how long it is.

use std::{collections::HashMap, fs, path::Path};

use serde_json::Value;

/// The files of a ledger, by what their names end with.
const ENDINGS: [&str; 2] = ["", "-wal"];

#[derive(Debug, Clone)]
pub struct Record {
    /// Its text as it stands in the file.
    pub text: Vec<u8>,
    pub status: String,
    seq: u64,
}

/// The bytes of a ledger and of its log.
pub fn read(ledger: &Path) -> [Vec<u8>; 2] {
    ENDINGS.map(|ending| fs::read(file(ledger, ending)).unwrap_or_default())
}

pub fn write(ledger: &Path, files: &[Vec<u8>; 2]) {
    for (ending, content) in ENDINGS.into_iter().zip(files) {
        let path = file(ledger, ending);
        let _ = fs::remove_file(&path);
        if !content.is_empty() || ending.is_empty() {
            fs::write(path, content).expect("written");
        }
    }
    let _ = fs::remove_file(file(ledger, "-shm"));
}

fn file(ledger: &Path, ending: &str) -> std::path::PathBuf {
    let mut name = ledger.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// The newest record of each job that stands in one piece, by the job's id.
pub fn newest(files: &[Vec<u8>; 2]) -> HashMap<String, Record> {
    let mut newest: HashMap<String, Record> = HashMap::new();
    for bytes in files {
        for at in memory_find(bytes, br#"{"crc":""#) {
            let Some(record) = record(&bytes[at..]) else { continue };
            let (id, record) = record;
            if newest.get(&id).is_none_or(|known| known.seq <= record.seq) {
                newest.insert(id, record);
            }
        }
    }
    newest
}

/// Whether a text stands in the files.
pub fn stands(files: &[Vec<u8>; 2], text: &[u8]) -> bool {
    files.iter().any(|bytes| memory_find(bytes, text).next().is_some())
}

fn record(bytes: &[u8]) -> Option<(String, Record)> {
    let length = bytes.get(r#"{"crc":"12345678","len":""#.len()..)?.get(..8)?;
    let length = usize::from_str_radix(std::str::from_utf8(length).ok()?, 16).ok()?;
    let text = bytes.get(..length)?;
    let parsed: Value = serde_json::from_slice(text).ok()?;
    let status = parsed["job"]["status"].as_str()?.to_owned();
    let id = parsed["job"]["id"].as_str()?.to_owned();
    Some((id, Record { text: text.to_vec(), status, seq: parsed["seq"].as_u64()? }))
}

fn memory_find<'a>(bytes: &'a [u8], wanted: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let first = wanted[0];
    let begins = bytes.iter().enumerate().filter(move |(_, byte)| **byte == first).map(|(at, _)| at);
    begins.filter(move |at| bytes[*at..].starts_with(wanted))
}
