//! Transfers through pinned memory, which alone the device reads and writes by itself.
//!
//! A pinned area has two halves: while the device copies one, the host fills or empties the other.

use std::{ffi::c_void, ops::Range, sync::Arc};

use cudarc::driver::sys;
use parking_lot::Mutex;

use super::{
    driver::Context,
    stream::{Event, Stream},
};
use crate::error::Result;

/// Bytes of a half: a third of a millisecond on PCIe 4, far more than starting a copy takes.
const HALF: usize = 4 << 20;

/// Small uploads follow one another in a half at multiples of this many bytes.
const ALIGNMENT: usize = 256;

/// Memory of the host that the device may access.
pub struct Pinned {
    context: Arc<Context>,
    address: *mut u8,
    bytes: usize,
}

// SAFETY: it owns its memory, which any thread may free.
unsafe impl Send for Pinned {}
// SAFETY: shared, its memory is only read; whoever reads has seen to it that the device does not write.
unsafe impl Sync for Pinned {}

impl Pinned {
    pub fn new(context: Arc<Context>, bytes: usize) -> Result<Self> {
        context.enter()?;
        let mut address = std::ptr::null_mut();
        // SAFETY: the context is current; the pointer is to a local.
        context.check(unsafe { sys::cuMemHostAlloc(&mut address, bytes, 0) }, "pinned memory of the host")?;
        // SAFETY: just allocated, so many bytes. Zeroed, they may be a slice.
        unsafe { std::ptr::write_bytes(address.cast::<u8>(), 0, bytes) };
        Ok(Self { context, address: address.cast(), bytes })
    }

    /// Its first bytes, at most as many as it has.
    ///
    /// # Safety
    /// Copies that the device was asked to make into this memory have ended.
    unsafe fn slice(&self, bytes: usize) -> &[u8] {
        assert!(bytes <= self.bytes);
        // SAFETY: initialised in `new`, so many bytes. They are written through `&mut self` only, and by the device, which is
        // done with that, as the caller says.
        unsafe { std::slice::from_raw_parts(self.address, bytes) }
    }

    /// Has `write` fill a range of it, and copies that to a device's address when what is in the stream has run.
    ///
    /// # Safety
    /// The device has so many bytes there, and has made all copies from this range; until this one is made, `self` is not
    /// dropped and this part of it not written.
    pub unsafe fn upload(
        &mut self,
        range: Range<usize>,
        write: impl FnOnce(&mut [u8]),
        to: u64,
        stream: &Stream,
    ) -> Result<()> {
        assert!(range.start <= range.end && range.end <= self.bytes);
        let bytes = range.len();
        // SAFETY: within the memory, as asserted, which is initialised. The slice is of this part only, which nobody else uses, as
        // the caller says; the device may be reading the rest.
        let part = unsafe { std::slice::from_raw_parts_mut(self.address.add(range.start), bytes) };
        write(part);
        // SAFETY: as above. The caller answers for the target.
        let code = unsafe { sys::cuMemcpyHtoDAsync_v2(to, part.as_ptr().cast(), bytes, stream.raw()) };
        self.context.check(code, "an upload")
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: allocated in `new`. Who owns it has waited for the copies that use it: the lane and the graph do when they are
            // dropped. Where that fails, the device is lost, and copies nothing more.
            let _ = unsafe { sys::cuMemFreeHost(self.address.cast::<c_void>()) };
        }
    }
}

/// A half of an area, with the event that comes after its last copy.
struct Half {
    memory: Pinned,
    done: Event,
}

/// One direction's two halves.
#[derive(Default)]
struct Area {
    /// Made when they are first needed.
    halves: Option<[Half; 2]>,
    /// The half that is being filled, and how much of it.
    current: usize,
    filled: usize,
}

impl Area {
    fn halves(&mut self, context: &Arc<Context>) -> Result<&mut [Half; 2]> {
        if self.halves.is_none() {
            let half = || {
                let memory = Pinned::new(context.clone(), HALF)?;
                Ok(Half { memory, done: Event::mark(context.clone())? })
            };
            self.halves = Some([half()?, half()?]);
        }
        Ok(self.halves.as_mut().expect("just made"))
    }
}

/// The pinned memory of a lane.
#[derive(Default)]
pub struct Staging {
    up: Mutex<Area>,
    down: Mutex<Area>,
}

impl Staging {
    /// Copies so many bytes to the device's address, when what is in the stream has run. `write` gives them, some at a time: from which
    /// one on, and the place in pinned memory. Returns when they are there. While `write` fills one half, the device may
    /// copy the other.
    ///
    /// # Safety
    /// The device has so many bytes there until the copy is done, and the stream is the same at each call.
    pub unsafe fn upload(
        &self,
        bytes: usize,
        write: &mut dyn FnMut(usize, &mut [u8]),
        to: u64,
        stream: &Stream,
    ) -> Result<()> {
        let mut area = self.up.lock();
        for first in (0..bytes).step_by(HALF) {
            let chunk = HALF.min(bytes - first);
            if area.filled + chunk > HALF {
                // The event follows every copy of this half. The other half's says when that may be overwritten; most
                // often it has been for long.
                let current = area.current;
                let halves = area.halves(&stream.context)?;
                halves[current].done.record(stream)?;
                halves[1 - current].done.wait()?;
                (area.current, area.filled) = (1 - current, 0);
            }
            let (current, at) = (area.current, area.filled);
            let half = &mut area.halves(&stream.context)?[current];
            // SAFETY: the caller answers for the target. This part of the half is not written again before its event was
            // waited for, and the stream is done with it before it is freed.
            unsafe {
                half.memory.upload(at..at + chunk, |part| write(first, part), to + first as u64, stream)
            }?;
            area.filled = (at + chunk).next_multiple_of(ALIGNMENT);
        }
        Ok(())
    }

    /// Fills `bytes` from the device's address, after what is in the stream.
    ///
    /// # Safety
    /// The device has so many bytes there, and the stream is the same at each call.
    pub unsafe fn download(&self, from: u64, bytes: &mut [u8], stream: &Stream) -> Result<()> {
        let mut area = self.down.lock();
        let halves = area.halves(&stream.context)?;
        // Chunk i is copied to half i % 2 while the one before it is emptied.
        let mut emptied: Option<(&mut [u8], usize)> = None;
        for (i, chunk) in bytes.chunks_mut(HALF).enumerate() {
            let Half { memory, done } = &mut halves[i % 2];
            let address = from + (i * HALF) as u64;
            // SAFETY: the caller answers for the source; the half has as many bytes as a chunk, and was emptied.
            let code = unsafe {
                sys::cuMemcpyDtoHAsync_v2(memory.address.cast(), address, chunk.len(), stream.raw())
            };
            stream.context.check(code, "a download")?;
            done.record(stream)?;
            if let Some((chunk, half)) = emptied.replace((chunk, i % 2)) {
                halves[half].empty(chunk)?;
            }
        }
        match emptied {
            Some((chunk, half)) => halves[half].empty(chunk),
            None => Ok(()),
        }
    }
}

impl Half {
    /// Copies what the device wrote before the event.
    fn empty(&mut self, to: &mut [u8]) -> Result<()> {
        self.done.wait()?;
        // SAFETY: `download` recorded the event behind its copy into this memory, which is the last one.
        to.copy_from_slice(unsafe { self.memory.slice(to.len()) });
        Ok(())
    }
}
