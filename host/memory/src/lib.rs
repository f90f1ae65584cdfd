//! One budget for the memory that requests, jobs and plugins can ask for. It is asked before anything is allocated, and what
//! was granted is given back when the value that holds it is dropped: a [`Held`], alone or beside what it is held for.
//! Weights of models are not of it: they have budgets of their own.

#![forbid(unsafe_code)]

mod buffer;
mod held;
mod machine;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

pub use buffer::Buffer;
pub use held::{Held, Kept};
pub use machine::available;

/// What memory is held for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Bodies of requests while they are read and worked on.
    Bodies,
    /// Files that clients uploaded.
    Uploads,
    /// Messages that wait to be sent.
    Frames,
    /// Parameters of jobs.
    Jobs,
    /// Pictures decoded, computed on and encoded.
    Pictures,
    /// What plugins have: their own memory, and what the host holds for them.
    Plugins,
    /// What is read from and written to the storage.
    Storage,
}

impl Use {
    pub const ALL: [Self; 7] =
        [Self::Bodies, Self::Uploads, Self::Frames, Self::Jobs, Self::Pictures, Self::Plugins, Self::Storage];

    /// As figures and errors call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bodies => "bodies",
            Self::Uploads => "uploads",
            Self::Frames => "frames",
            Self::Jobs => "jobs",
            Self::Pictures => "pictures",
            Self::Plugins => "plugins",
            Self::Storage => "storage",
        }
    }

    /// Whether it is new work. That must leave room to go on for what has begun.
    fn is_new_work(self) -> bool {
        matches!(self, Self::Bodies | Self::Uploads | Self::Jobs)
    }
}

/// The part of the budget that new work may have: all but a quarter.
const fn for_new_work(limit: usize) -> usize {
    limit - limit / 4
}

/// The budget. All figures are bytes.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    used: AtomicUsize,
    new_work: AtomicUsize,
    by_use: [AtomicUsize; Use::ALL.len()],
}

impl Budget {
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicUsize::new(0),
            new_work: AtomicUsize::new(0),
            by_use: Default::default(),
        })
    }

    /// One that grants all that is asked: for the tools of the command line, which serve nobody.
    pub fn unlimited() -> Arc<Self> {
        Self::new(usize::MAX)
    }

    pub fn limit(&self) -> usize {
        self.limit
    }

    /// What is held now, in all.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// What is held now for one use.
    pub fn used_for(&self, of: Use) -> usize {
        self.by_use[of as usize].load(Ordering::Relaxed)
    }

    /// Holds so much memory.
    ///
    /// # Errors
    /// When that much is not free.
    pub fn hold(self: &Arc<Self>, of: Use, bytes: usize) -> Result<Held, Refused> {
        let mut held = self.nothing(of);
        held.grow(bytes)?;
        Ok(held)
    }

    /// Holds so much whatever is free: of what is there already, such as the jobs of an earlier process.
    pub fn hold_anyway(self: &Arc<Self>, of: Use, bytes: usize) -> Held {
        self.add(of, bytes);
        Held::new(self.clone(), of, bytes)
    }

    /// Holds nothing yet.
    pub fn nothing(self: &Arc<Self>, of: Use) -> Held {
        Held::new(self.clone(), of, 0)
    }

    fn take(&self, of: Use, bytes: usize) -> Result<(), Refused> {
        let most = if of.is_new_work() { for_new_work(self.limit) } else { self.limit };
        if of.is_new_work() && !raise(&self.new_work, bytes, most) {
            return Err(self.refused(of, bytes, most, self.new_work.load(Ordering::Relaxed)));
        }
        if !raise(&self.used, bytes, self.limit) {
            if of.is_new_work() {
                self.new_work.fetch_sub(bytes, Ordering::Relaxed);
            }
            return Err(self.refused(of, bytes, self.limit, self.used()));
        }
        self.by_use[of as usize].fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    fn add(&self, of: Use, bytes: usize) {
        if of.is_new_work() {
            self.new_work.fetch_add(bytes, Ordering::Relaxed);
        }
        self.used.fetch_add(bytes, Ordering::Relaxed);
        self.by_use[of as usize].fetch_add(bytes, Ordering::Relaxed);
    }

    fn give_back(&self, of: Use, bytes: usize) {
        if of.is_new_work() {
            self.new_work.fetch_sub(bytes, Ordering::Relaxed);
        }
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        self.by_use[of as usize].fetch_sub(bytes, Ordering::Relaxed);
    }

    fn refused(&self, of: Use, wanted: usize, most: usize, used: usize) -> Refused {
        Refused { of, wanted, most, free: most.saturating_sub(used), limit: self.limit }
    }
}

/// Adds `bytes` to a count unless that leads over `most`.
fn raise(count: &AtomicUsize, bytes: usize, most: usize) -> bool {
    let raised = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= most);
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, raised).is_ok()
}

/// Memory that was not granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    pub of: Use,
    pub wanted: usize,
    /// The most that there is for this use.
    pub most: usize,
    /// What was free of it.
    pub free: usize,
    limit: usize,
}

impl Refused {
    /// Whether it could not be granted either if all were free: then trying again is of no use.
    pub fn never_fits(&self) -> bool {
        self.wanted > self.most
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mb = |bytes: usize| bytes.div_ceil(1 << 20);
        let (wanted, limit, of) = (mb(self.wanted), mb(self.limit), self.of.name());
        if self.never_fits() {
            return write!(f, "{wanted} MB for {of} are more than server.memory_mb = {limit} allows");
        }
        write!(
            f,
            "the server's memory is in use: {wanted} MB for {of} are wanted, {} MB are free of \
             server.memory_mb = {limit}; try again later",
            self.free >> 20
        )
    }
}

impl std::error::Error for Refused {}
