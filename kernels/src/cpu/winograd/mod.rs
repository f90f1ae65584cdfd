//! 3×3 convolutions of stride 1 by Winograd's method, tile block by tile block.
//!
//! A task takes a few dozen tiles: it transforms their inputs, multiplies for each of the 64 points a
//! (tiles × in) by an (in × out) matrix, and transforms the products back, straight into the output. What
//! it writes in between stays in the core's second-level cache; only the image itself and the transformed
//! weights stream through.

mod transform;

use super::buffer::{LANES, Lanes};
use super::epilogue::Output;
use super::gemm::{self, Gemm};
use super::scratch::with_scratch;
use super::simd::{Level, Simd, Task, prefetch};
use crate::backend::{Conv2dDesc, Shape};
use rayon::prelude::*;
use transform::{POINTS, SPAN, TILE};

/// Bytes of a task's intermediate results. The second-level cache of current cores is 1 to 2 MiB, through
/// which the weights pass as well; measured best on Zen 4, where half and twice as much are 1 to 5 % slower.
const TASK_BYTES: usize = 384 << 10;
/// Tiles of a task come in multiples of this, the rows of the multiplication's widest register block.
const TASK_STEP: usize = 6;
/// The most tiles of a task, as far as it pays.
const TASK_TILES: usize = 48;
/// The most bytes of transformed weights, which are 64/9 of the original ones and are read by each task: past
/// this [`super::deep`] is as fast, takes less memory and is more accurate.
const WEIGHT_BYTES: usize = 4 << 20;

/// Transformed weights: for each point a packed (in × out) matrix.
pub(crate) struct Winograd {
    desc: Conv2dDesc,
    weights: Vec<Lanes>,
    level: Level,
}

impl Winograd {
    /// Whether this method is for the convolution.
    pub(crate) fn suits(desc: &Conv2dDesc) -> bool {
        let blocks = desc.out_channels.next_multiple_of(LANES);
        desc.kernel == 3
            && desc.stride == 1
            && desc.in_channels >= LANES
            && POINTS * desc.in_channels * blocks * size_of::<f32>() <= WEIGHT_BYTES
    }

    /// Transforms weights in out, in, row, column order.
    pub(crate) fn new(desc: Conv2dDesc, weight: &[f32], level: Level) -> Self {
        let (inputs, outputs) = (desc.in_channels, desc.out_channels);
        let transformed: Vec<_> = weight.chunks_exact(9).map(transform::kernel).collect();
        let matrix =
            |point: usize| gemm::pack(inputs, outputs, level, |i, o| transformed[o * inputs + i][point]);
        let weights = (0..POINTS).flat_map(matrix).collect();
        Self { desc, weights, level }
    }

    /// Convolves the planes of `shape` into those of `output`.
    pub(crate) fn run(&self, planes: &[&[Lanes]], shape: Shape, out_shape: Shape, output: &Output) {
        let [images, _, out_h, out_w] = out_shape;
        let (rows, columns) = (out_h.div_ceil(TILE), out_w.div_ceil(TILE));
        let tiles = images * rows * columns;
        let (ins, outs) = (self.desc.in_channels.div_ceil(LANES), self.desc.out_channels.div_ceil(LANES));
        let stride = [POINTS * ins + 1, POINTS * outs + 1];
        let tile_lanes = stride[0] + stride[1];
        let most = TASK_BYTES / size_of::<Lanes>() / tile_lanes;
        let step = balanced(tiles, rayon::current_num_threads(), most.clamp(TASK_STEP, TASK_TILES));
        (0..tiles.div_ceil(step)).into_par_iter().for_each(|i| {
            let (first, count) = (i * step, step.min(tiles - i * step));
            with_scratch(count * tile_lanes, |scratch| {
                let task = Tiles {
                    layer: self,
                    planes,
                    output,
                    in_size: [shape[2], shape[3]],
                    out_size: [out_h, out_w],
                    grid: [rows, columns],
                    first,
                    count,
                    blocks: [ins, outs],
                    stride,
                    scratch: scratch.as_mut_ptr().cast(),
                };
                // SAFETY: the level was available when the weights were packed. Shapes were checked by the
                // caller; the tiles of different tasks are different.
                unsafe { self.level.run(task) }
            });
        });
    }
}

/// How many of `tiles` a task takes, at most `most`, so that the threads finish at about the same time.
fn balanced(tiles: usize, threads: usize, most: usize) -> usize {
    // Each task reads the weights anew, which takes about as long as a tile or two.
    let cost = |step: usize| tiles.div_ceil(step).div_ceil(threads) * (step + 2);
    (1..=most / TASK_STEP).rev().map(|i| i * TASK_STEP).min_by_key(|&step| cost(step)).unwrap_or(TASK_STEP)
}

/// A run of tiles, in the order of images, rows and columns.
struct Tiles<'a> {
    layer: &'a Winograd,
    planes: &'a [&'a [Lanes]],
    output: &'a Output<'a>,
    in_size: [usize; 2],
    out_size: [usize; 2],
    /// Tiles of an image: rows and columns.
    grid: [usize; 2],
    first: usize,
    count: usize,
    /// Channel blocks of input and output.
    blocks: [usize; 2],
    /// Vectors from one tile to the next in the transformed input and output. One more than there are, as
    /// a stride of a power of two would put the same point of all tiles into the same few cache sets.
    stride: [usize; 2],
    /// Room for all tiles of both: for each tile its points, for each point its channels.
    scratch: *mut f32,
}

impl Task for Tiles<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let [ins, outs] = self.blocks;
        let (input, depth) = (self.scratch, self.layer.desc.in_channels);
        // SAFETY: `scratch` has room for `count` times `stride[0] + stride[1]` vectors; the weights hold
        // `POINTS` packed matrices.
        unsafe {
            let product = self.scratch.add(self.count * self.stride[0] * LANES);
            for tile in 0..self.count {
                self.transform_input::<S>(tile, input.add(tile * self.stride[0] * LANES));
            }
            let upcoming = self.upcoming();
            for point in 0..POINTS {
                self.prefetch(&upcoming, point);
                let weights = self.layer.weights.as_ptr().add(point * depth * outs);
                let gemm = Gemm::whole(self.count, depth, outs, weights.cast(), self.layer.level)
                    .into(product.add(point * outs * LANES), self.stride[1] * LANES);
                Gemm { prefetch: false, ..gemm }
                    .multiply::<S>(input.add(point * ins * LANES), self.stride[0] * LANES);
            }
            for tile in 0..self.count {
                self.transform_output::<S>(tile, product.add(tile * self.stride[1] * LANES));
            }
        }
    }
}

impl Tiles<'_> {
    /// Image, and first output row and column, of a tile of this task.
    #[inline(always)]
    fn place(&self, tile: usize) -> [usize; 3] {
        let (tile, [rows, columns]) = (self.first + tile, self.grid);
        [tile / (rows * columns), tile / columns % rows * TILE, tile % columns * TILE]
    }

    /// The first pixels of what this task will write and of what the next one will read, by plane and tile.
    /// Pointers outside of the image do no harm to a prefetch.
    fn upcoming(&self) -> [Vec<*const Lanes>; 2] {
        let ([ins, outs], pad) = (self.blocks, self.layer.desc.padding);
        let mut upcoming = [Vec::with_capacity(self.count * ins), Vec::with_capacity(self.count * outs)];
        for tile in 0..self.count {
            let [image, y, x] = self.place(self.count + tile);
            // The first two columns are the last ones of the tile before.
            let column = (x + SPAN - TILE).wrapping_sub(pad);
            let pixel = y.wrapping_sub(pad).wrapping_mul(self.in_size[1]).wrapping_add(column);
            let planes = self.planes.iter().skip(image * ins).take(ins);
            upcoming[0].extend(planes.map(|plane| plane.as_ptr().wrapping_add(pixel)));
            let [image, y, x] = self.place(tile);
            let pixel = y * self.out_size[1] + x;
            let planes = (0..outs).map(|block| self.output.address(image, block, outs));
            upcoming[1].extend(planes.map(|plane| plane.wrapping_add(pixel)));
        }
        upcoming
    }

    /// Brings near a 64th of what is upcoming. The transforms by themselves wait for memory, while the
    /// multiplication between them leaves it idle.
    #[inline(always)]
    fn prefetch(&self, [inputs, outputs]: &[Vec<*const Lanes>; 2], part: usize) {
        let share = |all: usize| all * part / POINTS..all * (part + 1) / POINTS;
        for i in share(inputs.len() * SPAN) {
            prefetch_row(inputs[i / SPAN].wrapping_add(i % SPAN * self.in_size[1]));
        }
        for i in share(outputs.len() * TILE) {
            prefetch_row(outputs[i / TILE].wrapping_add(i % TILE * self.out_size[1]));
        }
    }

    #[inline(always)]
    unsafe fn transform_input<S: Simd>(&self, tile: usize, target: *mut f32) {
        let ([image, y, x], [h, w], pad) = (self.place(tile), self.in_size, self.layer.desc.padding);
        let inside = y >= pad && x >= pad && y - pad + SPAN <= h && x - pad + SPAN <= w;
        for block in 0..self.blocks[0] {
            let plane = self.planes[image * self.blocks[0] + block];
            // SAFETY: inner tiles read 8×8 pixels that exist, outer ones the copy; `target` is the tile's
            // place among the points.
            unsafe {
                let target = target.add(block * LANES);
                if inside {
                    let source = plane.as_ptr().add((y - pad) * w + x - pad);
                    transform::input::<S>(source.cast(), w * LANES, target, self.blocks[0] * LANES);
                } else {
                    let copy = padded(plane, [h, w], [y, x], pad);
                    transform::input::<S>(copy.as_ptr().cast(), SPAN * LANES, target, self.blocks[0] * LANES);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn transform_output<S: Simd>(&self, tile: usize, source: *const f32) {
        let ([image, top, left], [h, w]) = (self.place(tile), self.out_size);
        let (rows, columns) = (TILE.min(h - top), TILE.min(w - left));
        for block in 0..self.blocks[1] {
            // SAFETY: only pixels inside of the image are stored, and no other tile has them.
            unsafe {
                let epilogue = self.output.plane::<S>(image, block, self.blocks[1]);
                transform::output::<S>(source.add(block * LANES), self.blocks[1] * LANES, |y, sums| {
                    if y < rows {
                        for (x, sum) in sums.into_iter().enumerate() {
                            if x < columns {
                                epilogue.finish((top + y) * w + left + x, sum);
                            }
                        }
                    }
                });
            }
        }
    }
}

#[inline(always)]
fn prefetch_row(first: *const Lanes) {
    (0..TILE).for_each(|x| prefetch(first.wrapping_add(x)));
}

/// A copy of a tile's 8×8 inputs with zeros where they lie outside of the image.
#[cold]
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
