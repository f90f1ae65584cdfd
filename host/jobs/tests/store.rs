//! The file of the store: who may have it, what is done to it while it is open, and what it no longer holds.

mod common;

use std::{
    any::Any,
    fs, io,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use common::{Random, content, done, job, open, quick_folder, record, text, with_ending, with_inputs};
use parking_lot::Mutex;
use reverie_jobs::{
    Content, Health, Record,
    store::{
        Change, Command as Ask, Committer, Database, Disk, Durability, Identity, Kept, Machine, Sqlite,
        Store as _, Write,
    },
};
use tokio::sync::oneshot;

/// A store, and what a server has in memory.
struct Server {
    committer: Committer,
    store: Sqlite,
    records: Arc<Mutex<Vec<Record>>>,
}

impl Server {
    fn open(path: &Path) -> Self {
        let (database, loaded) = open(path).expect("opens");
        Self::with(database, loaded.kept.records)
    }

    fn with(database: Database, records: Vec<Record>) -> Self {
        let (store, committer, _) = Sqlite::without_thread(database);
        let records = Arc::new(Mutex::new(records));
        let memory = records.clone();
        let kept = move || Kept { records: memory.lock().clone(), ..Kept::default() };
        store.recover_with(Box::new(kept));
        Self { committer, store, records }
    }

    fn accept(&mut self, write: Write) -> Result<(), String> {
        let Change::Job(record) = &write.change else { panic!("a job") };
        let record = Record::clone(record);
        let (done, mut answer) = oneshot::channel();
        self.committer.step(vec![Ask::Accept { write, done }]);
        answer.try_recv().expect("an answer")?;
        self.records.lock().push(record);
        Ok(())
    }

    fn content(&mut self, sha256: &str) -> Result<Vec<u8>, String> {
        let (done, mut answer) = oneshot::channel();
        self.committer.step(vec![Ask::Content { sha256: sha256.to_owned(), done }]);
        answer.try_recv().expect("an answer").map(Vec::from)
    }

    fn health(&self) -> Health {
        self.store.health()
    }
}

/// 40 jobs, the first with an input.
fn filled(path: &Path) -> (Server, Content) {
    let mut random = Random(3);
    let input = content(random.bytes(100_000));
    let mut server = Server::open(path);
    for n in 1..=40 {
        let mut new = record(n, random.uuid(), &"a lighthouse ".repeat(40));
        let contents = if n == 1 { vec![input.clone()] } else { Vec::new() };
        let write = with_inputs(&mut new, contents, &mut random);
        server.accept(write).expect("accepted");
    }
    (server, input)
}

#[test]
fn a_second_server_is_refused_and_told_the_first() {
    let folder = quick_folder();
    let path = folder.path().join("jobs.db");
    let (first, _) = open(&path).expect("opens");
    let before = fs::read(&path).unwrap();
    let error = open(&path).err().expect("refused");
    assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);
    drop(first);
    open(&path).expect("opens once the first has ended");
}

#[test]
fn what_happens_to_an_open_file_is_noticed_and_made_good() {
    type Harm = (&'static str, &'static str, fn(&Path));
    let harms: [Harm; 6] = [
        ("deleted", "it was deleted", |path| fs::remove_file(path).unwrap()),
        ("replaced", "it was replaced", |path| {
            fs::write(path.with_extension("other"), "something else").unwrap();
            fs::rename(path.with_extension("other"), path).unwrap();
        }),
        ("cut", "it was cut", |path| {
            fs::File::options().write(true).open(path).unwrap().set_len(4096).unwrap();
        }),
        ("emptied", "it was cut", |path| fs::write(path, "").unwrap()),
        ("the log deleted", "its log was deleted", |path| {
            fs::remove_file(with_ending(path, "-wal")).unwrap()
        }),
        ("the folder deleted", "it was deleted", |path| fs::remove_dir_all(path.parent().unwrap()).unwrap()),
    ];
    for (name, note, harm) in harms {
        let folder = quick_folder();
        let path = folder.path().join("store").join("jobs.db");
        let (mut server, input) = filled(&path);
        server.committer.step(Vec::new());
        assert_eq!(server.health(), Health::default(), "{name}");
        harm(&path);
        // Without anybody asking for anything.
        server.committer.step(Vec::new());
        let health = server.health();
        assert!(health.error.is_none() && health.notes.len() == 1, "{name}: {health:?}");
        assert!(health.notes[0].contains(note), "{name}: {health:?}");
        assert_eq!(server.content(&input.sha256).as_deref(), Ok(&input.bytes[..]), "{name}");
        let expected: Vec<String> = server.records.lock().iter().map(text).collect();
        drop(server);
        let (mut database, loaded) = open(&path).expect("opens");
        assert!(loaded.notes.is_empty(), "{name}: {:?}", loaded.notes);
        assert_eq!(loaded.kept.records.iter().map(text).collect::<Vec<_>>(), expected, "{name}");
        assert_eq!(database.content(&input.sha256).as_deref(), Ok(&input.bytes[..]), "{name}");
    }
}

#[test]
fn ended_and_deleted_jobs_leave_no_bytes() {
    let folder = quick_folder();
    let path = folder.path().join("jobs.db");
    let mut random = Random(5);
    let (mut database, _) = open(&path).expect("opens");
    let input = content(random.bytes(50_000));
    let mut new = record(1, random.uuid(), "a word that stands nowhere else: xylographer");
    let write = with_inputs(&mut new, vec![input.clone()], &mut random);
    database.apply(&[&write], Durability::Synced).expect("written");
    database.close();
    let raw = || [fs::read(&path).unwrap(), fs::read(with_ending(&path, "-wal")).unwrap()].concat();
    let has = |bytes: &[u8]| raw().windows(bytes.len()).any(|window| window == bytes);
    // Under the mask that stands before it.
    let sealed = raw();
    let head = sealed.windows(8).position(|window| window == b"\0RVRYIN\0").expect("a content");
    let mask = &sealed[head + 16..head + 24];
    let masked: Vec<u8> =
        input.bytes.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).take(512).collect();
    assert!(has(&masked) && has(b"xylographer"));
    database.apply(&[&job(&done(&new)).into()], Durability::Synced).expect("written");
    assert!(database.content(&input.sha256).is_err());
    database.close();
    assert!(!has(&masked) && !has(b"\0RVRYIN\0") && has(b"xylographer"));
    let remove = Change::Remove { jobs: vec![1], objects: Vec::new() };
    database.apply(&[&remove.into()], Durability::Synced).expect("written");
    database.close();
    assert!(!has(b"xylographer"));
}

#[test]
fn a_content_is_kept_as_long_as_any_job_needs_it() {
    let folder = quick_folder();
    let path = folder.path().join("jobs.db");
    let mut random = Random(6);
    let input = content(random.bytes(10));
    let mut twice = record(1, random.uuid(), "names it twice");
    let mut once = record(2, random.uuid(), "names it once");
    let mut later = record(3, random.uuid(), "names it after a restart");
    let (mut database, _) = open(&path).expect("opens");
    for (record, many) in [(&mut twice, 2), (&mut once, 1)] {
        let write = with_inputs(record, vec![input.clone(); many], &mut random);
        database.apply(&[&write], Durability::Synced).expect("written");
    }
    drop(database);
    let (mut database, _) = open(&path).expect("opens");
    let write = with_inputs(&mut later, vec![input.clone()], &mut random);
    database.apply(&[&job(&done(&twice)).into()], Durability::Synced).expect("written");
    database.apply(&[&write], Durability::Synced).expect("written");
    database.apply(&[&job(&done(&later)).into()], Durability::Synced).expect("written");
    assert_eq!(database.content(&input.sha256).as_deref(), Ok(&input.bytes[..]));
    database.apply(&[&job(&done(&once)).into()], Durability::Synced).expect("written");
    assert!(database.content(&input.sha256).is_err());
}

/// A disk that refuses locks at first, as a folder does that can't be written.
struct Refusing(AtomicUsize);

impl Disk for Refusing {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        Machine.read(path)
    }

    fn write_again(&self, path: &Path) -> io::Result<()> {
        Machine.write_again(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Machine.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        Machine.remove(path)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        match self.0.load(Ordering::Relaxed) {
            0 => Machine.sync_folder(folder),
            _ => Err(io::ErrorKind::PermissionDenied.into()),
        }
    }

    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        Machine.make_folder(folder)
    }

    fn identity(&self, path: &Path) -> io::Result<Option<Identity>> {
        Machine.identity(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Any + Send>>> {
        match self.0.load(Ordering::Relaxed) {
            0 => Machine.lock(path),
            _ => Err(io::ErrorKind::PermissionDenied.into()),
        }
    }
}

#[test]
fn a_folder_that_takes_writes_later_is_locked_then() {
    let folder = quick_folder();
    let path = folder.path().join("jobs.db");
    let (server, _) = filled(&path);
    let jobs = server.records.lock().len();
    drop(server);
    let disk = Arc::new(Refusing(AtomicUsize::new(1)));
    let (database, loaded) = Database::open(&path, disk.clone()).expect("is read all the same");
    assert_eq!(loaded.kept.records.len(), jobs);
    assert!(!loaded.notes.is_empty());
    let mut server = Server::with(database, loaded.kept.records);
    let mut random = Random(8);
    let mut new = || Write::from(job(&record(100, random.uuid(), "one more")));
    let error = server.accept(new()).expect_err("refused");
    assert!(!error.is_empty() && server.health().error.is_some());
    disk.0.store(0, Ordering::Relaxed);
    // By itself.
    server.committer.step(Vec::new());
    assert_eq!(server.health().error, None);
    server.accept(new()).expect("accepted");
    assert!(
        open(&path).err().is_some_and(|error| error.contains("in use")),
        "a second server may not have it"
    );
}

/// A small disk in memory, where this user may mount one.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let mount = ["-t", "tmpfs", "-o", "size=1m", "none"];
        let mounted = Command::new("mount").args(mount).arg(folder.path()).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self(folder))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_refuses_jobs_until_there_is_room() {
    let Some(disk) = SmallDisk::new() else {
        eprintln!("skipped: a small disk can be mounted by root alone");
        return;
    };
    let path = disk.0.path().join("jobs.db");
    let (mut server, input) = filled(&path);
    let filler = disk.0.path().join("filler");
    let mut random = Random(9);
    let mut n = 100;
    let mut new = || {
        n += 1;
        Write::from(job(&record(n, random.uuid(), &"one more ".repeat(1000))))
    };
    let _ = fs::write(&filler, vec![1; 1 << 20]);
    let error = server.accept(new()).expect_err("refused");
    assert!(error.contains("full"), "{error}");
    assert!(server.health().error.is_some_and(|error| error.contains("full")));
    // What must be stored waits.
    let ended = done(&server.records.lock()[5]);
    let (told, mut answer) = oneshot::channel();
    let change = job(&ended);
    server.committer.step(vec![Ask::Write { change, durability: Durability::Synced, done: told }]);
    assert!(answer.try_recv().is_err() && server.committer.is_behind());
    fs::remove_file(&filler).unwrap();
    server.committer.step(Vec::new());
    answer.try_recv().expect("stored");
    assert_eq!(server.health(), Health::default());
    server.accept(new()).expect("accepted");
    drop(server);
    let (mut database, loaded) = open(&path).expect("opens");
    assert!(loaded.notes.is_empty(), "{:?}", loaded.notes);
    assert_eq!(loaded.kept.records.len(), 41, "and none of those that were refused");
    assert_eq!(text(&loaded.kept.records[5]), text(&ended));
    assert_eq!(database.content(&input.sha256).as_deref(), Ok(&input.bytes[..]));
}
