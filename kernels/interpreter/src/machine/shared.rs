//! A block's shared memory, with what is needed to tell accesses that nothing orders.

/// A point in a thread's course: barriers of its block and of its warp that it has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moment {
    pub block: u32,
    pub warp: u32,
}

/// More than one thread, or more than one warp.
const MANY: u32 = u32::MAX;

/// The last accesses to a byte. Numbers are from 1, 0 is nobody.
#[derive(Debug, Clone, Copy, Default)]
struct Byte {
    value: u8,
    writer: u32,
    written: Moment,
    reader: u32,
    reader_warp: u32,
    read: Moment,
    /// A `cp.async` that has not been waited for.
    in_flight: bool,
}

pub struct Shared {
    bytes: Vec<Byte>,
}

type Answer<T> = Result<T, String>;

/// Whether two accesses by different threads are in an order: a barrier of the block lies between, or both threads are of
/// one warp and one of its barriers does.
fn ordered(before: Moment, now: Moment, same_warp: bool) -> bool {
    before.block < now.block || same_warp && before.warp < now.warp
}

impl Shared {
    pub fn new(bytes: usize) -> Self {
        Self { bytes: vec![Byte::default(); bytes] }
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
    pub fn load(&mut self, address: u64, bytes: usize, thread: u32, now: Moment) -> Answer<u64> {
        let mut value = 0;
        for (i, at) in self.range(address, bytes)?.enumerate() {
            let byte = &mut self.bytes[at];
            if byte.in_flight {
                return Err(format!("reads byte {at} of shared memory, which a cp.async still writes"));
            }
            if byte.writer == 0 {
                return Err(format!("reads byte {at} of shared memory, which nobody wrote"));
            }
            let same_warp = (byte.writer - 1) / 32 == thread / 32;
            if byte.writer != thread + 1 && !ordered(byte.written, now, same_warp) {
                let writer = byte.writer - 1;
                return Err(format!(
                    "reads byte {at} of shared memory, which thread {writer} writes: no barrier between"
                ));
            }
            byte.note_read(thread, now);
            value |= u64::from(byte.value) << (8 * i);
        }
        Ok(value)
    }

    pub fn store(&mut self, address: u64, bytes: usize, value: u64, thread: u32, now: Moment) -> Answer<()> {
        for (i, at) in self.range(address, bytes)?.enumerate() {
            self.bytes[at].check_write(at, thread, now)?;
            let byte = &mut self.bytes[at];
            (byte.value, byte.writer, byte.written) = ((value >> (8 * i)) as u8, thread + 1, now);
        }
        Ok(())
    }

    /// The beginning of a `cp.async`: until it has been waited for, nobody may read what it writes.
    pub fn begin_copy(&mut self, address: u64, content: &[u8], thread: u32, now: Moment) -> Answer<()> {
        for (at, value) in self.range(address, content.len())?.zip(content) {
            self.bytes[at].check_write(at, thread, now)?;
            let byte = &mut self.bytes[at];
            (byte.value, byte.writer, byte.written, byte.in_flight) = (*value, thread + 1, now, true);
        }
        Ok(())
    }

    /// Its end, as its thread sees it.
    pub fn end_copy(&mut self, address: u64, bytes: usize, now: Moment) {
        for byte in &mut self.bytes[address as usize..address as usize + bytes] {
            (byte.in_flight, byte.written) = (false, now);
        }
    }
}

impl Byte {
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

    fn check_write(&self, at: usize, thread: u32, now: Moment) -> Answer<()> {
        if self.in_flight {
            return Err(format!("writes byte {at} of shared memory, which a cp.async still writes"));
        }
        let same_warp = self.writer != 0 && (self.writer - 1) / 32 == thread / 32;
        if self.writer != 0 && self.writer != thread + 1 && !ordered(self.written, now, same_warp) {
            let writer = self.writer - 1;
            return Err(format!(
                "writes byte {at} of shared memory, as thread {writer} does: no barrier between"
            ));
        }
        let same_warp = self.reader_warp == thread / 32 + 1;
        if self.reader != 0 && self.reader != thread + 1 && !ordered(self.read, now, same_warp) {
            return Err(format!("writes byte {at} of shared memory, which others read: no barrier between"));
        }
        Ok(())
    }
}
