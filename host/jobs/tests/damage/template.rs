//! Ledgers as a server leaves them when it is killed, and where in their files each job lies.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    ops::Range,
    path::Path,
};

use reverie_jobs::{
    Record,
    store::{Change, Content, Durability, Write},
};
use rusqlite::Connection;
use uuid::Uuid;

use crate::common::{Random, content, done, job, open, quick_folder, record, text, with_ending, with_inputs};

const PAGE: usize = 4096;
const LOG_HEAD: usize = 32;
const FRAME_HEAD: usize = 24;
const FRAME: usize = FRAME_HEAD + PAGE;

/// How many kinds there are.
pub const SHAPES: usize = 10;

const SCRIPTS: &[&str] = &[
    "a lighthouse in a storm, oil on canvas, \"heavy\" strokes ",
    "雪の中の灯台、油絵、",
    "маяк в бурю, масло ",
    "منارة في عاصفة ",
    "🦊🌊 C:\\new\\table \u{0}\n\t",
    r#"{"crc":"00000000","len":"00000100","seq":1,"n":1,"spec":{"#,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    File,
    Log,
}

/// Where bytes lie.
pub type Place = (Which, Range<usize>);

pub struct Job {
    pub record: Record,
    /// Where its newest sealed record lies.
    pub places: Vec<Place>,
}

#[derive(Default)]
pub struct Template {
    pub name: String,
    pub file: Vec<u8>,
    pub log: Vec<u8>,
    pub jobs: BTreeMap<u64, Job>,
    /// All that was ever stored, as text.
    pub stored: HashSet<String>,
    pub deleted: HashSet<Uuid>,
    pub contents: HashMap<String, (Vec<u8>, Vec<Place>)>,
    /// Where transactions end in the log.
    pub commits: Vec<usize>,
}

/// What makes a ledger.
struct Builder {
    random: Random,
    jobs: BTreeMap<u64, Record>,
    contents: HashMap<String, Content>,
    template: Template,
    next: u64,
}

impl Template {
    pub fn new(shape: usize) -> Self {
        let folder = quick_folder();
        let path = folder.path().join("jobs.db");
        let random = Random(shape as u64);
        let mut builder = Builder {
            random,
            jobs: BTreeMap::new(),
            contents: HashMap::new(),
            template: Template::default(),
            next: 0,
        };
        let (mut database, loaded) = open(&path).expect("opens");
        assert!(loaded.notes.is_empty(), "{:?}", loaded.notes);
        // Jobs before and after the log went into the file, bytes of a prompt, bytes of an input.
        let (name, before, after, prompt, input) = [
            ("new", 0, 0, 0, 0),
            ("one", 1, 0, 100, 0),
            ("small, no log", 40, 0, 300, 2000),
            ("small, only a log", 0, 40, 300, 2000),
            ("small, both", 30, 20, 300, 2000),
            ("large records", 20, 12, 20_000, 500),
            ("many", 900, 60, 500, 0),
            ("many with a log", 150, 250, 900, 3000),
            ("large inputs", 8, 5, 1000, 300_000),
            ("a log used twice", 60, 400, 8000, 20_000),
        ][shape];
        builder.template.name = name.into();
        for (jobs, closes) in [(before, true), (after, false)] {
            let mut left = jobs;
            while left > 0 {
                let batch = left.min(1 + builder.random.below(12));
                left -= batch;
                let writes = builder.batch(batch, prompt, input);
                let writes: Vec<&Write> = writes.iter().collect();
                // Not synced, to be quick: nobody cuts the power here.
                database.apply(&writes, Durability::Written).expect("writes");
            }
            if closes {
                database.close();
            }
        }
        let mut template = builder.template;
        template.file = fs::read(&path).expect("the file");
        template.log = fs::read(with_ending(&path, "-wal")).unwrap_or_default();
        drop(database);
        template.locate(&path, builder.jobs, builder.contents);
        template
    }

    /// Finds each sealed record and content as SQLite reads it, and then its bytes in the files.
    fn locate(&mut self, path: &Path, jobs: BTreeMap<u64, Record>, contents: HashMap<String, Content>) {
        let connection = Connection::open(path).expect("opens");
        let images = self.images();
        let rows = |query: &str| {
            let mut statement = connection.prepare(query).expect("a query");
            let rows = statement.query_map([], |row| {
                let (n, value): (u64, _) = (row.get(0)?, row.get_ref(1)?);
                Ok((n, value.as_bytes().expect("bytes").to_vec()))
            });
            rows.expect("rows").map(Result::unwrap).collect::<Vec<_>>()
        };
        let sealed: BTreeMap<u64, Vec<u8>> = rows("SELECT n, record FROM jobs").into_iter().collect();
        assert!(sealed.keys().eq(jobs.keys()), "SQLite reads what was written");
        let mut found = BTreeMap::new();
        for (n, record) in jobs {
            found.insert(n, Job { record, places: self.find(&images, &sealed[&n]) });
        }
        self.jobs = found;
        for (_, sealed) in rows("SELECT n, content FROM contents") {
            let sha256: String = sealed[24..56].iter().map(|byte| format!("{byte:02x}")).collect();
            let bytes = contents[&sha256].bytes.to_vec();
            let places = self.find(&images, &sealed);
            self.contents.insert(sha256, (bytes, places));
        }
    }

    /// Where each page lies.
    fn images(&mut self) -> BTreeMap<u32, (Which, usize)> {
        let mut images: BTreeMap<u32, (Which, usize)> =
            (0..self.file.len() / PAGE).map(|i| (i as u32 + 1, (Which::File, i * PAGE))).collect();
        for at in (LOG_HEAD..self.log.len()).step_by(FRAME) {
            if self.log[at + 8..at + 16] != self.log[16..24] {
                break;
            }
            let number = u32::from_be_bytes(self.log[at..at + 4].try_into().expect("4 bytes"));
            images.insert(number, (Which::Log, at + FRAME_HEAD));
            if self.log[at + 4..at + 8] != [0; 4] {
                self.commits.push(at + FRAME);
            }
        }
        images
    }

    fn bytes(&self, (which, at): (Which, usize)) -> &[u8] {
        let all = if which == Which::File { &self.file } else { &self.log };
        &all[at..at + PAGE]
    }

    /// The places of a value that SQLite has read. How much of it stands before its overflow pages is tried, not computed.
    fn find(&self, images: &BTreeMap<u32, (Which, usize)>, value: &[u8]) -> Vec<Place> {
        let head = &value[..value.len().min(64)];
        for image in images.values() {
            let page = self.bytes(*image);
            // SQLite leaves stale copies in pages; the row that counts is one that the page points to.
            let Some(start) = rows(page).find_map(|row| {
                let near = row..(row + 24 + head.len()).min(PAGE);
                page[near].windows(head.len()).position(|window| window == head).map(|at| row + at)
            }) else {
                continue;
            };
            if page[start..].starts_with(value) {
                return vec![place(*image, start..start + value.len())];
            }
            let longest = page[start..].iter().zip(value).take_while(|(a, b)| a == b).count();
            for local in (head.len()..=longest).rev() {
                if let Some(mut places) = self.chain(images, page.get(start + local..), &value[local..]) {
                    places.push(place(*image, start..start + local + 4));
                    return places;
                }
            }
        }
        panic!("a value of {} bytes is not in the files of '{}'", value.len(), self.name)
    }

    fn chain(
        &self,
        images: &BTreeMap<u32, (Which, usize)>,
        pointer: Option<&[u8]>,
        mut rest: &[u8],
    ) -> Option<Vec<Place>> {
        let mut places = Vec::new();
        let mut next: [u8; 4] = *pointer?.first_chunk()?;
        while !rest.is_empty() {
            let image = images.get(&u32::from_be_bytes(next))?;
            let page = self.bytes(*image);
            let take = rest.len().min(PAGE - 4);
            if page[4..4 + take] != rest[..take] {
                return None;
            }
            places.push(place(*image, 0..4 + take));
            (next, rest) = (*page.first_chunk()?, &rest[take..]);
        }
        Some(places)
    }
}

/// Where the rows of a leaf of a table begin.
fn rows(page: &[u8]) -> impl Iterator<Item = usize> {
    let at = if page.starts_with(b"SQLite format 3") { 100 } else { 0 };
    let number = |at: usize| usize::from(u16::from_be_bytes([page[at], page[at + 1]]));
    let count = if page[at] == 13 { number(at + 3) } else { 0 };
    (0..count).map(move |row| number(at + 8 + 2 * row))
}

/// Bytes of a page; in the log they are worth nothing without the head of their frame.
fn place((which, at): (Which, usize), bytes: Range<usize>) -> Place {
    let from = if which == Which::Log { at - FRAME_HEAD } else { at + bytes.start };
    (which, from..at + bytes.end)
}

impl Builder {
    /// New jobs, changes of others, and some that go.
    fn batch(&mut self, jobs: usize, prompt: usize, input: usize) -> Vec<Write> {
        let mut writes = Vec::new();
        for _ in 0..jobs {
            self.next += 1;
            let script = SCRIPTS[self.random.below(SCRIPTS.len())];
            let repeats = self.random.below(prompt.max(1)) / script.len() + 1;
            let mut new = record(self.next, self.random.uuid(), &script.repeat(repeats));
            let mut contents = Vec::new();
            if input > 0 && self.random.below(3) > 0 {
                for _ in 0..1 + self.random.below(2) {
                    let length = 1 + self.random.below(input);
                    contents.push(content(self.random.bytes(length)));
                }
                // One that another job may have, too.
                contents.push(content(vec![7; 1 + self.random.below(3)]));
            }
            self.contents.extend(contents.iter().map(|content| (content.sha256.clone(), content.clone())));
            let write = with_inputs(&mut new, contents, &mut self.random);
            self.keep(new);
            writes.push(write);
        }
        for _ in 0..jobs {
            let at = self.random.below(self.jobs.len());
            let chosen = self.jobs.values().nth(at).expect("one").clone();
            match self.random.below(4) {
                0 if chosen.ended_at.is_some() => {
                    self.jobs.remove(&chosen.n);
                    self.template.deleted.insert(chosen.job.id);
                    writes.push(Change::Remove { jobs: vec![chosen.n], objects: Vec::new() }.into());
                }
                1 | 2 => {
                    let mut ended = done(&chosen);
                    let told = self.random.below(prompt.max(1));
                    ended.job.meta.insert("told".into(), "x".repeat(told).into());
                    writes.push(job(&ended).into());
                    self.keep(ended);
                }
                _ => {}
            }
        }
        writes
    }

    fn keep(&mut self, record: Record) {
        self.template.stored.insert(text(&record));
        self.jobs.insert(record.n, record);
    }
}
