//! A file of the simulated disk: what programs read of it, and what a power cut leaves.

use crate::generator::Generator;

/// What a disk writes whole or not at all.
pub const SECTOR: usize = 512;

#[derive(Default)]
pub struct Image {
    /// As programs see it.
    content: Vec<u8>,
    /// As it is on the disk for certain.
    durable: Vec<u8>,
    /// What was done since, in order.
    unsynced: Vec<Change>,
}

enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Truncate(usize),
}

/// What becomes of unsynced changes at a power cut.
#[derive(Debug, Clone, Copy)]
pub enum Loss {
    Nothing,
    Everything,
    /// Of each change all, nothing or some sectors.
    Some,
}

impl Loss {
    pub fn any(generator: &mut Generator) -> Self {
        generator.pick(&[Self::Nothing, Self::Everything, Self::Some, Self::Some])
    }
}

impl Image {
    pub fn content(&self) -> &[u8] {
        &self.content
    }

    pub fn write(&mut self, at: usize, bytes: &[u8]) {
        put(&mut self.content, at, bytes);
        self.unsynced.push(Change::Write { at, bytes: bytes.to_vec() });
    }

    pub fn truncate(&mut self, length: usize) {
        self.content.resize(length, 0);
        self.unsynced.push(Change::Truncate(length));
    }

    pub fn sync(&mut self) {
        self.settle(Loss::Nothing, &mut Generator::new(0));
    }

    /// A failed sync, after which the system takes pages for written that are not: programs see them as long as the machine
    /// runs, and no later sync writes them.
    pub fn lose_unsynced(&mut self, generator: &mut Generator) {
        let loss = Loss::any(generator);
        self.settle(loss, generator);
    }

    /// What is there after a power cut.
    pub fn cut(&mut self, loss: Loss, generator: &mut Generator) {
        self.settle(loss, generator);
        self.content = self.durable.clone();
    }

    fn settle(&mut self, loss: Loss, generator: &mut Generator) {
        for change in std::mem::take(&mut self.unsynced) {
            let part = match loss {
                Loss::Nothing => 0,
                Loss::Everything => 1,
                Loss::Some => generator.below(3),
            };
            match (part, change) {
                (0, Change::Write { at, bytes }) => put(&mut self.durable, at, &bytes),
                (0, Change::Truncate(length)) => self.durable.resize(length, 0),
                (2, Change::Write { at, bytes }) => {
                    let mut from = 0;
                    while from < bytes.len() {
                        let end = ((at + from) / SECTOR + 1) * SECTOR - at;
                        let to = end.min(bytes.len());
                        if generator.chance(1, 2) {
                            put(&mut self.durable, at + from, &bytes[from..to]);
                        }
                        from = to;
                    }
                }
                _ => {}
            }
        }
    }
}

fn put(content: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if content.len() < at {
        content.resize(at, 0);
    }
    let (over, more) = bytes.split_at(bytes.len().min(content.len() - at));
    content[at..at + over.len()].copy_from_slice(over);
    content.extend_from_slice(more);
}
