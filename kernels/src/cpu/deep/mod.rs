//! 3×3 convolutions of stride 1 with many channels, by Winograd's method with small tiles.
//!
//! Transformed weights would take four times the memory of the original ones, which for a diffusion model is
//! gigabytes, and at its few pixels reading them would take longer than the arithmetic. So the weights are
//! kept as they are and transformed anew by each task, for the few channels that it is about to multiply;
//! with a few dozen tiles a task this is a few percent of the work.
//!
//! The picture is worked off in bands of tiles. Their inputs are transformed first, shared by all tasks; then
//! each task multiplies a group of tiles with the weights of a slice of output channels, a step of input
//! channels at a time, and transforms the sums back, straight into the output.

mod transform;

use super::buffer::{Buffer, LANES, Lanes, Pool, Vector, zeroed};
use super::epilogue::Output;
use super::gemm::{self, Gemm};
use super::packed::{Matrix, Packed, Packer};
use super::scratch::with_scratch;
use super::simd::{Level, Simd, Task};
use crate::backend::{Conv2dDesc, Shape};
use crate::weight::Weight;
use rayon::prelude::*;
use std::sync::Arc;
use transform::{POINTS, SPAN, TILE};

/// The most tiles of a group. A group's sums for a slice of output channels, and its inputs and the weights
/// for a step of input channels, share the core's second-level cache.
const GROUP: usize = 64;
/// Channel blocks of a step: their weights are transformed at once.
const STEP_BLOCKS: usize = 1;
const STEP: usize = STEP_BLOCKS * LANES;
/// Channel blocks of a slice of the output: the widest panel of the matrix multiplication.
const SLICE_BLOCKS: usize = 4;
/// Vectors between the points of a tile that are left unused: at strides of a power of two all points would
/// fall into the same few cache sets.
const GAP: usize = 1;
/// The most bytes of a band's transformed inputs: half of a typical share of the third-level cache.
const BAND_BYTES: usize = 16 << 20;

/// A convolution whose weights are transformed as they are used.
pub(crate) struct Deep {
    desc: Conv2dDesc,
    /// For each slice of output channels, for each input channel and tap, the slice's channels.
    weights: Packed,
    level: Level,
}

/// Weights in out, in, row, column order, packed by slices of output channels.
struct Slices(Conv2dDesc);

impl Packer for Slices {
    fn pack<V: Vector>(&self, value: impl Fn(usize) -> V::Value + Sync) -> Vec<V> {
        let (taps, outputs) = (self.0.in_channels * 9, self.0.out_channels);
        let mut weights = zeroed(taps * outputs.div_ceil(LANES));
        weights.par_chunks_mut(taps * SLICE_BLOCKS).enumerate().for_each(|(i, slice)| {
            let first = i * SLICE_BLOCKS * LANES;
            let columns = first..outputs.min(first + SLICE_BLOCKS * LANES);
            gemm::pack_panel(slice, taps, columns, |tap, o| value(o * taps + tap));
        });
        weights
    }
}

impl Deep {
    /// Whether this method can do the convolution.
    pub(crate) fn suits(desc: &Conv2dDesc) -> bool {
        desc.kernel == 3 && desc.stride == 1 && desc.in_channels >= LANES
    }

    /// Packs weights in out, in, row, column order.
    pub(crate) fn new(desc: Conv2dDesc, weight: Weight<'_>, level: Level) -> Self {
        Self { desc, weights: Packed::of(weight, &Slices(desc)), level }
    }

    /// Convolves the planes of `shape` into those of `output`.
    pub(crate) fn run(
        &self,
        pool: &Arc<Pool>,
        planes: &[&[Lanes]],
        shape: Shape,
        out_shape: Shape,
        output: &Output,
    ) {
        let [images, _, out_h, out_w] = out_shape;
        let grid = [out_h.div_ceil(TILE), out_w.div_ceil(TILE)];
        let tiles = images * grid[0] * grid[1];
        let group = tiles.div_ceil(tiles.div_ceil(GROUP));
        let ins = self.desc.in_channels.div_ceil(LANES);
        let group_lanes = step_lanes(group) * ins.div_ceil(STEP_BLOCKS);
        let groups_of_band = (BAND_BYTES / size_of::<Lanes>() / group_lanes).max(1);
        let job = Job {
            layer: self,
            planes,
            output,
            in_size: [shape[2], shape[3]],
            out_size: [out_h, out_w],
            grid,
            ins,
            outs: self.desc.out_channels.div_ceil(LANES),
        };
        let groups: Vec<_> =
            (0..tiles).step_by(group).map(|first| (first, group.min(tiles - first))).collect();
        let mut values = pool.take(groups_of_band.min(groups.len()) * group_lanes * LANES);
        for band in groups.chunks(groups_of_band) {
            job.transform_inputs(band, &mut values, group_lanes);
            job.multiply(band, &values, group_lanes);
        }
    }
}

/// Vectors of a step's transformed inputs, for a group of `count` tiles.
fn step_lanes(count: usize) -> usize {
    POINTS * (count * STEP_BLOCKS + GAP)
}

/// A call of the convolution.
struct Job<'a> {
    layer: &'a Deep,
    planes: &'a [&'a [Lanes]],
    output: &'a Output<'a>,
    in_size: [usize; 2],
    out_size: [usize; 2],
    /// Tiles of an image: rows and columns.
    grid: [usize; 2],
    /// Channel blocks of the input.
    ins: usize,
    /// Channel blocks of the output.
    outs: usize,
}

impl Job<'_> {
    /// Fills `values`: for each group, step of channels, point and tile a row of the step's channels.
    fn transform_inputs(&self, band: &[(usize, usize)], values: &mut Buffer, group_lanes: usize) {
        let groups = band.par_iter().zip(values.lanes_mut().par_chunks_mut(group_lanes));
        groups.for_each(|(&(first, count), target)| {
            target.par_chunks_mut(step_lanes(count)).enumerate().for_each(|(step, target)| {
                let block = step * STEP_BLOCKS;
                let Some(blocks) = self.ins.checked_sub(block).filter(|&blocks| blocks > 0) else { return };
                let inputs =
                    Inputs { job: self, first, count, block, blocks: blocks.min(STEP_BLOCKS), target };
                // SAFETY: the level was available when the weights were packed.
                unsafe { self.layer.level.run(inputs) }
            });
        });
    }

    /// Multiplies a band's `values` with all weights.
    fn multiply(&self, band: &[(usize, usize)], values: &Buffer, group_lanes: usize) {
        // Tasks of the same slice follow one another, so that its weights are read once from memory.
        let slices = self.outs.div_ceil(SLICE_BLOCKS);
        (0..slices * band.len()).into_par_iter().for_each(|i| {
            let (slice, group) = (i / band.len(), i % band.len());
            let (first, count) = band[group];
            let blocks = SLICE_BLOCKS.min(self.outs - slice * SLICE_BLOCKS);
            let weights = POINTS * (STEP * blocks + GAP);
            let room = self.layer.weights.room(STEP * 9 * blocks);
            with_scratch(room + weights + POINTS * (count * blocks + GAP), |scratch| {
                let (room, scratch) = scratch.split_at_mut(room);
                let (weights, sums) = scratch.split_at_mut(weights);
                let product = Product {
                    job: self,
                    first,
                    count,
                    block: slice * SLICE_BLOCKS,
                    blocks,
                    values: &values.lanes()[group * group_lanes..],
                    original: self.layer.weights.matrix(room.as_mut_ptr().cast()),
                    weights: weights.as_mut_ptr().cast(),
                    sums: sums.as_mut_ptr().cast(),
                };
                // SAFETY: the level was available when the weights were packed; the tiles or channels of
                // different tasks are different.
                unsafe { self.layer.level.run(product) }
            });
        });
    }

    /// Image, and first output row and column, of a tile.
    #[inline(always)]
    fn place(&self, tile: usize) -> [usize; 3] {
        let [rows, columns] = self.grid;
        [tile / (rows * columns), tile / columns % rows * TILE, tile % columns * TILE]
    }
}

/// The transform of a group's inputs, for one step of channels.
struct Inputs<'a> {
    job: &'a Job<'a>,
    first: usize,
    count: usize,
    /// The first channel block, and how many there are.
    block: usize,
    blocks: usize,
    target: &'a mut [Lanes],
}

impl Task for Inputs<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { job, first, count, block, blocks, target } = self;
        let ([h, w], pad) = (job.in_size, job.layer.desc.padding);
        for tile in 0..count {
            let [image, y, x] = job.place(first + tile);
            let inside = y >= pad && x >= pad && y - pad + SPAN <= h && x - pad + SPAN <= w;
            for i in 0..blocks {
                let plane = job.planes[image * job.ins + block + i];
                // SAFETY: inner tiles read 6×6 pixels that exist, outer ones the copy; the target has room for
                // the rows of a whole step.
                unsafe {
                    let target: *mut f32 = target.as_mut_ptr().add(tile * blocks + i).cast();
                    let stride = (count * blocks + GAP) * LANES;
                    if inside {
                        let source = plane.as_ptr().add((y - pad) * w + x - pad);
                        transform::input::<S>(source.cast(), w * LANES, target, stride);
                    } else {
                        let copy = padded(plane, [h, w], [y, x], pad);
                        transform::input::<S>(copy.as_ptr().cast(), SPAN * LANES, target, stride);
                    }
                }
            }
        }
    }
}

/// A copy of a tile's 6×6 inputs with zeros where they lie outside of the image.
fn padded(plane: &[Lanes], [h, w]: [usize; 2], [y, x]: [usize; 2], pad: usize) -> [Lanes; POINTS] {
    let mut copy = [Lanes::ZERO; POINTS];
    for (i, row) in copy.chunks_exact_mut(SPAN).enumerate() {
        let Some(y) = (y + i).checked_sub(pad).filter(|&y| y < h) else { continue };
        for (j, lanes) in row.iter_mut().enumerate() {
            if let Some(x) = (x + j).checked_sub(pad).filter(|&x| x < w) {
                *lanes = plane[y * w + x];
            }
        }
    }
    copy
}

/// A group of tiles times a slice of output channels.
struct Product<'a> {
    job: &'a Job<'a>,
    first: usize,
    count: usize,
    /// The first channel block of the slice, and how many there are.
    block: usize,
    blocks: usize,
    /// The group's transformed inputs.
    values: &'a [Lanes],
    /// The layer's weights.
    original: Matrix,
    /// Room for a step's transformed weights: for each point a packed (step × slice) matrix.
    weights: *mut f32,
    /// Room for the sums: for each point and tile the slice's channels.
    sums: *mut f32,
}

impl Task for Product<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let width = self.blocks * LANES;
        let point_stride = self.count * width + GAP * LANES;
        let (inputs, level) = (self.job.layer.desc.in_channels, self.job.layer.level);
        for first in (0..inputs).step_by(STEP) {
            let depth = STEP.min(inputs - first);
            let blocks = depth.div_ceil(LANES);
            // SAFETY: steps before this one have `STEP` channels each; the areas have room for what their
            // descriptions say.
            unsafe {
                self.transform_weights::<S>(first, depth);
                let values = self.values.as_ptr().add(step_lanes(self.count) * (first / STEP));
                // The next step's weights, which after the last step are those of the next slice.
                let upcoming = self.source(first + STEP);
                for point in 0..POINTS {
                    // Main memory would otherwise be idle while the points are multiplied, and then be waited for.
                    let part = [point, POINTS];
                    self.job.layer.weights.prefetch_part(upcoming, STEP * 9 * self.blocks, part);
                    let sums = self.sums.add(point * point_stride);
                    let weights = self.weights.add(point * (depth * width + GAP * LANES)).cast_const();
                    let residual = if first > 0 { sums } else { std::ptr::null_mut() };
                    let gemm = Gemm::whole(self.count, depth, self.blocks, weights, level).into(sums, width);
                    let values = values.add(point * (self.count * blocks + GAP)).cast();
                    Gemm { residual, ..gemm }.multiply::<S>(values, blocks * LANES);
                }
            }
        }
        // SAFETY: as above; all sums are complete.
        unsafe { self.transform_sums::<S>(point_stride) }
    }
}

impl Product<'_> {
    /// Where the slice's weights of an input channel begin.
    #[inline(always)]
    fn source(&self, input: usize) -> usize {
        9 * (self.block * self.job.layer.desc.in_channels + input * self.blocks)
    }

    /// The weights of `depth` input channels from `first` on, packed for the matrix multiplication.
    #[inline(always)]
    unsafe fn transform_weights<S: Simd>(&self, first: usize, depth: usize) {
        let (width, level) = (self.blocks * LANES, self.job.layer.level);
        // SAFETY: the slice's weights begin after those of the slices before it, which have whole widths.
        unsafe {
            let source = self.original.read::<S>(self.source(first), depth * 9 * self.blocks);
            for panel in 0..gemm::panel_count(self.blocks, level) {
                let [start, end] = [panel, panel + 1].map(|i| gemm::panel_start(i, self.blocks, level));
                let (column, vectors) = (start * LANES, end - start);
                for i in 0..depth {
                    let taps = source.add(i * 9 * width + column);
                    let target = self.weights.add(column * depth + i * vectors * LANES);
                    for v in 0..vectors {
                        let (taps, target) = (taps.add(v * LANES), target.add(v * LANES));
                        transform::kernel::<S>(taps, width, target, depth * width + GAP * LANES);
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn transform_sums<S: Simd>(&self, point_stride: usize) {
        let [h, w] = self.job.out_size;
        for tile in 0..self.count {
            let [image, top, left] = self.job.place(self.first + tile);
            let (rows, columns) = (TILE.min(h - top), TILE.min(w - left));
            for i in 0..self.blocks {
                // SAFETY: only pixels inside of the image are stored, and no other task has them.
                unsafe {
                    let epilogue = self.job.output.plane::<S>(image, self.block + i, self.job.outs);
                    let sums = self.sums.add((tile * self.blocks + i) * LANES);
                    let results = transform::output::<S>(sums, point_stride);
                    for (y, row) in results.into_iter().enumerate().take(rows) {
                        for (x, sum) in row.into_iter().enumerate().take(columns) {
                            epilogue.finish((top + y) * w + left + x, sum);
                        }
                    }
                }
            }
        }
    }
}
