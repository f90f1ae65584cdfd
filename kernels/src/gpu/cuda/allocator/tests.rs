//! Against a source that only counts, and says what it was asked.

use super::*;
use crate::error::Error;
use std::collections::HashMap;

/// Hands out addresses as long as it has so many bytes, and keeps a log of what it was asked.
struct Fake {
    left: Mutex<usize>,
    live: Mutex<HashMap<u64, usize>>,
    log: Mutex<Vec<String>>,
    broken: bool,
    /// Held by a test for as long as nothing is to settle.
    settles: Mutex<()>,
}

impl Fake {
    fn new(bytes: usize) -> Self {
        Self {
            left: Mutex::new(bytes),
            live: Mutex::default(),
            log: Mutex::default(),
            broken: false,
            settles: Mutex::default(),
        }
    }

    fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.log.lock())
    }

    fn wait(&self, what: String) -> Result<()> {
        self.log.lock().push(what);
        let lost = || Error::Device { device: "fake".into(), what: "gone".into(), lost: true };
        if self.broken { Err(lost()) } else { Ok(()) }
    }
}

impl Source for &Fake {
    type Lane = &'static str;

    fn allocate(&self, bytes: usize) -> Result<Option<u64>> {
        self.log.lock().push(format!("allocate {bytes}"));
        let mut left = self.left.lock();
        if *left < bytes {
            return Ok(None);
        }
        *left -= bytes;
        let mut live = self.live.lock();
        let address = (1..).map(|n| n << 32).find(|address| !live.contains_key(address)).unwrap();
        live.insert(address, bytes);
        Ok(Some(address))
    }

    unsafe fn free(&self, address: u64) {
        let bytes = self.live.lock().remove(&address).expect("it was allocated");
        self.log.lock().push(format!("free {bytes}"));
        *self.left.lock() += bytes;
    }

    fn settle(&self, lane: &&'static str) -> Result<()> {
        let waited = self.wait(format!("settle {lane}"));
        let _settled = self.settles.lock();
        waited
    }

    fn follow(&self, lane: &&'static str, earlier: &&'static str) -> Result<()> {
        self.wait(format!("{lane} after {earlier}"))
    }
}

#[track_caller]
fn allocate<S: Source>(pool: &Share<S>, bytes: usize) -> Block<S> {
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
    let pool = Pool::new(&source, usize::MAX).share("a");
    let (a, b) = (allocate(&pool, 100_000), allocate(&pool, 100_000));
    assert_ne!(a.address, b.address);
    assert_eq!(a.bytes, 114_688);
    let (first, second) = (a.address, b.address);
    drop(a);
    let c = allocate(&pool, 114_688);
    assert_eq!(c.address, first);
    assert_eq!(source.log(), ["allocate 114688", "allocate 114688"]);
    let other = allocate(&pool, 1000);
    assert!(other.address != first && other.address != second, "another size, another block");
    assert_eq!(source.log(), ["allocate 1024"]);
    drop(c);
    for _ in 0..100 {
        let blocks = [allocate(&pool, 100_000), allocate(&pool, 100_000)];
        blocks.into_iter().for_each(drop);
    }
    assert_eq!(source.log(), ["allocate 114688"], "a third, as the second is still in use");
    let usage = MemoryUse { used: 114_688 + 1024, held: 3 * 114_688 + 1024, peak: 3 * 114_688 + 1024 };
    assert_eq!(pool.pool.usage(), usage);
}

#[test]
fn the_budget_counts_what_is_kept_and_frees_it_first() {
    let source = Fake::new(1 << 30);
    let pool = Pool::new(&source, 10 * 1024).share("a");
    let (a, b) = (allocate(&pool, 4096), allocate(&pool, 2048));
    drop(a);
    drop(b);
    source.log();
    // 6 KiB are kept; with 5 more it is one too many, and the largest block makes room.
    let c = allocate(&pool, 5120);
    assert_eq!(source.log(), ["settle a", "free 4096", "allocate 5120"]);
    assert_eq!(pool.pool.usage().held, 2048 + 5120);
    // Nothing is given back for what cannot fit.
    assert!(pool.allocate(6 * 1024).unwrap().is_none());
    assert!(pool.allocate(usize::MAX).unwrap().is_none());
    assert_eq!(source.log(), [""; 0]);
    let d = allocate(&pool, 2048);
    assert_eq!(source.log(), [""; 0], "the kept block is still there");
    assert!(pool.allocate(3 * 1024 + 1).unwrap().is_none());
    let e = allocate(&pool, 3 * 1024);
    assert_eq!(pool.pool.usage().held, pool.pool.budget());
    [c, d, e].into_iter().for_each(drop);
    assert_eq!(pool.pool.usage().used, 0);
}

#[test]
fn a_source_without_memory_is_asked_again_after_all_was_given_back() {
    let source = Fake::new(8192);
    let pool = Pool::new(&source, usize::MAX).share("a");
    let (a, b) = (allocate(&pool, 2048), allocate(&pool, 4096));
    drop(a);
    assert!(pool.allocate(8192).unwrap().is_none());
    assert_eq!(
        source.log(),
        ["allocate 2048", "allocate 4096", "allocate 8192", "settle a", "free 2048", "allocate 8192"]
    );
    assert_eq!(pool.pool.usage().held, 4096);
    drop(b);
    let c = allocate(&pool, 8192);
    assert_eq!(source.log(), ["allocate 8192", "settle a", "free 4096", "allocate 8192"]);
    drop(c);
}

#[test]
fn all_goes_back_at_last_and_when_asked() {
    let source = Fake::new(1 << 20);
    let pool = Pool::new(&source, usize::MAX).share("a");
    let blocks = [512, 1024, 512].map(|bytes| allocate(&pool, bytes));
    blocks.into_iter().for_each(drop);
    pool.pool.trim().unwrap();
    assert_eq!(pool.pool.usage(), MemoryUse { used: 0, held: 0, peak: 2048 });
    source.log();
    pool.pool.trim().unwrap();
    assert_eq!(source.log(), [""; 0], "nothing to wait for");
    let block = allocate(&pool, 512);
    drop(block);
    drop(pool);
    assert_eq!(*source.left.lock(), 1 << 20);
}

#[test]
fn a_device_that_is_gone_keeps_its_blocks() {
    let source = Fake { broken: true, ..Fake::new(4096) };
    let pool = Pool::new(&source, usize::MAX).share("a");
    let block = allocate(&pool, 4096);
    drop(block);
    assert!(matches!(pool.allocate(512), Err(Error::Device { lost: true, .. })));
    assert_eq!(pool.pool.usage(), MemoryUse { used: 0, held: 4096, peak: 4096 });
}

#[test]
fn lanes_keep_their_blocks_as_long_as_there_is_other_memory() {
    let source = Fake::new(1 << 20);
    let pool = Pool::new(&source, usize::MAX);
    let (a, b) = (pool.share("a"), pool.share("b"));
    let block = allocate(&a, 4096);
    let first = block.address;
    drop(block);
    let other = allocate(&b, 4096);
    assert_ne!(other.address, first, "what a launched may still use it");
    let again = allocate(&a, 4096);
    assert_eq!(again.address, first);
    assert_eq!(source.log(), ["allocate 4096", "allocate 4096"], "and nobody waited");
    assert_eq!(pool.usage(), MemoryUse { used: 8192, held: 8192, peak: 8192 });
    // Freed, a block is its own lane's, whoever frees it.
    drop(other);
    drop(again);
    assert_eq!(allocate(&a, 4096).address, first);
}

#[test]
fn a_full_budget_takes_another_lanes_block_and_has_the_device_wait() {
    let source = Fake::new(1 << 20);
    let pool = Pool::new(&source, 8192);
    let (a, b) = (pool.share("a"), pool.share("b"));
    let blocks = [allocate(&a, 4096), allocate(&a, 4096)];
    let addresses = blocks.each_ref().map(|block| block.address);
    let [kept, freed] = blocks;
    drop(freed);
    source.log();
    let taken = allocate(&b, 4096);
    assert_eq!((taken.address, source.log()), (addresses[1], vec!["b after a".to_owned()]));
    assert!(b.allocate(512).unwrap().is_none(), "all is in use");
    // From now on it is b's.
    drop(taken);
    assert_eq!(allocate(&b, 4096).address, addresses[1]);
    assert_eq!(source.log(), [""; 0]);
    drop(kept);
}

#[test]
fn room_is_made_of_the_own_blocks_first_and_then_of_the_others() {
    let source = Fake::new(1 << 20);
    let pool = Pool::new(&source, 10 * 1024);
    let lanes = ["a", "b", "c"].map(|lane| pool.share(lane));
    for (lane, bytes) in lanes.iter().zip([4096, 2048, 1024]) {
        let block = allocate(lane, bytes);
        drop(block);
    }
    source.log();
    // 7 KiB are kept. b's own block is enough for 5 more, and for 8 it takes all.
    let block = allocate(&lanes[1], 5 * 1024);
    assert_eq!(source.log(), ["settle b", "free 2048", "allocate 5120"]);
    drop(block);
    let block = allocate(&lanes[1], 8 * 1024);
    let all = ["settle b", "free 5120", "settle a", "free 4096", "allocate 8192"];
    assert_eq!(source.log(), all, "c's may stay");
    assert_eq!(pool.usage().held, 8192 + 1024);
    drop(block);
}

#[test]
fn a_source_without_memory_gets_back_what_any_lane_keeps() {
    let source = Fake::new(8192);
    let pool = Pool::new(&source, usize::MAX);
    let (a, b) = (pool.share("a"), pool.share("b"));
    let block = allocate(&a, 2048);
    drop(block);
    let block = allocate(&b, 8192);
    let log = ["allocate 2048", "allocate 8192", "settle a", "free 2048", "allocate 8192"];
    assert_eq!(source.log(), log);
    drop(block);
}

#[test]
fn a_lane_that_goes_gives_its_memory_back() {
    let source = Fake::new(1 << 20);
    let pool = Pool::new(&source, usize::MAX);
    let (a, b) = (pool.share("a"), pool.share("b"));
    let blocks = [&a, &b].map(|lane| allocate(lane, 1024));
    let [of_a, of_b] = blocks;
    drop(of_a);
    source.log();
    drop(a);
    assert_eq!(source.log(), ["settle a", "free 1024"]);
    assert_eq!(pool.usage(), MemoryUse { used: 1024, held: 1024, peak: 2048 });
    drop(of_b);
    drop(b);
    assert_eq!(pool.usage().held, 0);
}

#[test]
fn what_a_lane_is_giving_back_is_waited_for_only_by_who_needs_it() {
    let source = Fake::new(1 << 20);
    let pool = Pool::new(&source, 4096);
    let (a, b) = (pool.share("a"), pool.share("b"));
    drop(allocate(&a, 2048));
    let unsettled = source.settles.lock();
    std::thread::scope(|scope| {
        scope.spawn(move || drop(a));
        while !source.log.lock().iter().any(|call| call == "settle a") {
            std::thread::yield_now();
        }
        let small = allocate(&b, 2048);
        let large = scope.spawn(|| allocate(&b, 1024));
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(!large.is_finished());
        drop(unsettled);
        drop(large.join().unwrap());
        drop(small);
    });
}
