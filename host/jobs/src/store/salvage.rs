//! Finding what is sound in a damaged file: records and contents know their length and checksum, so that every page is searched
//! for them, whatever SQLite thinks of it.

use std::collections::HashMap;

use uuid::Uuid;

use super::{
    Record,
    log::Log,
    pages::{Pages, local_bytes},
    sealed,
};

#[derive(Default)]
pub struct Salvaged {
    /// With their numbers: the newest of each job.
    pub records: HashMap<Uuid, (u64, Record)>,
    /// By SHA-256.
    pub contents: HashMap<String, Vec<u8>>,
}

impl Salvaged {
    /// Keeps the newer one.
    pub fn add(&mut self, seq: u64, record: Record) {
        let known = self.records.get(&record.job.id);
        if known.is_none_or(|(before, _)| *before < seq) {
            self.records.insert(record.job.id, (seq, record));
        }
    }

    /// By order of acceptance.
    pub fn take_records(&mut self) -> Vec<Record> {
        let mut records: Vec<Record> = self.records.drain().map(|(_, (_, record))| record).collect();
        records.sort_unstable_by_key(|record| record.n);
        records
    }

    pub fn newest(&self) -> u64 {
        self.records.values().map(|(seq, _)| *seq).max().unwrap_or(0)
    }
}

/// Searches a file and its log.
pub fn salvage(file: &[u8], log: &[u8]) -> Salvaged {
    let pages = Pages::of(file, &Log::of(log));
    let most = file.len() + log.len();
    let mut found = Salvaged::default();
    for image in pages.images() {
        for at in 0..image.len() {
            match image[at] {
                b'{' => {
                    let Some(length) = sealed::record_at(&image[at..]).filter(|l| *l <= most) else {
                        continue;
                    };
                    let mut texts = pages.follow(image, at, local(length, 13), length);
                    if let Some((seq, record)) = texts.find_map(|text| sealed::unseal(&text)) {
                        found.add(seq, record);
                    }
                }
                0 => {
                    let Some(length) = sealed::content_at(&image[at..]).filter(|l| *l <= most) else {
                        continue;
                    };
                    let mut contents = pages.follow(image, at, local(length, 12), length);
                    found.contents.extend(contents.find_map(sealed::unseal_content));
                }
                _ => {}
            }
        }
    }
    found
}

/// How many bytes of a value stand in the page where its row begins. The rows of both tables are the row's number, which takes
/// no room, and the value; before them stand the length of the row's head, 0 for the number, and the value's kind (12 for
/// bytes, 13 for text) and length as a varint.
fn local(length: usize, kind: usize) -> usize {
    let stated = 2 * length + kind;
    let varint = (stated.ilog2() as usize / 7 + 1).min(9);
    let head = 2 + varint;
    local_bytes(head + length) - head
}
