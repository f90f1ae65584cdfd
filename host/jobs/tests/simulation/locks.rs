//! Locks and shared memory of one file, between the connections of one process.

use std::alloc::{Layout, alloc_zeroed, dealloc};

use parking_lot::Mutex;
use rusqlite::ffi;

/// Locks of the shared memory.
const SLOTS: usize = ffi::SQLITE_SHM_NLOCK as usize;

/// Bytes to which SQLite's view of its shared memory has to be aligned.
const ALIGNED: usize = 8;

#[derive(Default)]
pub struct Locks(Mutex<Held>);

#[derive(Default)]
struct Held {
    next: u64,
    /// Which connection has which of SQLite's five levels.
    levels: Vec<(u64, i32)>,
    shared: [Vec<u64>; SLOTS],
    exclusive: [Option<u64>; SLOTS],
    regions: Vec<Region>,
}

/// Memory that stays where it is until the last connection of its epoch is gone.
struct Region {
    start: *mut u8,
    layout: Layout,
}

// SAFETY: the memory belongs to the region alone; it is SQLite that orders accesses to it, by the locks above.
unsafe impl Send for Region {}

impl Region {
    fn new(bytes: usize) -> Self {
        let layout = Layout::from_size_align(bytes.max(ALIGNED), ALIGNED).expect("some kilobytes");
        // SAFETY: the layout is not empty.
        let start = unsafe { alloc_zeroed(layout) };
        assert!(!start.is_null(), "memory for {bytes} bytes");
        Self { start, layout }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout in `new`, and given back nowhere else.
        unsafe { dealloc(self.start, self.layout) }
    }
}

impl Locks {
    pub fn connect(&self) -> u64 {
        let mut held = self.0.lock();
        held.next += 1;
        held.next
    }

    pub fn disconnect(&self, who: u64) {
        let mut held = self.0.lock();
        held.levels.retain(|(other, _)| *other != who);
        held.shared.iter_mut().for_each(|slot| slot.retain(|other| *other != who));
        held.exclusive.iter_mut().filter(|slot| **slot == Some(who)).for_each(|slot| *slot = None);
    }

    /// Takes one of SQLite's levels. False where another connection is in the way.
    pub fn lock(&self, who: u64, level: i32) -> bool {
        let mut held = self.0.lock();
        let others = held.levels.iter().filter(|(other, _)| *other != who).map(|(_, level)| *level);
        let highest = others.max().unwrap_or(ffi::SQLITE_LOCK_NONE);
        let free = match level {
            ffi::SQLITE_LOCK_SHARED => highest < ffi::SQLITE_LOCK_PENDING,
            ffi::SQLITE_LOCK_RESERVED => highest < ffi::SQLITE_LOCK_RESERVED,
            _ => highest < ffi::SQLITE_LOCK_SHARED,
        };
        if free {
            set(&mut held.levels, who, level);
        }
        free
    }

    pub fn unlock(&self, who: u64, level: i32) {
        set(&mut self.0.lock().levels, who, level);
    }

    pub fn is_reserved(&self) -> bool {
        self.0.lock().levels.iter().any(|(_, level)| *level >= ffi::SQLITE_LOCK_RESERVED)
    }

    /// Locks and unlocks slots of the shared memory. False where another connection is in the way.
    pub fn slots(&self, who: u64, slots: std::ops::Range<usize>, flags: i32) -> bool {
        let mut held = self.0.lock();
        let held = &mut *held;
        let exclusive = flags & ffi::SQLITE_SHM_EXCLUSIVE != 0;
        for slot in slots.clone() {
            let (shared, alone) = (&mut held.shared[slot], &mut held.exclusive[slot]);
            if flags & ffi::SQLITE_SHM_UNLOCK != 0 {
                shared.retain(|other| *other != who);
                *alone = alone.filter(|other| *other != who);
            } else if alone.is_some_and(|other| other != who)
                || exclusive && shared.iter().any(|other| *other != who)
            {
                return false;
            }
        }
        if flags & ffi::SQLITE_SHM_LOCK != 0 {
            for slot in slots {
                match exclusive {
                    true => held.exclusive[slot] = Some(who),
                    false => held.shared[slot].push(who),
                }
            }
        }
        true
    }

    /// A region of the shared memory; null where it is not there and not to be made.
    pub fn region(&self, number: usize, bytes: usize, make: bool) -> *mut u8 {
        let mut held = self.0.lock();
        while make && held.regions.len() <= number {
            held.regions.push(Region::new(bytes));
        }
        held.regions.get(number).map_or(std::ptr::null_mut(), |region| region.start)
    }
}

fn set(levels: &mut Vec<(u64, i32)>, who: u64, level: i32) {
    levels.retain(|(other, _)| *other != who);
    if level > ffi::SQLITE_LOCK_NONE {
        levels.push((who, level));
    }
}
