//! Global memory: buffers far apart in one address space, so that no access past the end of one lands in another.

use std::sync::{
    Mutex,
    atomic::{AtomicU8, AtomicU32, Ordering::Relaxed},
};

use half::f16;

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
    pub(super) fn address(self) -> u64 {
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
        self.buffers.push(Contents { bytes: bytes_of(0), writers });
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

    /// Gives a buffer's memory back. Its addresses are never used again, so that an access to it is an error.
    pub fn free(&mut self, buffer: Buffer) {
        self.buffers[buffer.0 as usize] = Contents { bytes: Vec::new(), writers: Vec::new() };
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
        for writer in self.buffers.iter().flat_map(|contents| &contents.writers) {
            if writer.load(Relaxed) != NOBODY {
                writer.store(HOST, Relaxed);
            }
        }
    }

    fn find(&self, address: u64, bytes: usize) -> std::result::Result<(&Contents, usize), String> {
        if !address.is_multiple_of(bytes as u64) {
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
        let (contents, offset) = self.find(address, bytes)?;
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
        let (contents, offset) = self.find(address, bytes)?;
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
        let _one = self.atomics.lock().expect("no panic inside");
        let (contents, offset) = self.find(address, bytes)?;
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
