//! What is done to the files.

use std::fmt;

use crate::{
    common::Random,
    template::{Template, Which},
};

#[derive(Clone)]
pub enum Harm {
    Flip(Which, Vec<(usize, u8)>),
    Overwrite(Which, usize, Vec<u8>),
    Zero(Which, usize, usize),
    Cut(Which, usize),
    /// Pages, or frames of the log.
    Swap(Which, usize, usize),
    Delete(Which),
    Append(Which, Vec<u8>),
}

impl fmt::Debug for Harm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flip(which, bits) => write!(f, "flip {bits:?} of the {which:?}"),
            Self::Overwrite(which, at, new) => {
                write!(f, "overwrite {} bytes at {at} of the {which:?}", new.len())
            }
            Self::Zero(which, at, length) => write!(f, "zero {length} bytes at {at} of the {which:?}"),
            Self::Cut(which, length) => write!(f, "cut the {which:?} to {length} bytes"),
            Self::Swap(which, a, b) => write!(f, "swap pages {a} and {b} of the {which:?}"),
            Self::Delete(which) => write!(f, "delete the {which:?}"),
            Self::Append(which, more) => write!(f, "append {} bytes to the {which:?}", more.len()),
        }
    }
}

/// The files after it; none where one is deleted.
#[derive(Clone, PartialEq)]
pub struct Files {
    pub file: Option<Vec<u8>>,
    pub log: Option<Vec<u8>>,
}

impl Files {
    pub fn of(template: &Template) -> Self {
        let log = Some(template.log.clone()).filter(|log| !log.is_empty());
        Self { file: Some(template.file.clone()), log }
    }

    pub fn get(&self, which: Which) -> Option<&Vec<u8>> {
        if which == Which::File { self.file.as_ref() } else { self.log.as_ref() }
    }

    fn get_mut(&mut self, which: Which) -> &mut Option<Vec<u8>> {
        if which == Which::File { &mut self.file } else { &mut self.log }
    }

    pub fn suffer(&mut self, harm: &Harm) {
        let (Harm::Flip(which, _)
        | Harm::Overwrite(which, ..)
        | Harm::Zero(which, ..)
        | Harm::Cut(which, _)
        | Harm::Swap(which, ..)
        | Harm::Delete(which)
        | Harm::Append(which, _)) = harm;
        let slot = self.get_mut(*which);
        let Some(bytes) = slot else { return };
        let (head, unit) = units(*which);
        match harm {
            Harm::Flip(_, bits) => {
                for (at, bit) in bits {
                    if let Some(byte) = bytes.get_mut(*at) {
                        *byte ^= 1 << bit;
                    }
                }
            }
            Harm::Overwrite(_, at, new) => {
                bytes.iter_mut().skip(*at).zip(new).for_each(|(byte, new)| *byte = *new);
            }
            Harm::Zero(_, at, length) => bytes.iter_mut().skip(*at).take(*length).for_each(|byte| *byte = 0),
            Harm::Cut(_, length) => bytes.truncate(*length),
            Harm::Swap(_, a, b) => {
                for at in 0..unit {
                    let (a, b) = (head + a * unit + at, head + b * unit + at);
                    if a.max(b) < bytes.len() {
                        bytes.swap(a, b);
                    }
                }
            }
            Harm::Delete(_) => *slot = None,
            Harm::Append(_, more) => bytes.extend(more),
        }
    }
}

/// Bytes before the first page or frame, and of each.
fn units(which: Which) -> (usize, usize) {
    if which == Which::File { (0, 4096) } else { (32, 24 + 4096) }
}

impl Harm {
    pub fn random(files: &Files, random: &mut Random) -> Self {
        use Which::{File, Log};
        let has_log = files.log.as_ref().is_some_and(|log| log.len() > 32);
        let which = if has_log && random.below(2) == 0 { Log } else { File };
        let empty = Vec::new();
        let bytes = files.get(which).unwrap_or(&empty);
        let length = bytes.len().max(1);
        let (head, unit) = units(which);
        let count = ((length.saturating_sub(head)) / unit).max(1);
        let at = |random: &mut Random| match random.below(4) {
            // Where most depends on few bytes: the heads of files, pages and frames.
            0 => random.below(length.min(100)),
            1 => (head + unit * random.below(count) + random.below(40)).min(length - 1),
            _ => random.below(length),
        };
        match random.below(16) {
            0..5 => {
                let bits = 1 + random.below(8);
                Self::Flip(which, (0..bits).map(|_| (at(random), random.below(8) as u8)).collect())
            }
            5..8 => {
                let (at, length) = (at(random), 1 + random.below(20_000));
                Self::Overwrite(which, at, random.bytes(length))
            }
            8 => Self::Zero(which, head + unit * random.below(count), unit * (1 + random.below(4))),
            9 => Self::Zero(which, at(random), 1 + random.below(20_000)),
            10 => Self::Cut(which, head + unit * random.below(count)),
            11 => Self::Cut(which, random.below(length)),
            12 | 13 => Self::Swap(which, random.below(count), random.below(count)),
            14 => Self::Delete(which),
            _ => {
                let many = 1 + random.below(3 * unit);
                let own = bytes.iter().skip(random.below(length)).take(many).copied().collect();
                Self::Append(which, vec![random.bytes(many), vec![0; many], own].swap_remove(random.below(3)))
            }
        }
    }
}
