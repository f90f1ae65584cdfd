//! Memory of tensors: aligned to cache lines and used again.
//!
//! A layer's output can be tens of megabytes. Fresh from the operating system each of its pages costs a
//! fault and a clearing, which at these sizes takes longer than the arithmetic of a cheap layer: so freed
//! buffers are kept for the next tensor.

use std::{mem::MaybeUninit, sync::Arc};

use parking_lot::Mutex;
use rayon::prelude::*;

/// How many lanes a vector has, and so how many channels a block of the blocked layout.
pub(crate) const LANES: usize = 16;

/// Sixteen values of neighbouring channels: one cache line.
#[derive(Clone, Copy, PartialEq)]
#[repr(C, align(64))]
pub(crate) struct Lanes(pub(crate) [f32; LANES]);

impl Lanes {
    pub(crate) const ZERO: Self = Self([0.0; LANES]);
}

/// The most bytes that lie unused in a pool.
const KEPT_BYTES: usize = 1 << 30;
/// New buffers from this size on take the place of unused ones.
const LARGE_BYTES: usize = 1 << 20;

/// Freed buffers, the latest last.
#[derive(Default)]
pub(crate) struct Pool {
    free: Mutex<Vec<Vec<Lanes>>>,
}

impl Pool {
    /// A buffer of at least `floats` values. The contents are arbitrary (but initialised).
    pub(crate) fn take(self: &Arc<Self>, floats: usize) -> Buffer {
        let len = floats.div_ceil(LANES);
        let mut free = self.free.lock();
        // The smallest that is large enough, unless that would waste more than half of it.
        let fitting = (0..free.len()).filter(|&i| (len..=2 * len).contains(&free[i].len()));
        let reused = fitting.min_by_key(|&i| free[i].len()).map(|i| free.remove(i));
        if reused.is_none() {
            // What is kept has other sizes than what is needed now: let the oldest go, so that all together do
            // not become more than the most that was ever in use.
            let bytes = len * size_of::<Lanes>();
            let mut freed = 0;
            while bytes >= LARGE_BYTES && freed < bytes && !free.is_empty() {
                freed += size_of_val(free.remove(0).as_slice());
            }
        }
        drop(free);
        let data = reused.unwrap_or_else(|| zeroed(len));
        Buffer { data, len, pool: Arc::clone(self) }
    }

    /// Gives unused memory back to the operating system.
    pub(crate) fn clear(&self) {
        self.free.lock().clear();
    }

    fn put(&self, data: Vec<Lanes>) {
        let mut free = self.free.lock();
        free.push(data);
        let mut bytes: usize = free.iter().map(|x| size_of_val(x.as_slice())).sum();
        while bytes > KEPT_BYTES {
            bytes -= size_of_val(free.remove(0).as_slice());
        }
    }
}

/// Sixteen values of neighbouring channels, of any precision.
pub(crate) trait Vector: Copy + Send + Sync {
    /// Of which it has [`LANES`].
    type Value: Copy + Default + Send + Sync;
    const ZERO: Self;

    /// The values of vectors, in order, to write to.
    fn values_mut(vectors: &mut [Self]) -> &mut [Self::Value];
}

impl Vector for Lanes {
    type Value = f32;
    const ZERO: Self = Self::ZERO;

    fn values_mut(vectors: &mut [Self]) -> &mut [f32] {
        flat_mut(vectors)
    }
}

/// New memory. The system gives a page as it is first touched, which takes long for much memory: all threads do it.
#[allow(unsafe_code)]
pub(crate) fn zeroed<V: Vector>(len: usize) -> Vec<V> {
    /// As many vectors as one thread touches at a time.
    const STEP: usize = 1 << 14;
    let mut vectors = Vec::with_capacity(len);
    prefer_huge_pages(&mut vectors);
    let untouched = &mut vectors.spare_capacity_mut()[..len];
    untouched.par_chunks_mut(STEP).for_each(|part| part.fill(MaybeUninit::new(V::ZERO)));
    // SAFETY: the capacity is at least `len`, and so many were written.
    unsafe { vectors.set_len(len) };
    vectors
}

/// Asks for pages of 2 MiB: weights and large tensors are read through so fast that with pages of 4 KiB the
/// processor spends several percent of its time on finding them.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn prefer_huge_pages<T>(memory: &mut Vec<T>) {
    use std::ffi::{c_int, c_void};
    unsafe extern "C" {
        fn madvise(start: *mut c_void, len: usize, advice: c_int) -> c_int;
    }
    const HUGE_PAGES: c_int = 14; // MADV_HUGEPAGE
    const PAGE: usize = 4096;
    /// Less than this is seldom on whole huge pages.
    const LEAST: usize = 4 << 20;
    let len = memory.capacity() * size_of::<T>();
    if len >= LEAST {
        let start = memory.as_mut_ptr().cast::<u8>();
        let skip = start.align_offset(PAGE);
        // SAFETY: the range lies within the allocation; the advice changes nothing about its contents. If it is
        // refused, because the system knows no huge pages or has larger small ones, all stays as it is.
        unsafe { madvise(start.wrapping_add(skip).cast(), len.saturating_sub(skip), HUGE_PAGES) };
    }
}

#[cfg(not(target_os = "linux"))]
fn prefer_huge_pages<T>(_: &mut Vec<T>) {}

/// Memory from a pool, to which it goes back when it is dropped.
pub(crate) struct Buffer {
    data: Vec<Lanes>,
    len: usize,
    pool: Arc<Pool>,
}

impl Buffer {
    pub(crate) fn lanes(&self) -> &[Lanes] {
        &self.data[..self.len]
    }

    pub(crate) fn lanes_mut(&mut self) -> &mut [Lanes] {
        &mut self.data[..self.len]
    }

    /// The values in a row; the last few are padding where the size is not a multiple of [`LANES`].
    pub(crate) fn floats(&self) -> &[f32] {
        flat(self.lanes())
    }

    pub(crate) fn floats_mut(&mut self) -> &mut [f32] {
        flat_mut(self.lanes_mut())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.put(std::mem::take(&mut self.data));
    }
}

/// The floats of lanes, in order.
#[allow(unsafe_code)]
pub(crate) fn flat(lanes: &[Lanes]) -> &[f32] {
    // SAFETY: `Lanes` is `repr(C)` over sixteen floats and its alignment equals its size: no padding.
    unsafe { std::slice::from_raw_parts(lanes.as_ptr().cast(), lanes.len() * LANES) }
}

/// The floats of lanes, in order, to write to.
#[allow(unsafe_code)]
pub(crate) fn flat_mut(lanes: &mut [Lanes]) -> &mut [f32] {
    // SAFETY: as in `flat`; any floats are valid lanes.
    unsafe { std::slice::from_raw_parts_mut(lanes.as_mut_ptr().cast(), lanes.len() * LANES) }
}
