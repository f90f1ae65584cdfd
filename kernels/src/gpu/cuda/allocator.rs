//! Memory that is kept for the next buffer of about the same size.
//!
//! A driver's allocation takes longer than most kernels, and giving back waits for the device. All kernels of a lane run in one
//! stream: what a later one writes into a block that was freed and taken again comes after whatever an earlier one read
//! there, so that a block is free for its own lane as soon as its buffer is dropped, without waiting for anything. Another
//! lane gets it only where there is no other memory, and after what the block's lane has launched.

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::error::Result;

/// What blocks are multiples of: a driver's own granularity. It aligns them for every access that kernels make.
const GRANULE: usize = 512;

/// Where blocks come from.
pub trait Source {
    /// Work in order.
    type Lane;

    /// The address of this much memory; none where there is not so much left.
    fn allocate(&self, bytes: usize) -> Result<Option<u64>>;
    /// Gives back what [`Source::allocate`] gave.
    ///
    /// # Safety
    /// It came from there, was not given back yet, and nothing that was launched uses it any more.
    unsafe fn free(&self, address: u64);
    /// Waits for all that was launched in the lane.
    fn settle(&self, lane: &Self::Lane) -> Result<()>;
    /// Has what is launched in `lane` from now on run after all that was launched in `earlier`.
    fn follow(&self, lane: &Self::Lane, earlier: &Self::Lane) -> Result<()>;
}

/// Memory from a source; dropped, it is free for its lane. Only a pool makes one, and nobody can have it twice.
pub struct Block<S: Source> {
    pool: Arc<Pool<S>>,
    /// The number of the lane that it was given to.
    lane: u64,
    address: u64,
    bytes: usize,
}

impl<S: Source> Block<S> {
    /// Of its first byte.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Its size, which is at least what was asked for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl<S: Source> Drop for Block<S> {
    fn drop(&mut self) {
        let mut state = self.pool.state();
        state.usage.used -= self.bytes;
        if let Some(shelf) = state.shelves.iter_mut().find(|shelf| shelf.number == self.lane) {
            shelf.free.entry(self.bytes).or_default().push(self.address);
        }
    }
}

/// How much memory a device's buffers take, those of all lanes together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryUse {
    /// Bytes in buffers.
    pub used: usize,
    /// Bytes that were taken from the driver: in buffers, and kept for later ones.
    pub held: usize,
    /// The most that [`MemoryUse::used`] ever was.
    pub peak: usize,
}

/// A lane and the blocks that are free for it.
struct Shelf<L> {
    number: u64,
    lane: L,
    /// Addresses of free blocks by size; no list is empty.
    free: BTreeMap<usize, Vec<u64>>,
}

impl<L> Shelf<L> {
    /// A free block of just this size.
    fn take(&mut self, size: usize) -> Option<u64> {
        let list = self.free.get_mut(&size)?;
        let address = list.pop();
        if list.is_empty() {
            self.free.remove(&size);
        }
        address
    }
}

struct State<L> {
    shelves: Vec<Shelf<L>>,
    /// Lanes that there ever were.
    count: u64,
    /// Lanes that are giving back what they hold.
    leaving: usize,
    usage: MemoryUse,
}

impl<L> State<L> {
    /// So many bytes more are in use from now on.
    fn lend(&mut self, size: usize) {
        self.usage.used += size;
        self.usage.peak = self.usage.peak.max(self.usage.used);
    }
}

/// Blocks of a source, used and free, for all lanes within one budget.
pub struct Pool<S: Source> {
    source: S,
    /// The most that is held.
    budget: usize,
    state: Mutex<State<S::Lane>>,
    /// A lane that was leaving has left.
    left: Condvar,
}

/// The size of the block for so many bytes. There are four sizes between a power of two and the next, so that at most a
/// fifth of a block is wasted (beyond the granule), and that few sizes are in use.
pub fn size_class(bytes: usize) -> Option<usize> {
    let bytes = bytes.max(1);
    let step = ((1 << bytes.ilog2()) / 4).max(GRANULE);
    bytes.checked_next_multiple_of(step)
}

impl<S: Source> Pool<S> {
    pub fn new(source: S, budget: usize) -> Arc<Self> {
        let state = State { shelves: Vec::new(), count: 0, leaving: 0, usage: MemoryUse::default() };
        Arc::new(Self { source, budget, state: Mutex::new(state), left: Condvar::new() })
    }

    /// The most that it will hold.
    pub fn budget(&self) -> usize {
        self.budget
    }

    // What panics in between leaves the state as it was.
    fn state(&self) -> MutexGuard<'_, State<S::Lane>> {
        self.state.lock()
    }

    /// What a lane takes its memory from.
    pub fn share(self: &Arc<Self>, lane: S::Lane) -> Share<S> {
        let mut state = self.state();
        state.count += 1;
        let number = state.count;
        state.shelves.push(Shelf { number, lane, free: BTreeMap::new() });
        Share { pool: self.clone(), number }
    }

    /// A new block, within the budget and what the source has.
    fn take_new(&self, state: &mut State<S::Lane>, size: usize) -> Result<Option<u64>> {
        if self.budget.saturating_sub(state.usage.held) < size {
            return Ok(None);
        }
        let address = self.source.allocate(size)?;
        state.usage.held += address.map_or(0, |_| size);
        Ok(address)
    }

    /// A free block of just this size from another lane. The device waits for that one; the host waits for nothing.
    fn steal(&self, state: &mut State<S::Lane>, number: u64, size: usize) -> Result<Option<u64>> {
        let shelves = &mut state.shelves;
        let from = shelves.iter().position(|shelf| shelf.free.contains_key(&size));
        let to = shelves.iter().position(|shelf| shelf.number == number);
        let Some((from, to)) = from.zip(to) else { return Ok(None) };
        self.source.follow(&shelves[to].lane, &shelves[from].lane)?;
        Ok(shelves[from].take(size))
    }

    /// Gives a lane's free blocks back to the source, the largest first, until that is `bytes` or all. How many bytes it was, which
    /// are held no more.
    fn clear(&self, shelf: &mut Shelf<S::Lane>, bytes: usize) -> Result<usize> {
        if bytes == 0 || shelf.free.is_empty() {
            return Ok(0);
        }
        self.source.settle(&shelf.lane)?;
        let mut released = 0;
        while let Some((&size, _)) = shelf.free.last_key_value().filter(|_| released < bytes) {
            let Some(address) = shelf.take(size) else { break };
            // SAFETY: it came from the source. It was free, so that only its lane's work may still use it, which has run; what
            // other lanes did with it came before that. It is on no shelf any more.
            unsafe { self.source.free(address) };
            released += size;
        }
        Ok(released)
    }

    /// The same over all lanes, beginning with `first`.
    fn release(&self, state: &mut State<S::Lane>, first: Option<u64>, bytes: usize) -> Result<()> {
        let State { shelves, usage, .. } = state;
        let (own, others): (Vec<_>, Vec<_>) =
            shelves.iter_mut().partition(|shelf| first == Some(shelf.number));
        let mut left = bytes;
        for shelf in own.into_iter().chain(others) {
            let released = self.clear(shelf, left)?;
            usage.held -= released;
            left = left.saturating_sub(released);
        }
        Ok(())
    }

    /// Gives all free blocks back to the source.
    pub fn trim(&self) -> Result<()> {
        self.release(&mut self.state(), None, usize::MAX)
    }

    pub fn usage(&self) -> MemoryUse {
        self.state().usage
    }
}

/// A lane's part of a pool. Dropped, it gives its free blocks back to the source; it outlives those that are in use.
pub struct Share<S: Source> {
    pool: Arc<Pool<S>>,
    number: u64,
}

impl<S: Source> Share<S> {
    /// A block of at least so many bytes; none where that exceeds the budget, or what the source has.
    pub fn allocate(&self, bytes: usize) -> Result<Option<Block<S>>> {
        let Some(size) = size_class(bytes) else { return Ok(None) };
        let mut state = self.pool.state();
        loop {
            match self.find(&mut state, size)? {
                // There is more in a moment.
                None if state.leaving > 0 => {
                    self.pool.left.wait(&mut state);
                }
                None => return Ok(None),
                Some(address) => {
                    state.lend(size);
                    let (pool, lane) = (self.pool.clone(), self.number);
                    return Ok(Some(Block { pool, lane, address, bytes: size }));
                }
            }
        }
    }

    fn find(&self, state: &mut State<S::Lane>, size: usize) -> Result<Option<u64>> {
        let Self { pool, number } = self;
        let own = state.shelves.iter_mut().find(|shelf| shelf.number == *number);
        if let Some(address) = own.and_then(|shelf| shelf.take(size)) {
            return Ok(Some(address));
        }
        // Whether it can fit at all is known before anything is taken from others for it.
        let Some(rest) = pool.budget.checked_sub(size).filter(|rest| state.usage.used <= *rest) else {
            return Ok(None);
        };
        if let Some(address) = pool.take_new(state, size)? {
            return Ok(Some(address));
        }
        if let Some(address) = pool.steal(state, *number, size)? {
            return Ok(Some(address));
        }
        // As much as the budget asks for; all where the source itself has no more.
        let excess = state.usage.held.saturating_sub(rest);
        for bytes in [excess, usize::MAX].into_iter().filter(|bytes| *bytes > 0) {
            pool.release(state, Some(*number), bytes)?;
            if let Some(address) = pool.take_new(state, size)? {
                return Ok(Some(address));
            }
        }
        Ok(None)
    }
}

impl<S: Source> Drop for Share<S> {
    fn drop(&mut self) {
        let Self { pool, number } = self;
        let mut state = pool.state();
        let Some(at) = state.shelves.iter().position(|shelf| shelf.number == *number) else { return };
        let mut shelf = state.shelves.swap_remove(at);
        state.leaving += 1;
        drop(state);
        // Other lanes go on while this waits. A source that fails here has lost its memory anyway.
        let released = pool.clear(&mut shelf, usize::MAX).unwrap_or(0);
        let mut state = pool.state();
        state.leaving -= 1;
        state.usage.held -= released;
        drop(state);
        pool.left.notify_all();
    }
}
