//! Linear layers: every row of a sequence times a packed matrix.

use super::buffer::Vector;
use super::buffer::{LANES, Pool};
use super::gemm::{self, Gemm};
use super::packed::{Matrix, Packed, Packer};
use super::scratch::with_scratch;
use super::simd::{Level, Simd, Task};
use super::tensor::CpuTensor;
use crate::backend::Shape;
use crate::weight::Weight;
use rayon::prelude::*;
use std::sync::Arc;

/// The most rows of a task: with the 256 values of a step of the depth they stay in the second-level cache.
const TASK_ROWS: usize = 192;
/// The most vectors of columns of a task, for the same reason: the results are read again at each step.
const TASK_BLOCKS: usize = 20;

/// `y = x Wᵀ + b` with packed weights.
pub struct CpuLinear {
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    weights: Packed,
    /// Padded to whole vectors; empty where there is none.
    bias: Vec<f32>,
    level: Level,
}

/// A matrix of out, in as one of in, out.
struct Transposed {
    inputs: usize,
    outputs: usize,
    level: Level,
}

impl Packer for Transposed {
    fn pack<V: Vector>(&self, value: impl Fn(usize) -> V::Value + Sync) -> Vec<V> {
        gemm::pack(self.inputs, self.outputs, self.level, |i, o| value(o * self.inputs + i))
    }
}

impl CpuLinear {
    /// Packs weights in out, in order.
    pub(crate) fn new(
        inputs: usize,
        outputs: usize,
        weight: Weight<'_>,
        bias: Option<&[f32]>,
        level: Level,
    ) -> Self {
        let weights = Packed::of(weight, &Transposed { inputs, outputs, level });
        let mut bias = bias.unwrap_or_default().to_vec();
        if !bias.is_empty() {
            bias.resize(outputs.next_multiple_of(LANES), 0.0);
        }
        Self { inputs, outputs, weights, bias, level }
    }

    /// The product for `x` of (N, 1, T, in), plus `residual` of the output's `shape` where there is one.
    pub(crate) fn run(
        &self,
        pool: &Arc<Pool>,
        x: &CpuTensor,
        residual: Option<&CpuTensor>,
        shape: Shape,
    ) -> CpuTensor {
        let x = x.to_planar(pool);
        let residual = residual.map(|residual| residual.to_planar(pool));
        let rows = shape[0] * shape[1] * shape[2];
        let mut out = pool.take(rows * self.outputs);
        let job = Job {
            layer: self,
            x: x.floats().as_ptr(),
            residual: residual.as_ref().map_or(std::ptr::null(), |x| x.floats().as_ptr()),
            out: out.floats_mut().as_mut_ptr(),
        };
        let blocks = self.outputs.div_ceil(LANES);
        let panels = gemm::panel_count(blocks, self.level);
        let [row_step, panel_step] = gemm::task_size([rows, panels], [TASK_ROWS, TASK_BLOCKS], self.level);
        let row_tasks = rows.div_ceil(row_step);
        // Tasks of the same columns follow one another, so that their weights are read once from memory.
        (0..row_tasks * panels.div_ceil(panel_step)).into_par_iter().for_each(|i| {
            let (row, panel) = (i % row_tasks * row_step, i / row_tasks * panel_step);
            let job = &job;
            let rows = row_step.min(rows - row);
            let room = self.weights.room(gemm::room(self.level));
            let sums = if self.outputs.is_multiple_of(LANES) { 0 } else { rows * blocks };
            with_scratch(room + sums, |scratch| {
                let (room, sums) = scratch.split_at_mut(room);
                let part = Part {
                    job,
                    first: row,
                    rows,
                    panels: [panel, panels.min(panel + panel_step)],
                    weights: self.weights.matrix(room.as_mut_ptr().cast()),
                    sums: sums.as_mut_ptr().cast(),
                };
                // SAFETY: the level was available when the weights were packed; different tasks have different
                // rows or columns, within the tensors.
                unsafe { self.level.run(part) }
            });
        });
        CpuTensor::planar(out, shape)
    }
}

/// The operands of a product.
struct Job<'a> {
    layer: &'a CpuLinear,
    x: *const f32,
    residual: *const f32,
    out: *mut f32,
}

// SAFETY: the pointers are used by tasks of different parts of the output, within `run`.
unsafe impl Sync for Job<'_> {}

/// Some rows and columns of a product.
struct Part<'a> {
    job: &'a Job<'a>,
    first: usize,
    rows: usize,
    panels: [usize; 2],
    weights: Matrix,
    /// Room for the part's rows, where they are not whole vectors.
    sums: *mut f32,
}

impl Task for Part<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Job { layer, x, residual, out } = *self.job;
        let CpuLinear { inputs, outputs, .. } = *layer;
        let blocks = outputs.div_ceil(LANES);
        let gemm = Gemm {
            panels: self.panels,
            bias: if layer.bias.is_empty() { std::ptr::null() } else { layer.bias.as_ptr() },
            ..Gemm::whole(self.rows, inputs, blocks, self.weights, layer.level)
        };
        // SAFETY: the rows and columns exist, and the bias is padded to whole vectors.
        unsafe {
            let a = x.add(self.first * inputs);
            let at = self.first * outputs;
            if outputs.is_multiple_of(LANES) {
                let residual = if residual.is_null() { residual } else { residual.add(at) };
                Gemm { residual, ..gemm.into(out.add(at), outputs) }.multiply::<S>(a, inputs);
                return;
            }
            // Whole vectors would reach into the next row.
            let columns =
                self.panels.map(|i| (gemm::panel_start(i, blocks, layer.level) * LANES).min(outputs));
            gemm.into(self.sums, blocks * LANES).multiply::<S>(a, inputs);
            for row in 0..self.rows {
                for column in columns[0]..columns[1] {
                    let at = at + row * outputs + column;
                    let extra = if residual.is_null() { 0.0 } else { *residual.add(at) };
                    *out.add(at) = *self.sums.add(row * blocks * LANES + column) + extra;
                }
            }
        }
    }
}
