//! The matrix multiplication under everything: C = A · B (+ bias, + residual), with B packed beforehand.
//!
//! B is cut into panels of at most [`Level::panel`] vectors of columns; a panel holds its columns row by
//! row, so that the inner loop reads it straight through. The inner loop keeps a block of C in registers
//! (rows × vectors), and for each row of B multiplies its vectors with one value of A for each row of the
//! block (the register blocking of Goto & van de Geijn 2008). A row's sum is always formed in the order of
//! the depth with one fused multiply-add a step, so that a result does not depend on how the rows were
//! divided among blocks, tasks or threads.

use super::buffer::{LANES, Vector, zeroed};
use super::packed::Matrix;
use super::simd::{Level, Simd, Task, prefetch};
use rayon::prelude::*;
use std::ops::Range;

/// Rows of B that are worked on at a time: at most 64 KiB of a panel, which stay in a core's cache while
/// all rows of A pass by.
pub(crate) const DEPTH_STEP: usize = 256;

/// Vectors of a panel that are worked on at a time: the room that a [`Matrix`] of half precision needs.
pub(crate) fn room(level: Level) -> usize {
    DEPTH_STEP * level.panel()
}

/// A multiple of the rows of every register block.
const ROWS: usize = 24;

/// How many panels `blocks` vectors of columns make.
pub(crate) fn panel_count(blocks: usize, level: Level) -> usize {
    blocks.div_ceil(level.panel())
}

/// The first vector of a panel of `blocks` vectors of columns.
pub(crate) fn panel_start(panel: usize, blocks: usize, level: Level) -> usize {
    blocks * panel / panel_count(blocks, level)
}

/// Rows and panels of a task of a product of so many, with at most so many rows and vectors of columns: about
/// equal ones, and where they are few the same number for each thread.
pub(crate) fn task_size(
    [rows, panels]: [usize; 2],
    [most_rows, most_blocks]: [usize; 2],
    level: Level,
) -> [usize; 2] {
    let threads = rayon::current_num_threads();
    let row_step = rows.div_ceil(rows.div_ceil(most_rows)).next_multiple_of(ROWS).min(rows);
    let row_tasks = rows.div_ceil(row_step);
    let mut panel_tasks = panels.div_ceil((most_blocks / level.panel()).max(1));
    if row_tasks * panel_tasks < 4 * threads && !row_tasks.is_multiple_of(threads) {
        panel_tasks = panel_tasks.next_multiple_of(threads);
    }
    [row_step, panels.div_ceil(panel_tasks)]
}

/// A matrix of `depth` × `columns`, given by `value(row, column)`, packed for `level`: on cache line boundaries,
/// with columns padded to whole vectors by zeros.
pub(crate) fn pack<V: Vector>(
    depth: usize,
    columns: usize,
    level: Level,
    value: impl Fn(usize, usize) -> V::Value + Sync,
) -> Vec<V> {
    let blocks = columns.div_ceil(LANES);
    let mut lanes = zeroed(depth * blocks);
    let mut rest = lanes.as_mut_slice();
    let mut parts = Vec::new();
    for i in 0..panel_count(blocks, level) {
        let [first, end] = [i, i + 1].map(|i| panel_start(i, blocks, level));
        let (panel, tail) = rest.split_at_mut(depth * (end - first));
        parts.push((panel, first * LANES..columns.min(end * LANES)));
        rest = tail;
    }
    parts.into_par_iter().for_each(|(panel, columns)| pack_panel(panel, depth, columns, &value));
    lanes
}

/// Fills a panel with `columns` of a matrix, row by row; columns that it has beyond them stay as they are.
pub(crate) fn pack_panel<V: Vector>(
    panel: &mut [V],
    depth: usize,
    columns: Range<usize>,
    value: impl Fn(usize, usize) -> V::Value,
) {
    let width = panel.len() / depth * LANES;
    // A few rows at a time, as the values of a column mostly lie side by side.
    for (i, rows) in V::values_mut(panel).chunks_mut(LANES * width).enumerate() {
        for (offset, column) in columns.clone().enumerate() {
            for (row, target) in rows.chunks_exact_mut(width).enumerate() {
                target[offset] = value(i * LANES + row, column);
            }
        }
    }
}

/// One multiplication, or the part of it that some of B's panels make. Strides are in floats.
///
/// The promises: `b` is good for `depth` × `blocks` vectors as packed by [`pack`] for the level that the task
/// runs at, with [`room`] if it needs any, and `c` for `rows` × `blocks` vectors of writes (of which only those of `panels` are touched).
/// `bias` is good for `blocks` vectors and `residual` for as many reads as `c`, unless they are null. The
/// residual may be `c` itself, which then grows by the product.
#[derive(Clone, Copy)]
pub(crate) struct Gemm {
    pub(crate) rows: usize,
    pub(crate) depth: usize,
    /// Vectors of columns.
    pub(crate) blocks: usize,
    /// The first panel to multiply with, and the one after the last.
    pub(crate) panels: [usize; 2],
    pub(crate) b: Matrix,
    pub(crate) c: *mut f32,
    pub(crate) c_stride: usize,
    /// Added to every row.
    pub(crate) bias: *const f32,
    /// Added to the product; its rows have the stride of `c`.
    pub(crate) residual: *const f32,
    /// Whether rows of A are to be brought near before they are needed.
    pub(crate) prefetch: bool,
}

impl Gemm {
    /// The whole product of a matrix.
    pub(crate) fn whole(
        rows: usize,
        depth: usize,
        blocks: usize,
        b: impl Into<Matrix>,
        level: Level,
    ) -> Self {
        Self {
            rows,
            depth,
            blocks,
            panels: [0, panel_count(blocks, level)],
            b: b.into(),
            c: std::ptr::null_mut(),
            c_stride: 0,
            bias: std::ptr::null(),
            residual: std::ptr::null(),
            prefetch: true,
        }
    }

    /// The same with its result at `c`.
    pub(crate) fn into(self, c: *mut f32, c_stride: usize) -> Self {
        Self { c, c_stride, ..self }
    }

    /// Multiplies rows that begin `a_stride` apart from `a` on.
    ///
    /// # Safety
    /// The machine has the instructions of `S`, the fields keep their promises, and `a` is good for `rows` ×
    /// `depth` reads.
    #[inline(always)]
    pub(crate) unsafe fn multiply<S: Simd>(self, a: *const f32, a_stride: usize) {
        for start in (0..self.depth).step_by(DEPTH_STEP) {
            // SAFETY: the caller's promises, for a part of the depth.
            unsafe { self.step::<S>(a.add(start), a_stride, start) }
        }
    }

    /// Multiplies with the next [`DEPTH_STEP`] rows of B, from `start` on. Steps must follow one another from
    /// 0 to the depth.
    ///
    /// # Safety
    /// As for [`Gemm::multiply`], with `a` good for the rows of the step.
    #[inline(always)]
    pub(crate) unsafe fn step<S: Simd>(&self, a: *const f32, a_stride: usize, start: usize) {
        let depth = DEPTH_STEP.min(self.depth - start);
        let count = self.blocks.div_ceil(S::PANEL);
        // SAFETY (of the offsets): null stays null, and `column` is below `blocks` vectors.
        let offset = |p: *const f32, column: usize| if p.is_null() { p } else { p.wrapping_add(column) };
        for i in self.panels[0]..self.panels[1] {
            let (first, end) = (self.blocks * i / count, self.blocks * (i + 1) / count);
            // SAFETY: panels before this one hold `first` vectors for each of all the rows; offsets stay
            // within what the fields promise.
            unsafe {
                let panel = Panel {
                    rows: self.rows,
                    depth,
                    vectors: end - first,
                    a,
                    a_stride,
                    b: self.b.read::<S>(first * self.depth + (end - first) * start, depth * (end - first)),
                    c: self.c.add(first * LANES),
                    c_stride: self.c_stride,
                    partial: start > 0,
                    prefetch: self.prefetch,
                    bias: if start == 0 { offset(self.bias, first * LANES) } else { std::ptr::null() },
                    residual: if start + depth == self.depth {
                        offset(self.residual, first * LANES)
                    } else {
                        std::ptr::null()
                    },
                };
                S::enter(panel);
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
    /// Whether `c` holds the sums of the steps before.
    partial: bool,
    prefetch: bool,
    /// Null but in the first step.
    bias: *const f32,
    /// Null but in the last step.
    residual: *const f32,
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
            if MR > 6 && row + 6 <= self.rows {
                self.block::<S, NV, 6>(row);
                row += 6;
            }
            match self.rows - row {
                1 => self.block::<S, NV, 1>(row),
                2 if MR > 2 => self.block::<S, NV, 2>(row),
                3 if MR > 3 => self.block::<S, NV, 3>(row),
                4 if MR > 4 => self.block::<S, NV, 4>(row),
                5 if MR > 5 => self.block::<S, NV, 5>(row),
                _ => {}
            }
        }
    }

    #[inline(always)]
    unsafe fn block<S: Simd, const NV: usize, const MR: usize>(self, row: usize) {
        // SAFETY: the caller keeps `row + MR <= rows`; the rest are the promises of `Gemm`.
        unsafe {
            let a = self.a.add(row * self.a_stride);
            let mut acc = self.initial::<S, NV, MR>(row);
            let mut b = self.b;
            for start in (0..self.depth).step_by(LANES) {
                // The rows that come next: short runs of several at once are too much for the hardware's own
                // prefetching.
                for r in if self.prefetch { MR..2 * MR } else { 0..0 } {
                    prefetch(a.wrapping_add(r * self.a_stride + start));
                }
                for k in start..self.depth.min(start + LANES) {
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
            }
            for (r, acc) in acc.into_iter().enumerate() {
                let at = (row + r) * self.c_stride;
                for (v, mut sum) in acc.into_iter().enumerate() {
                    if !self.residual.is_null() {
                        sum = S::add(sum, S::load(self.residual.add(at + v * LANES)));
                    }
                    S::store(self.c.add(at + v * LANES), sum);
                }
            }
        }
    }

    /// What the sums of a block begin with.
    #[inline(always)]
    unsafe fn initial<S: Simd, const NV: usize, const MR: usize>(self, row: usize) -> [[S::V; NV]; MR] {
        // SAFETY: as for `block`.
        unsafe {
            let mut acc = [[S::splat(0.0); NV]; MR];
            for (r, acc) in acc.iter_mut().enumerate() {
                for (v, acc) in acc.iter_mut().enumerate() {
                    if self.partial {
                        *acc = S::load(self.c.add((row + r) * self.c_stride + v * LANES));
                    } else if !self.bias.is_null() {
                        *acc = S::load(self.bias.add(v * LANES));
                    }
                }
            }
            acc
        }
    }
}
