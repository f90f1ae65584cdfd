//! Memory that is kept for the next buffer of about the same size.
//!
//! A driver's allocation takes longer than most kernels, and giving back waits for the device. All kernels run in one
//! stream: what a later one writes into a block that was freed and taken again comes after whatever an earlier one read
//! there, so that a block is free as soon as its buffer is dropped, without waiting for anything.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::error::Result;

/// What blocks are multiples of: a driver's own granularity. It aligns them for every access that kernels make.
const GRANULE: usize = 512;

/// Where blocks come from.
pub trait Source {
    /// The address of this much memory; none where there is not so much left.
    fn allocate(&self, bytes: usize) -> Result<Option<u64>>;
    /// Gives back what [`Source::allocate`] gave. Nothing that was launched uses it any more.
    fn free(&self, address: u64);
    /// Waits for all that was launched.
    fn settle(&self) -> Result<()>;
}

/// Memory from a source.
#[derive(Debug)]
pub struct Block {
    /// Of its first byte.
    pub address: u64,
    /// Its size, which is at least what was asked for.
    pub bytes: usize,
}

/// How much memory a device's buffers take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryUse {
    /// Bytes in buffers.
    pub used: usize,
    /// Bytes that were taken from the driver: in buffers, and kept for later ones.
    pub held: usize,
    /// The most that [`MemoryUse::used`] ever was.
    pub peak: usize,
}

#[derive(Default)]
struct State {
    /// Addresses of free blocks by size; no list is empty.
    free: BTreeMap<usize, Vec<u64>>,
    usage: MemoryUse,
}

impl State {
    /// A free block of just this size.
    fn take(&mut self, size: usize) -> Option<u64> {
        let list = self.free.get_mut(&size)?;
        let address = list.pop();
        if list.is_empty() {
            self.free.remove(&size);
        }
        address
    }

    /// A block of `size` is in use from now on.
    fn lend(&mut self, address: u64, size: usize) -> Block {
        self.usage.used += size;
        self.usage.peak = self.usage.peak.max(self.usage.used);
        Block { address, bytes: size }
    }
}

/// Blocks of a source, used and free.
pub struct Pool<S: Source> {
    source: S,
    /// The most that is held.
    budget: usize,
    state: Mutex<State>,
}

/// The size of the block for so many bytes. There are four sizes between a power of two and the next, so that at most a
/// fifth of a block is wasted (beyond the granule), and that few sizes are in use.
pub fn size_class(bytes: usize) -> Option<usize> {
    let bytes = bytes.max(1);
    let step = ((1 << bytes.ilog2()) / 4).max(GRANULE);
    bytes.checked_next_multiple_of(step)
}

impl<S: Source> Pool<S> {
    pub fn new(source: S, budget: usize) -> Self {
        Self { source, budget, state: Mutex::default() }
    }

    /// The most that it will hold.
    pub fn budget(&self) -> usize {
        self.budget
    }

    // What panics in between leaves the state as it was.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block of at least so many bytes; none where that exceeds the budget, or what the source has.
    pub fn allocate(&self, bytes: usize) -> Result<Option<Block>> {
        let Some(size) = size_class(bytes) else { return Ok(None) };
        let mut state = self.state();
        if let Some(address) = state.take(size) {
            return Ok(Some(state.lend(address, size)));
        }
        // Whether it can fit at all is known before anything is given back for it.
        let Some(rest) = self.budget.checked_sub(size).filter(|rest| state.usage.used <= *rest) else {
            return Ok(None);
        };
        if state.usage.held > rest {
            let excess = state.usage.held - rest;
            self.release(&mut state, excess)?;
        }
        let mut address = self.source.allocate(size)?;
        if address.is_none() {
            self.release(&mut state, usize::MAX)?;
            address = self.source.allocate(size)?;
        }
        let Some(address) = address else { return Ok(None) };
        state.usage.held += size;
        Ok(Some(state.lend(address, size)))
    }

    /// The block may be given out again.
    pub fn free(&self, block: Block) {
        let mut state = self.state();
        state.usage.used -= block.bytes;
        state.free.entry(block.bytes).or_default().push(block.address);
    }

    /// Gives free blocks back to the source, the largest first, until that is `bytes` or all.
    fn release(&self, state: &mut State, bytes: usize) -> Result<()> {
        if state.free.is_empty() {
            return Ok(());
        }
        self.source.settle()?;
        let mut released = 0;
        while let Some((&size, _)) = state.free.last_key_value().filter(|_| released < bytes) {
            let Some(address) = state.take(size) else { break };
            self.source.free(address);
            state.usage.held -= size;
            released += size;
        }
        Ok(())
    }

    /// Gives all free blocks back to the source.
    pub fn trim(&self) -> Result<()> {
        self.release(&mut self.state(), usize::MAX)
    }

    pub fn usage(&self) -> MemoryUse {
        self.state().usage
    }
}

impl<S: Source> Drop for Pool<S> {
    fn drop(&mut self) {
        // A source that fails here has lost its memory anyway.
        let _ = self.trim();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use std::collections::HashMap;

    /// Hands out addresses as long as it has so many bytes, and keeps a log of what it was asked.
    struct Fake {
        left: Mutex<usize>,
        live: Mutex<HashMap<u64, usize>>,
        log: Mutex<Vec<String>>,
        broken: bool,
    }

    impl Fake {
        fn new(bytes: usize) -> Self {
            Self { left: Mutex::new(bytes), live: Mutex::default(), log: Mutex::default(), broken: false }
        }

        fn log(&self) -> Vec<String> {
            std::mem::take(&mut self.log.lock().unwrap())
        }
    }

    impl Source for &Fake {
        fn allocate(&self, bytes: usize) -> Result<Option<u64>> {
            self.log.lock().unwrap().push(format!("allocate {bytes}"));
            let mut left = self.left.lock().unwrap();
            if *left < bytes {
                return Ok(None);
            }
            *left -= bytes;
            let mut live = self.live.lock().unwrap();
            let address = (1..).map(|n| n << 32).find(|address| !live.contains_key(address)).unwrap();
            live.insert(address, bytes);
            Ok(Some(address))
        }

        fn free(&self, address: u64) {
            let bytes = self.live.lock().unwrap().remove(&address).expect("it was allocated");
            self.log.lock().unwrap().push(format!("free {bytes}"));
            *self.left.lock().unwrap() += bytes;
        }

        fn settle(&self) -> Result<()> {
            self.log.lock().unwrap().push("settle".into());
            let lost = || Error::Device { device: "fake".into(), what: "gone".into(), lost: true };
            if self.broken { Err(lost()) } else { Ok(()) }
        }
    }

    #[track_caller]
    fn allocate<S: Source>(pool: &Pool<S>, bytes: usize) -> Block {
        pool.allocate(bytes).unwrap().expect("there is room")
    }

    #[test]
    fn sizes_are_few_and_waste_little() {
        let sizes = [
            (0, 512),
            (1, 512),
            (513, 1024),
            (2049, 2560),
            (4096, 4096),
            (4097, 5120),
            ((1 << 20) - 1, 1 << 20),
            ((1 << 20) + 1, 5 << 18),
            (7 << 18, 7 << 18),
            ((7 << 18) + 1, 1 << 21),
        ];
        for (bytes, size) in sizes {
            assert_eq!(size_class(bytes), Some(size), "{bytes}");
        }
        for bytes in (1..1 << 22).step_by(777) {
            let size = size_class(bytes).unwrap();
            assert!(size >= bytes && size.is_multiple_of(GRANULE));
            assert!(size - bytes < (size / 5).max(GRANULE), "{size} for {bytes}");
            assert_eq!(size_class(size), Some(size), "a size is its own");
        }
        assert_eq!(size_class(usize::MAX), None);
    }

    #[test]
    fn a_freed_block_is_used_again_and_nothing_grows() {
        let source = Fake::new(1 << 30);
        let pool = Pool::new(&source, usize::MAX);
        let (a, b) = (allocate(&pool, 100_000), allocate(&pool, 100_000));
        assert_ne!(a.address, b.address);
        assert_eq!(a.bytes, 114_688);
        let (first, second) = (a.address, b.address);
        pool.free(a);
        let c = allocate(&pool, 114_688);
        assert_eq!(c.address, first);
        assert_eq!(source.log(), ["allocate 114688", "allocate 114688"]);
        let other = allocate(&pool, 1000);
        assert!(other.address != first && other.address != second, "another size, another block");
        assert_eq!(source.log(), ["allocate 1024"]);
        pool.free(c);
        for _ in 0..100 {
            let blocks = [allocate(&pool, 100_000), allocate(&pool, 100_000)];
            blocks.into_iter().for_each(|block| pool.free(block));
        }
        assert_eq!(source.log(), ["allocate 114688"], "a third, as the second is still in use");
        let usage = MemoryUse { used: 114_688 + 1024, held: 3 * 114_688 + 1024, peak: 3 * 114_688 + 1024 };
        assert_eq!(pool.usage(), usage);
    }

    #[test]
    fn the_budget_counts_what_is_kept_and_frees_it_first() {
        let source = Fake::new(1 << 30);
        let pool = Pool::new(&source, 10 * 1024);
        let (a, b) = (allocate(&pool, 4096), allocate(&pool, 2048));
        pool.free(a);
        pool.free(b);
        source.log();
        // 6 KiB are kept; with 5 more it is one too many, and the largest block makes room.
        let c = allocate(&pool, 5120);
        assert_eq!(source.log(), ["settle", "free 4096", "allocate 5120"]);
        assert_eq!(pool.usage().held, 2048 + 5120);
        // Nothing is given back for what cannot fit.
        assert!(pool.allocate(6 * 1024).unwrap().is_none());
        assert!(pool.allocate(usize::MAX).unwrap().is_none());
        assert_eq!(source.log(), [""; 0]);
        let d = allocate(&pool, 2048);
        assert_eq!(source.log(), [""; 0], "the kept block is still there");
        assert!(pool.allocate(3 * 1024 + 1).unwrap().is_none());
        let e = allocate(&pool, 3 * 1024);
        assert_eq!(pool.usage().held, pool.budget());
        [c, d, e].into_iter().for_each(|block| pool.free(block));
        assert_eq!(pool.usage().used, 0);
    }

    #[test]
    fn a_source_without_memory_is_asked_again_after_all_was_given_back() {
        let source = Fake::new(8192);
        let pool = Pool::new(&source, usize::MAX);
        let (a, b) = (allocate(&pool, 2048), allocate(&pool, 4096));
        pool.free(a);
        assert!(pool.allocate(8192).unwrap().is_none());
        assert_eq!(
            source.log(),
            ["allocate 2048", "allocate 4096", "allocate 8192", "settle", "free 2048", "allocate 8192"]
        );
        assert_eq!(pool.usage().held, 4096);
        pool.free(b);
        let c = allocate(&pool, 8192);
        assert_eq!(source.log(), ["allocate 8192", "settle", "free 4096", "allocate 8192"]);
        pool.free(c);
    }

    #[test]
    fn all_goes_back_at_last_and_when_asked() {
        let source = Fake::new(1 << 20);
        let pool = Pool::new(&source, usize::MAX);
        let blocks = [512, 1024, 512].map(|bytes| allocate(&pool, bytes));
        blocks.into_iter().for_each(|block| pool.free(block));
        pool.trim().unwrap();
        assert_eq!(pool.usage(), MemoryUse { used: 0, held: 0, peak: 2048 });
        source.log();
        pool.trim().unwrap();
        assert_eq!(source.log(), [""; 0], "nothing to wait for");
        let block = allocate(&pool, 512);
        pool.free(block);
        drop(pool);
        assert_eq!(*source.left.lock().unwrap(), 1 << 20);
    }

    #[test]
    fn a_device_that_is_gone_keeps_its_blocks() {
        let source = Fake { broken: true, ..Fake::new(4096) };
        let pool = Pool::new(&source, usize::MAX);
        let block = allocate(&pool, 4096);
        pool.free(block);
        assert!(matches!(pool.allocate(512), Err(Error::Device { lost: true, .. })));
        assert_eq!(pool.usage(), MemoryUse { used: 0, held: 4096, peak: 4096 });
    }
}
