//! Ledgers of versions before 0.2, which are taken over once: whatever they hold, the store opens, and opens again with the same
//! jobs.
#![no_main]

use std::{fs, sync::Arc};

use libfuzzer_sys::fuzz_target;
use reverie_fuzz::folder;
use reverie_jobs::store::{Database, Machine};

fuzz_target!(|input: &[u8]| {
    let folder = folder();
    let path = folder.path().join("jobs.db");
    fs::write(folder.path().join("jobs.jsonl"), input).expect("writes");
    let (database, loaded) = Database::open(&path, Arc::new(Machine)).expect("opens");
    drop(database);
    assert_eq!(fs::read(folder.path().join("jobs.jsonl.imported")).expect("is kept"), input);
    let (_, again) = Database::open(&path, Arc::new(Machine)).expect("opens again");
    assert_eq!(again.kept.records.len(), loaded.kept.records.len());
    assert!(again.notes.is_empty(), "{:?}", again.notes);
});
