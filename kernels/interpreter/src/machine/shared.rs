//! A block's shared memory, with what is needed to tell accesses that nothing orders.

use super::mbarrier::{Clock, Mbarriers};

/// A point in a thread's course: barriers of its block and of its warp that it has passed, and how often its warp has told
/// others, by an mbarrier or a named barrier, of what it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moment {
    pub block: u32,
    pub warp: u32,
    pub told: u32,
}

/// A thread's present, and what its warp knows of others.
#[derive(Clone, Copy)]
pub struct Now<'a> {
    pub moment: Moment,
    pub clock: &'a Clock,
}

impl Now<'_> {
    fn knows(&self, warp: u32, told: u32) -> bool {
        self.clock.told.get(warp as usize).is_some_and(|heard| *heard > told)
    }
}

/// More than one thread, or more than one warp.
const MANY: u32 = u32::MAX;

/// The last accesses to a byte. Numbers are from 1, 0 is nobody.
#[derive(Debug, Clone, Default)]
struct Byte {
    value: u8,
    writer: u32,
    written: Moment,
    reader: u32,
    reader_warp: u32,
    read: Moment,
    /// A `cp.async` that has not been waited for.
    in_flight: bool,
    /// The mbarrier and its phase that say when a bulk copy has written it.
    bulk: Option<(u64, u32)>,
    /// `wgmma`s in flight that read it, and the warps whose `wgmma`s have.
    multiplied: u32,
    multipliers: Vec<(u32, Moment)>,
}

pub struct Shared {
    bytes: Vec<Byte>,
    pub mbarriers: Mbarriers,
}

type Answer<T> = Result<T, String>;

/// Whether two accesses by different threads are in an order: a barrier of the block lies between, both threads are of
/// one warp and one of its barriers does, or the warp of the former has told the other's.
fn ordered(before: Moment, warp: Option<u32>, now: Now, same_warp: bool) -> bool {
    before.block < now.moment.block
        || same_warp && before.warp < now.moment.warp
        || warp.is_some_and(|warp| now.knows(warp, before.told))
}

impl Shared {
    pub fn new(bytes: usize) -> Self {
        Self { bytes: vec![Byte::default(); bytes], mbarriers: Mbarriers::default() }
    }

    fn range(&self, address: u64, bytes: usize) -> Answer<std::ops::Range<usize>> {
        if !address.is_multiple_of(bytes as u64) {
            return Err(format!("a misaligned access of {bytes} bytes at {address} of shared memory"));
        }
        let start = usize::try_from(address).unwrap_or(usize::MAX);
        match start.checked_add(bytes) {
            Some(end) if end <= self.bytes.len() => Ok(start..end),
            _ => Err(format!(
                "an access of {bytes} bytes at {address} of {} of shared memory",
                self.bytes.len()
            )),
        }
    }

    /// Reads up to 8 bytes.
    pub fn load(&mut self, address: u64, bytes: usize, thread: u32, now: Now) -> Answer<u64> {
        let mut value = 0;
        for (i, at) in self.range(address, bytes)?.enumerate() {
            let byte = &mut self.bytes[at];
            byte.check_read(at, thread, now)?;
            byte.note_read(thread, now.moment);
            value |= u64::from(byte.value) << (8 * i);
        }
        Ok(value)
    }

    pub fn store(&mut self, address: u64, bytes: usize, value: u64, thread: u32, now: Now) -> Answer<()> {
        for (i, at) in self.range(address, bytes)?.enumerate() {
            self.bytes[at].write(at, (value >> (8 * i)) as u8, thread, now)?;
        }
        Ok(())
    }

    /// The beginning of a `cp.async`: until it has been waited for, nobody may read what it writes.
    pub fn begin_copy(&mut self, address: u64, content: &[u8], thread: u32, now: Now) -> Answer<()> {
        for (at, value) in self.range(address, content.len())?.zip(content) {
            self.bytes[at].write(at, *value, thread, now)?;
            self.bytes[at].in_flight = true;
        }
        Ok(())
    }

    /// Its end, as its thread sees it.
    pub fn end_copy(&mut self, address: u64, bytes: usize, now: Moment) {
        for byte in &mut self.bytes[address as usize..address as usize + bytes] {
            (byte.in_flight, byte.written) = (false, now);
        }
    }

    /// Two bytes of a bulk copy: who wants to read them must have seen that phase of its mbarrier end.
    pub fn bulk_copy(
        &mut self,
        address: u64,
        value: u16,
        thread: u32,
        now: Now,
        (mbarrier, phase): (u64, u32),
    ) -> Answer<()> {
        for (at, value) in self.range(address, 2)?.zip(value.to_le_bytes()) {
            self.bytes[at].write(at, value, thread, now)?;
            self.bytes[at].bulk = Some((mbarrier, phase));
        }
        Ok(())
    }

    /// The value that a `wgmma` reads, from now on until it has been waited for.
    pub fn begin_multiply(&mut self, address: u64, thread: u32, now: Now) -> Answer<u16> {
        let mut value = [0; 2];
        for (value, at) in value.iter_mut().zip(self.range(address, 2)?) {
            let byte = &mut self.bytes[at];
            byte.check_read(at, thread, now)?;
            if byte.bulk.is_none() {
                return Err(format!("a wgmma reads byte {at} of shared memory, which no bulk copy wrote"));
            }
            byte.multiplied += 1;
            *value = byte.value;
        }
        Ok(u16::from_le_bytes(value))
    }

    /// It has been waited for.
    pub fn end_multiply(&mut self, address: u64, warp: u32, now: Moment) {
        for byte in &mut self.bytes[address as usize..address as usize + 2] {
            byte.multiplied -= 1;
            match byte.multipliers.iter_mut().find(|(other, _)| *other == warp) {
                Some((_, moment)) => *moment = now,
                None => byte.multipliers.push((warp, now)),
            }
        }
    }
}

impl Byte {
    fn check_read(&self, at: usize, thread: u32, now: Now) -> Answer<()> {
        if self.in_flight {
            return Err(format!("reads byte {at} of shared memory, which a cp.async still writes"));
        }
        if self.writer == 0 {
            return Err(format!("reads byte {at} of shared memory, which nobody wrote"));
        }
        if let Some((mbarrier, phase)) = self.bulk {
            return match now.clock.phases.get(&mbarrier).is_some_and(|seen| *seen > phase) {
                true => Ok(()),
                false => Err(format!(
                    "reads byte {at} of shared memory, which a bulk copy may still write: no wait at its mbarrier"
                )),
            };
        }
        let (writer, warp) = (self.writer - 1, (self.writer - 1) / 32);
        if writer != thread && !ordered(self.written, Some(warp), now, warp == thread / 32) {
            return Err(format!(
                "reads byte {at} of shared memory, which thread {writer} writes: no barrier between"
            ));
        }
        Ok(())
    }

    fn note_read(&mut self, thread: u32, now: Moment) {
        let warp = thread / 32 + 1;
        if self.reader != 0 && self.read.block == now.block {
            self.reader = if self.reader == thread + 1 { self.reader } else { MANY };
            self.reader_warp = if self.reader_warp == warp { warp } else { MANY };
        } else {
            (self.reader, self.reader_warp) = (thread + 1, warp);
        }
        self.read = now;
    }

    fn write(&mut self, at: usize, value: u8, thread: u32, now: Now) -> Answer<()> {
        self.check_write(at, thread, now)?;
        (self.value, self.writer, self.written, self.bulk) = (value, thread + 1, now.moment, None);
        self.multipliers.clear();
        Ok(())
    }

    fn check_write(&self, at: usize, thread: u32, now: Now) -> Answer<()> {
        if self.in_flight {
            return Err(format!("writes byte {at} of shared memory, which a cp.async still writes"));
        }
        let mine = thread / 32;
        let late =
            |(warp, moment): &(u32, Moment)| *warp != mine && !ordered(*moment, Some(*warp), now, false);
        if self.multiplied > 0 || self.multipliers.iter().any(late) {
            return Err(format!("writes byte {at} of shared memory, which a wgmma may still read"));
        }
        if self.bulk.is_some() {
            self.check_read(at, thread, now).map_err(|what| what.replace("reads", "writes"))?;
        } else if self.writer != 0 && self.writer != thread + 1 {
            let (writer, warp) = (self.writer - 1, (self.writer - 1) / 32);
            if !ordered(self.written, Some(warp), now, warp == mine) {
                return Err(format!(
                    "writes byte {at} of shared memory, as thread {writer} does: no barrier between"
                ));
            }
        }
        let warp = self.reader_warp.checked_sub(1).filter(|_| self.reader_warp != MANY);
        if self.reader != 0 && self.reader != thread + 1 && !ordered(self.read, warp, now, warp == Some(mine))
        {
            return Err(format!("writes byte {at} of shared memory, which others read: no barrier between"));
        }
        Ok(())
    }
}
