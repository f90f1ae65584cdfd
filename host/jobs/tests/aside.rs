//! What becomes of a damaged file: another one takes its place, and it is kept aside with its log.

mod common;

use std::{
    any::Any,
    fs, io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use common::{Random, job, open, quick_folder, record, text, with_ending};
use reverie_jobs::{
    Record,
    store::{
        Change, Command, Database, Disk, Durability, Identity, Kept, Machine, Object, Sqlite, Store as _,
        Write,
    },
};
use tokio::sync::oneshot;

/// A disk on which logs can't be renamed while it is told so.
struct Stubborn(AtomicBool);

impl Disk for Stubborn {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        Machine.read(path)
    }

    fn write_again(&self, path: &Path) -> io::Result<()> {
        Machine.write_again(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let is_log = from.to_string_lossy().ends_with("-wal");
        if is_log && self.0.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Machine.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        Machine.remove(path)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        Machine.sync_folder(folder)
    }

    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        Machine.make_folder(folder)
    }

    fn identity(&self, path: &Path) -> io::Result<Option<Identity>> {
        Machine.identity(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Any + Send>>> {
        Machine.lock(path)
    }
}

/// A file with jobs and the list of their outputs, and its log.
fn filled(path: &Path) -> (Database, Vec<Record>) {
    let mut random = Random(5);
    let records: Vec<Record> = (1..=20).map(|n| record(n, random.uuid(), "a lighthouse")).collect();
    let (mut database, _) = open(path).expect("opens");
    let mut apply =
        |change: Change| database.apply(&[&Write::from(change)], Durability::Written).expect("writes");
    for record in &records {
        apply(job(record));
        apply(Change::Object(output(record.n)));
    }
    (database, records)
}

/// Flips a bit.
fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 16;
    fs::write(path, bytes).unwrap();
}

fn output(n: u64) -> Object {
    Object { key: format!("{n:02}.png"), n, attempt: 1, bytes: 1000 }
}

fn texts(records: &[Record]) -> Vec<String> {
    records.iter().map(text).collect()
}

#[test]
fn a_file_whose_head_forbids_writing_is_made_anew_with_its_outputs() {
    let folder = quick_folder();
    let path = folder.path().join("jobs.db");
    let (mut database, records) = filled(&path);
    database.close();
    drop(database);
    // The version of the format that is needed to write the file.
    flip(&path, 18);
    let (mut database, loaded) = open(&path).expect("opens");
    assert!(loaded.notes.iter().any(|note| note.contains("kept as")), "{:?}", loaded.notes);
    let new = Write::from(job(&record(21, Random(6).uuid(), "one more")));
    database.apply(&[&new], Durability::Synced).expect("takes writes");
    drop(database);
    let (_, loaded) = open(&path).expect("opens");
    assert!(loaded.notes.is_empty(), "{:?}", loaded.notes);
    assert_eq!(texts(&loaded.kept.records)[..20], texts(&records));
    assert_eq!(loaded.kept.objects, (1..=20).map(output).collect::<Vec<_>>());
}

#[test]
fn a_log_goes_where_its_file_went() {
    for same_process in [true, false] {
        let folder = quick_folder();
        let path = folder.path().join("jobs.db");
        let aside = |ending: &str| with_ending(&path, ending);
        let (database, records) = filled(&path);
        drop(database);
        // In the page of the fourth frame.
        flip(&aside("-wal"), 32 + 3 * (24 + 4096) + 100);
        let (file, log) = (fs::read(&path).unwrap(), fs::read(aside("-wal")).unwrap());
        // Of earlier times: a file with its log, and a log alone.
        for ending in [".damaged-1", ".damaged-1-wal", ".damaged-2-wal"] {
            fs::write(aside(ending), ending).unwrap();
        }
        // The log stays where it is while the file goes, as when the server ends in between.
        let disk = Arc::new(Stubborn(AtomicBool::new(true)));
        let (database, loaded) = Database::open(&path, disk.clone()).expect("is read all the same");
        assert!(loaded.notes.iter().any(|note| note.contains("can't be made anew")), "{:?}", loaded.notes);
        assert!(!path.exists() && aside("-wal").exists());
        disk.0.store(false, Ordering::Relaxed);
        if same_process {
            let (store, mut committer, _receiver) = Sqlite::without_thread(database);
            let kept = Kept { records: loaded.kept.records, ..Kept::default() };
            store.recover_with(Box::new(move || kept.clone()));
            let (done, mut answer) = oneshot::channel();
            let change = Change::Probe;
            committer.step(vec![Command::Write { change, durability: Durability::Synced, done }]);
            answer.try_recv().expect("written");
        } else {
            drop(database);
        }
        let (_, loaded) = open(&path).expect("opens");
        assert!(loaded.notes.is_empty(), "{:?}", loaded.notes);
        assert_eq!(texts(&loaded.kept.records), texts(&records));
        assert_eq!(fs::read(aside(".damaged-3")).unwrap(), file, "same process: {same_process}");
        assert_eq!(fs::read(aside(".damaged-3-wal")).unwrap(), log, "same process: {same_process}");
        for ending in [".damaged-1", ".damaged-1-wal", ".damaged-2-wal"] {
            assert_eq!(fs::read(aside(ending)).unwrap(), ending.as_bytes());
        }
    }
}

#[test]
fn the_last_name_is_used_again_for_a_file_and_its_log_together() {
    let folder = quick_folder();
    let path = folder.path().join("jobs.db");
    let aside = |ending: &str| with_ending(&path, ending);
    for number in 1..=5 {
        fs::write(aside(&format!(".damaged-{number}")), "old").unwrap();
        fs::write(aside(&format!(".damaged-{number}-wal")), "old").unwrap();
    }
    fs::write(&path, "no such file").unwrap();
    drop(open(&path).expect("opens"));
    assert_eq!(fs::read(aside(".damaged-5")).unwrap(), b"no such file");
    assert!(fs::read(aside(".damaged-5-wal")).map_or(true, |log| log.is_empty()), "it had none");
    assert_eq!(fs::read(aside(".damaged-4-wal")).unwrap(), b"old");
}
