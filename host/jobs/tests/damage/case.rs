//! One ledger, damaged and opened.

use std::{collections::HashMap, fs, path::Path};

use reverie_jobs::{
    Record,
    store::{Command, Kept, Loaded, Sqlite, Store as _},
};
use tokio::sync::oneshot;

use crate::{
    common::{Random, content, done, job, open, record, sha256, text, with_ending, with_inputs},
    harm::{Files, Harm},
    template::{Place, Template, Which},
};

pub struct Case<'a> {
    pub template: &'a Template,
    pub harm: Vec<Harm>,
    files: Files,
}

/// What happened in all cases.
#[derive(Debug, Default)]
pub struct Tally {
    pub unharmed: usize,
    pub kept_aside: usize,
    /// Jobs whose bytes were damaged: lost, older than they were, or whole all the same.
    pub lost_jobs: usize,
    pub older_jobs: usize,
    pub recovered_from_damage: usize,
    /// Jobs that had been deleted and came back, as the log that said so was damaged.
    pub came_back: usize,
    pub cases_in_which_some_came_back: usize,
    pub contents: usize,
    pub lost_contents: usize,
}

impl Tally {
    pub fn add(&mut self, other: &Self) {
        self.unharmed += other.unharmed;
        self.kept_aside += other.kept_aside;
        self.lost_jobs += other.lost_jobs;
        self.older_jobs += other.older_jobs;
        self.recovered_from_damage += other.recovered_from_damage;
        self.came_back += other.came_back;
        self.cases_in_which_some_came_back += other.cases_in_which_some_came_back;
        self.contents += other.contents;
        self.lost_contents += other.lost_contents;
    }
}

fn check(holds: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(why()) }
}

impl<'a> Case<'a> {
    pub fn new(template: &'a Template, random: &mut Random) -> Self {
        let mut files = Files::of(template);
        let mut harm = Vec::new();
        for _ in 0..1 + random.below(3) * random.below(2) {
            let next = Harm::random(&files, random);
            files.suffer(&next);
            harm.push(next);
        }
        Self { template, harm, files }
    }

    /// One that is chosen.
    pub fn of(template: &'a Template, harm: Vec<Harm>) -> Self {
        let mut files = Files::of(template);
        harm.iter().for_each(|harm| files.suffer(harm));
        Self { template, harm, files }
    }

    pub fn run(&self, tally: &mut Tally) -> Result<(), String> {
        let folder = crate::common::quick_folder();
        let path = folder.path().join("jobs.db");
        let log = with_ending(&path, "-wal");
        for (path, bytes) in [(&path, &self.files.file), (&log, &self.files.log)] {
            if let Some(bytes) = bytes {
                fs::write(path, bytes).expect("written");
            }
        }
        let (database, loaded) = open(&path)?;
        self.check_jobs(&loaded, tally)?;
        self.check_aside(&path, &loaded, tally)?;

        let (store, mut committer, _receiver) = Sqlite::without_thread(database);
        let kept = loaded.kept.clone();
        store.recover_with(Box::new(move || kept.clone()));
        for (sha256, (bytes, places)) in &self.template.contents {
            let (send, mut answer) = oneshot::channel();
            committer.step(vec![Command::Content { sha256: sha256.clone(), done: send }]);
            let needed = |record: &Record| record.inputs.iter().any(|input| input.sha256 == *sha256);
            match answer.try_recv().expect("an answer") {
                Ok(content) => {
                    tally.contents += 1;
                    check(content == *bytes, || format!("content {sha256} is not what was stored"))?;
                }
                Err(error) => {
                    tally.lost_contents += 1;
                    let lost = !self.untouched(places) || !loaded.kept.records.iter().any(needed);
                    let lost = lost || self.may_end_early(places);
                    check(lost, || {
                        format!(
                            "content {sha256} is untouched, and refused: {error}; it says {:?}",
                            loaded.notes
                        )
                    })?;
                }
            }
        }

        let mut random = Random(1);
        let most = loaded.kept.records.iter().map(|record| record.n).max().unwrap_or(0);
        let bytes = random.bytes(50_000);
        let mut new = record(most + 1, random.uuid(), &"long ".repeat(5000));
        let write = with_inputs(&mut new, vec![content(bytes.clone())], &mut random);
        let (send, mut answer) = oneshot::channel();
        let mut commands = vec![Command::Accept { write, done: send }];
        let mut expected: HashMap<u64, String> =
            loaded.kept.records.iter().map(|record| (record.n, text(record))).collect();
        if let Some(first) = loaded.kept.records.first() {
            let (send, _) = oneshot::channel();
            let ended = done(first);
            expected.insert(ended.n, text(&ended));
            let durability = reverie_jobs::store::Durability::Synced;
            commands.push(Command::Write { change: job(&ended), durability, done: send });
        }
        expected.insert(new.n, text(&new));
        committer.step(commands);
        let accepted = answer.try_recv().expect("an answer");
        accepted.map_err(|error| format!("it can't be written: {error}"))?;
        drop((store, committer));

        let (mut database, loaded) = open(&path)?;
        check(loaded.notes.is_empty(), || format!("opened again, it says {:?}", loaded.notes))?;
        let found: HashMap<u64, String> =
            loaded.kept.records.iter().map(|record| (record.n, text(record))).collect();
        let lost = || expected.iter().filter(|(n, text)| found.get(n) != Some(text)).map(|(n, _)| *n);
        check(found == expected, || {
            format!("opened again, others than {:?} are there", lost().collect::<Vec<_>>())
        })?;
        check(database.content(&sha256(&bytes)) == Ok(bytes), || "its new content is lost".into())
    }

    fn check_jobs(&self, loaded: &Loaded, tally: &mut Tally) -> Result<(), String> {
        let Kept { records, .. } = &loaded.kept;
        let notes = &loaded.notes;
        let found: HashMap<u64, &Record> = records.iter().map(|record| (record.n, record)).collect();
        check(found.len() == records.len(), || "a job is there twice".into())?;
        if self.files == Files::of(self.template) {
            tally.unharmed += 1;
            check(notes.is_empty(), || format!("nothing was harmed, but it says {notes:?}"))?;
        }
        for (n, job) in &self.template.jobs {
            let (whole, early) = (self.untouched(&job.places), self.may_end_early(&job.places));
            match found.get(n) {
                Some(record) if text(record) == text(&job.record) => {
                    tally.recovered_from_damage += usize::from(!whole);
                    continue;
                }
                Some(_) => tally.older_jobs += 1,
                None => tally.lost_jobs += 1,
            }
            check(!whole || early, || format!("job {n} is untouched and not there; it says {notes:?}"))?;
            check(early || !notes.is_empty(), || format!("it does not say that job {n} is lost or older"))?;
        }
        let mut came_back = 0;
        for record in records {
            let known = self.template.stored.contains(&text(record));
            check(known, || format!("job {} was never stored like this", record.n))?;
            came_back += usize::from(self.template.deleted.contains(&record.job.id));
        }
        // A page that the log supersedes may have got to a place where it does not.
        let moved = self.harm.iter().any(|harm| matches!(harm, Harm::Swap(..) | Harm::Append(..)));
        let log_is_whole = self.files.log == Files::of(self.template).log;
        check(came_back == 0 || !log_is_whole || moved, || format!("{came_back} deleted job(s) came back"))?;
        tally.came_back += came_back;
        tally.cases_in_which_some_came_back += usize::from(came_back > 0);
        Ok(())
    }

    /// A damaged file is kept as it was found.
    fn check_aside(&self, path: &Path, loaded: &Loaded, tally: &mut Tally) -> Result<(), String> {
        let said = loaded.notes.iter().any(|note| note.contains("kept as"));
        let (file, log) = (with_ending(path, ".damaged-1"), with_ending(path, ".damaged-1-wal"));
        if !said {
            return check(!file.exists() && !log.exists(), || "a file is kept unsaid".into());
        }
        tally.kept_aside += 1;
        for (path, found) in [(file, &self.files.file), (log, &self.files.log)] {
            let kept = fs::read(&path).ok();
            // SQLite makes an empty log where there is none.
            let same = kept.unwrap_or_default() == found.clone().unwrap_or_default();
            check(same, || format!("'{}' is not as it was found", path.display()))?;
        }
        Ok(())
    }

    fn untouched(&self, places: &[Place]) -> bool {
        places.iter().all(|(which, range)| {
            let before = if *which == Which::File { &self.template.file } else { &self.template.log };
            let after = self.files.get(*which).and_then(|bytes| bytes.get(range.clone()));
            after == Some(&before[range.clone()])
        })
    }

    /// Whether nobody can know of these bytes: the log ends before them or within their transaction, as after a crash, or both
    /// files are gone.
    fn may_end_early(&self, places: &[Place]) -> bool {
        if self.files.file.is_none() && self.files.log.is_none() {
            return true;
        }
        let ends = self.harm.iter().filter_map(|harm| match harm {
            Harm::Cut(Which::Log, length) => Some(*length),
            Harm::Delete(Which::Log) => Some(0),
            _ => None,
        });
        let Some(end) = ends.min() else { return false };
        let known = self.template.commits.iter().copied().filter(|commit| *commit <= end).max().unwrap_or(0);
        places.iter().any(|(which, range)| *which == Which::Log && range.end > known)
    }
}
