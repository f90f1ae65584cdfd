//! The matrix multiplication under every convolution: C = A · B with B packed beforehand.
//!
//! B is cut into panels of at most [`Level::panel`] vectors of columns; a panel holds its columns row by
//! row, so that the inner loop reads it straight through. The inner loop keeps a block of C in registers
//! (rows × vectors), and for each row of B multiplies its vectors with one value of A for each row of the
//! block (the register blocking of Goto & van de Geijn 2008). A row's sum is always formed in the order of
//! the depth with one fused multiply-add a step, so that a result does not depend on how the rows were
//! divided among blocks, tasks or threads.

use super::buffer::{LANES, Lanes, flat_mut};
use super::simd::{Level, Simd, Task};

/// Rows of B that are worked on at a time: at most 64 KiB of a panel, which stay in a core's cache while
/// all rows of A pass by.
const DEPTH_STEP: usize = 256;

/// The number of vectors of each panel, for `blocks` vectors of columns: as even as possible.
pub(crate) fn panels(blocks: usize, level: Level) -> impl Iterator<Item = usize> {
    let count = blocks.div_ceil(level.panel());
    (0..count).map(move |i| (blocks * (i + 1)) / count - (blocks * i) / count)
}

/// Packs a matrix of `depth` × `columns`, given by `value(row, column)`, for `level`. Columns are padded
/// with zeros to whole vectors.
pub(crate) fn pack(
    out: &mut Vec<f32>,
    depth: usize,
    columns: usize,
    level: Level,
    value: impl Fn(usize, usize) -> f32,
) {
    let mut first = 0;
    for vectors in panels(columns.div_ceil(LANES), level) {
        let width = vectors * LANES;
        for row in 0..depth {
            let columns_of_panel = first..first + width;
            out.extend(columns_of_panel.map(|c| if c < columns { value(row, c) } else { 0.0 }));
        }
        first += width;
    }
}

/// One multiplication. Strides are in floats.
///
/// The promises: `a` is good for `rows` × `depth` reads, `b` for `depth` × `blocks` vectors as packed by
/// [`pack`] for the level that the task runs at, and `c` for `rows` × `blocks` vectors of writes.
#[derive(Clone, Copy)]
pub(crate) struct Gemm {
    pub(crate) rows: usize,
    pub(crate) depth: usize,
    /// Vectors of columns.
    pub(crate) blocks: usize,
    pub(crate) a: *const f32,
    pub(crate) a_stride: usize,
    pub(crate) b: *const f32,
    pub(crate) c: *mut f32,
    pub(crate) c_stride: usize,
}

impl Gemm {
    /// Multiplies.
    ///
    /// # Safety
    /// The machine has the instructions of `S`, and the fields keep their promises.
    #[inline(always)]
    pub(crate) unsafe fn multiply<S: Simd>(self) {
        let count = self.blocks.div_ceil(S::PANEL);
        for start in (0..self.depth).step_by(DEPTH_STEP) {
            let depth = DEPTH_STEP.min(self.depth - start);
            for i in 0..count {
                let (first, end) = (self.blocks * i / count, self.blocks * (i + 1) / count);
                // SAFETY: panels before this one hold `first` vectors for each of all the rows; offsets
                // stay within what the fields promise.
                unsafe {
                    let panel = Panel {
                        rows: self.rows,
                        depth,
                        vectors: end - first,
                        a: self.a.add(start),
                        a_stride: self.a_stride,
                        b: self.b.add((first * self.depth + (end - first) * start) * LANES),
                        c: self.c.add(first * LANES),
                        c_stride: self.c_stride,
                        accumulate: start > 0,
                    };
                    S::enter(panel);
                }
            }
        }
    }
}

/// All rows against one panel. A separate function for the compiler, so that the accumulators get registers
/// of their own.
#[derive(Clone, Copy)]
struct Panel {
    rows: usize,
    depth: usize,
    vectors: usize,
    a: *const f32,
    a_stride: usize,
    b: *const f32,
    c: *mut f32,
    c_stride: usize,
    accumulate: bool,
}

impl Task for Panel {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the promises of `Gemm`. Wide panels exist only where `S::PANEL` allows them.
        unsafe {
            match self.vectors {
                4 if S::PANEL >= 4 => self.rows::<S, 4, 6>(),
                3 if S::PANEL >= 3 => self.rows::<S, 3, 8>(),
                2 if S::PANEL >= 2 => self.rows::<S, 2, 12>(),
                _ if S::ROWS1 == 12 => self.rows::<S, 1, 12>(),
                _ if S::ROWS1 == 6 => self.rows::<S, 1, 6>(),
                _ => self.rows::<S, 1, 2>(),
            }
        }
    }
}

impl Panel {
    #[inline(always)]
    unsafe fn rows<S: Simd, const NV: usize, const MR: usize>(self) {
        let mut row = 0;
        // SAFETY: `row` plus the block's rows never exceeds `rows`.
        unsafe {
            while row + MR <= self.rows {
                self.block::<S, NV, MR>(row);
                row += MR;
            }
            let rest = self.rows - row;
            match rest {
                1 => self.block::<S, NV, 1>(row),
                2 if MR > 2 => self.block::<S, NV, 2>(row),
                3 if MR > 3 => self.block::<S, NV, 3>(row),
                4 if MR > 4 => self.block::<S, NV, 4>(row),
                5 if MR > 5 => self.block::<S, NV, 5>(row),
                _ if MR > 6 && rest >= 6 => {
                    self.block::<S, NV, 6>(row);
                    for row in row + 6..self.rows {
                        self.block::<S, NV, 1>(row);
                    }
                }
                _ => {}
            }
        }
    }

    #[inline(always)]
    unsafe fn block<S: Simd, const NV: usize, const MR: usize>(self, row: usize) {
        // SAFETY: the caller keeps `row + MR <= rows`; the rest are the promises of `Gemm`.
        unsafe {
            let a = self.a.add(row * self.a_stride);
            let c = self.c.add(row * self.c_stride);
            let mut acc = [[S::splat(0.0); NV]; MR];
            if self.accumulate {
                for (r, acc) in acc.iter_mut().enumerate() {
                    for (v, acc) in acc.iter_mut().enumerate() {
                        *acc = S::load(c.add(r * self.c_stride + v * LANES));
                    }
                }
            }
            let mut b = self.b;
            for k in 0..self.depth {
                let mut vectors = [S::splat(0.0); NV];
                for (v, vector) in vectors.iter_mut().enumerate() {
                    *vector = S::load(b.add(v * LANES));
                }
                for (r, acc) in acc.iter_mut().enumerate() {
                    let value = S::splat(*a.add(r * self.a_stride + k));
                    for (v, acc) in acc.iter_mut().enumerate() {
                        *acc = S::fma(value, vectors[v], *acc);
                    }
                }
                b = b.add(NV * LANES);
            }
            for (r, acc) in acc.iter().enumerate() {
                for (v, acc) in acc.iter().enumerate() {
                    S::store(c.add(r * self.c_stride + v * LANES), *acc);
                }
            }
        }
    }
}

/// Packed values on cache line boundaries, so that no vector crosses one.
pub(crate) fn aligned(packed: &[f32]) -> Vec<Lanes> {
    let mut lanes = vec![Lanes::ZERO; packed.len().div_ceil(LANES)];
    flat_mut(&mut lanes)[..packed.len()].copy_from_slice(packed);
    lanes
}
