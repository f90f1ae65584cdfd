//! Global memory: buffers far apart in one address space, so that no access past the end of one lands in another.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::Relaxed};

use half::f16;
use parking_lot::Mutex;

use crate::error::{Error, Result};

/// A buffer's addresses begin at its number times this.
const STRIDE: u64 = 1 << 32;

/// Who wrote a byte last: nobody, the host, an atomic operation, or a thread of the grid by its number from `FIRST` on.
const NOBODY: u32 = 0;
const HOST: u32 = 1;
const ATOMIC: u32 = 2;
const FIRST: u32 = 3;

/// A buffer of a [`Memory`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer(u32);

impl Buffer {
    /// Of its first byte.
    pub fn address(self) -> u64 {
        (u64::from(self.0) + 1) * STRIDE
    }
}

/// What a device's memory holds.
#[derive(Debug, Default)]
pub struct Memory {
    buffers: Vec<Contents>,
    atomics: Mutex<()>,
}

#[derive(Debug)]
struct Contents {
    bytes: Vec<AtomicU8>,
    writers: Vec<AtomicU32>,
    /// Whether a grid has written to it.
    touched: AtomicBool,
}

/// What buffers are filled with and read as.
pub trait Element: Copy {
    /// The value of its little-endian bytes.
    fn read(bytes: &[u8]) -> Self;
    /// Appends its little-endian bytes.
    fn write(self, bytes: &mut Vec<u8>);
}

macro_rules! elements {
    ($($kind:ty),*) => {$(
        impl Element for $kind {
            fn read(bytes: &[u8]) -> Self {
                Self::from_le_bytes(bytes.try_into().expect("its size"))
            }
            fn write(self, bytes: &mut Vec<u8>) {
                bytes.extend_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}
elements!(u8, u16, u32, u64, i32, f32, f16);

impl Memory {
    /// A buffer that nobody has written to: a read of it is an error.
    pub fn allocate(&mut self, bytes: usize) -> Buffer {
        assert!((bytes as u64) < STRIDE / 2, "a buffer of {bytes} bytes");
        let bytes_of = |value| (0..bytes).map(|_| AtomicU8::new(value)).collect();
        let writers = (0..bytes).map(|_| AtomicU32::new(NOBODY)).collect();
        self.buffers.push(Contents { bytes: bytes_of(0), writers, touched: AtomicBool::new(false) });
        Buffer(self.buffers.len() as u32 - 1)
    }

    /// A buffer with these values.
    pub fn upload<T: Element>(&mut self, values: &[T]) -> Buffer {
        let buffer = self.allocate(std::mem::size_of_val(values));
        self.write(buffer, values);
        buffer
    }

    /// Writes these values to the beginning of a buffer.
    ///
    /// # Panics
    /// Where it has no room for them.
    pub fn write<T: Element>(&self, buffer: Buffer, values: &[T]) {
        let mut bytes = Vec::with_capacity(std::mem::size_of_val(values));
        values.iter().for_each(|value| value.write(&mut bytes));
        let contents = &self.buffers[buffer.0 as usize];
        for (at, byte) in bytes.into_iter().enumerate() {
            contents.bytes[at].store(byte, Relaxed);
            contents.writers[at].store(HOST, Relaxed);
        }
    }

    /// Bytes of a buffer.
    pub fn len(&self, buffer: Buffer) -> usize {
        self.buffers[buffer.0 as usize].bytes.len()
    }

    /// The buffer that an address is in, and how far from its beginning.
    pub fn find_buffer(&self, address: u64) -> Option<(Buffer, usize)> {
        let number = (address / STRIDE).checked_sub(1)? as usize;
        let offset = (address % STRIDE) as usize;
        let within = offset < self.buffers.get(number)?.bytes.len();
        within.then_some((Buffer(number as u32), offset))
    }

    /// The bytes from an address on.
    fn slice(&self, address: u64, bytes: usize) -> Result<(&[AtomicU8], &[AtomicU32])> {
        let (contents, at) = self.find(address, bytes, 1).map_err(Error::Launch)?;
        Ok((&contents.bytes[at..at + bytes], &contents.writers[at..at + bytes]))
    }

    /// Writes bytes to an address.
    ///
    /// # Errors
    /// [`Error::Launch`] where no buffer has them all.
    pub fn write_at(&self, address: u64, values: &[u8]) -> Result<()> {
        let (bytes, writers) = self.slice(address, values.len())?;
        for ((byte, writer), value) in bytes.iter().zip(writers).zip(values) {
            byte.store(*value, Relaxed);
            writer.store(HOST, Relaxed);
        }
        Ok(())
    }

    /// The bytes from an address on.
    ///
    /// # Errors
    /// [`Error::Launch`] where no buffer has them all, or one was never written.
    pub fn read_at(&self, address: u64, bytes: usize) -> Result<Vec<u8>> {
        let (bytes, writers) = self.slice(address, bytes)?;
        if let Some(at) = writers.iter().position(|writer| writer.load(Relaxed) == NOBODY) {
            return Err(Error::Launch(format!("byte {at} from {address:#x} on was never written")));
        }
        Ok(bytes.iter().map(|byte| byte.load(Relaxed)).collect())
    }

    /// Copies bytes from one address to another; those that were never written stay so.
    ///
    /// # Errors
    /// [`Error::Launch`] where no buffer has them all.
    pub fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<()> {
        let (from, to) = (self.slice(from, bytes)?, self.slice(to, bytes)?);
        for at in 0..bytes {
            to.0[at].store(from.0[at].load(Relaxed), Relaxed);
            let writer = from.1[at].load(Relaxed);
            to.1[at].store(if writer == NOBODY { NOBODY } else { HOST }, Relaxed);
        }
        Ok(())
    }

    /// Gives a buffer's memory back. Its addresses are never used again, so that an access to it is an error.
    pub fn free(&mut self, buffer: Buffer) {
        let contents = &mut self.buffers[buffer.0 as usize];
        (contents.bytes, contents.writers) = (Vec::new(), Vec::new());
    }

    /// The values of a buffer.
    ///
    /// # Errors
    /// [`Error::Launch`] where a byte was never written.
    pub fn read<T: Element>(&self, buffer: Buffer) -> Result<Vec<T>> {
        let contents = &self.buffers[buffer.0 as usize];
        if let Some(at) = contents.writers.iter().position(|writer| writer.load(Relaxed) == NOBODY) {
            return Err(Error::Launch(format!("byte {at} of {} was never written", contents.bytes.len())));
        }
        let bytes: Vec<u8> = contents.bytes.iter().map(|byte| byte.load(Relaxed)).collect();
        Ok(bytes.chunks_exact(size_of::<T>()).map(T::read).collect())
    }

    /// Forgets which thread wrote what: what is there is as if the host had written it.
    pub(super) fn begin(&self) {
        let touched = self.buffers.iter().filter(|contents| contents.touched.swap(false, Relaxed));
        for writer in touched.flat_map(|contents| &contents.writers) {
            if writer.load(Relaxed) != NOBODY {
                writer.store(HOST, Relaxed);
            }
        }
    }

    fn find(
        &self,
        address: u64,
        bytes: usize,
        alignment: usize,
    ) -> std::result::Result<(&Contents, usize), String> {
        if !address.is_multiple_of(alignment as u64) {
            return Err(format!("a misaligned access of {bytes} bytes at {address:#x}"));
        }
        let offset = (address % STRIDE) as usize;
        let buffer = (address / STRIDE).checked_sub(1).and_then(|index| self.buffers.get(index as usize));
        match buffer {
            Some(contents) if offset + bytes <= contents.bytes.len() => Ok((contents, offset)),
            Some(contents) if offset < STRIDE as usize / 2 => {
                Err(format!("an access of {bytes} bytes at {offset} of a buffer of {}", contents.bytes.len()))
            }
            // Below its beginning lies the upper half of the one before.
            _ => Err(format!("an access of {bytes} bytes at {address:#x}, where no buffer is")),
        }
    }

    /// Reads up to 8 bytes. `threads` is the number of threads in a block, `thread` the reader's number in the grid.
    pub(super) fn load(
        &self,
        address: u64,
        bytes: usize,
        thread: u32,
        threads: u32,
    ) -> std::result::Result<u64, String> {
        let (contents, offset) = self.find(address, bytes, bytes)?;
        let mut value = 0;
        for at in 0..bytes {
            let writer = contents.writers[offset + at].load(Relaxed);
            if writer == NOBODY {
                return Err(format!("reads byte {} of a buffer, which nobody wrote", offset + at));
            }
            if writer >= FIRST && (writer - FIRST) / threads != thread / threads {
                return Err(format!("reads what another block of the grid wrote (byte {})", offset + at));
            }
            value |= u64::from(contents.bytes[offset + at].load(Relaxed)) << (8 * at);
        }
        Ok(value)
    }

    pub(super) fn store(
        &self,
        address: u64,
        bytes: usize,
        value: u64,
        thread: u32,
    ) -> std::result::Result<(), String> {
        let (contents, offset) = self.find(address, bytes, bytes)?;
        contents.touched.store(true, Relaxed);
        for at in 0..bytes {
            let before = contents.writers[offset + at].swap(thread + FIRST, Relaxed);
            if before == ATOMIC || before >= FIRST && before != thread + FIRST {
                return Err(format!(
                    "overwrites what another thread of the grid wrote (byte {})",
                    offset + at
                ));
            }
            contents.bytes[offset + at].store((value >> (8 * at)) as u8, Relaxed);
        }
        Ok(())
    }

    /// Replaces a value by `change` of it and returns the old one.
    pub(super) fn change(
        &self,
        address: u64,
        bytes: usize,
        change: impl FnOnce(u64) -> u64,
    ) -> std::result::Result<u64, String> {
        let _one = self.atomics.lock();
        let (contents, offset) = self.find(address, bytes, bytes)?;
        contents.touched.store(true, Relaxed);
        let mut old = 0;
        for at in 0..bytes {
            let writer = contents.writers[offset + at].load(Relaxed);
            if writer == NOBODY || writer >= FIRST {
                return Err(format!(
                    "an atomic operation on byte {}, which no atomic or host wrote",
                    offset + at
                ));
            }
            old |= u64::from(contents.bytes[offset + at].load(Relaxed)) << (8 * at);
        }
        let new = change(old);
        for at in 0..bytes {
            contents.bytes[offset + at].store((new >> (8 * at)) as u8, Relaxed);
            contents.writers[offset + at].store(ATOMIC, Relaxed);
        }
        Ok(old)
    }
}
