//! Convolutions of any kernel, stride and padding: the pixels under the kernel are gathered for some outputs at
//! a time ("im2col"), a step of the depth after the other so that they stay in the core's cache, and multiplied
//! with the weights.

use super::buffer::{LANES, Lanes, Vector, flat_mut};
use super::epilogue::Output;
use super::gemm::{self, DEPTH_STEP, Gemm};
use super::packed::{Matrix, Packed, Packer};
use super::scratch::with_scratch;
use super::simd::{Level, Simd, Task};
use crate::backend::{Conv2dDesc, Shape};
use crate::weight::Weight;
use rayon::prelude::*;

/// The most output pixels of a task: with a step of the depth their inputs take a fifth of a second-level
/// cache of 1 MiB.
const TASK_PIXELS: usize = 192;
/// The most vectors of output channels of a task, whose sums take a third of it.
const TASK_BLOCKS: usize = 24;
/// Vectors of a gathered row for a step of the depth. One more than there are, as rows at a stride of a power
/// of two would fall into the same few cache sets.
const STEP_LANES: usize = DEPTH_STEP / LANES + 1;

/// The input of a convolution.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    /// N, C, H, W.
    Planar(&'a [f32]),
    /// The planes of the blocked layout.
    Blocked(&'a [&'a [Lanes]]),
}

/// Packed weights. The depth of the multiplication runs over channel, row, column for planar inputs, and
/// over row, column, channel (padded to whole vectors) for blocked ones.
pub(crate) struct Direct {
    desc: Conv2dDesc,
    weights: Packed,
    planar: bool,
    depth: usize,
    level: Level,
}

/// How weights in out, in, row, column order are packed.
struct Order {
    desc: Conv2dDesc,
    /// Blocks would be mostly padding for the few channels of a picture.
    planar: bool,
    depth: usize,
    level: Level,
}

impl Order {
    fn new(desc: Conv2dDesc, level: Level) -> Self {
        let planar = desc.in_channels < LANES;
        let inputs = if planar { desc.in_channels } else { desc.in_channels.next_multiple_of(LANES) };
        Self { desc, planar, depth: desc.kernel * desc.kernel * inputs, level }
    }
}

impl Packer for Order {
    fn pack<V: Vector>(&self, value: impl Fn(usize) -> V::Value + Sync) -> Vec<V> {
        let (inputs, taps) = (self.desc.in_channels, self.desc.kernel * self.desc.kernel);
        let padded = inputs.next_multiple_of(LANES);
        gemm::pack(self.depth, self.desc.out_channels, self.level, |row, o| {
            let (tap, input) =
                if self.planar { (row % taps, row / taps) } else { (row / padded, row % padded) };
            if input < inputs { value((o * inputs + input) * taps + tap) } else { V::Value::default() }
        })
    }
}

impl Direct {
    /// Packs weights in out, in, row, column order.
    pub(crate) fn new(desc: Conv2dDesc, weight: Weight<'_>, level: Level) -> Self {
        let order = Order::new(desc, level);
        Self { desc, weights: Packed::of(weight, &order), planar: order.planar, depth: order.depth, level }
    }

    /// Whether [`Direct::run`] needs its input in the planar layout.
    pub(crate) fn planar(&self) -> bool {
        self.planar
    }

    /// Convolves `source`, of `shape`, into the planes of `output`.
    pub(crate) fn run(&self, source: Source, shape: Shape, out_shape: Shape, output: &Output) {
        let blocks = self.desc.out_channels.div_ceil(LANES);
        let pixels = out_shape[0] * out_shape[2] * out_shape[3];
        let panels = gemm::panel_count(blocks, self.level);
        let [pixel_step, panel_step] =
            gemm::task_size([pixels, panels], [TASK_PIXELS, TASK_BLOCKS], self.level);
        let pixel_tasks = pixels.div_ceil(pixel_step);
        let job = Job { layer: self, source, shape, out_shape, output };
        // Tasks of the same channels follow one another, so that their weights are read once from memory.
        (0..pixel_tasks * panels.div_ceil(panel_step)).into_par_iter().for_each(|i| {
            let (first, panel) = (i % pixel_tasks * pixel_step, i / pixel_tasks * panel_step);
            let count = pixel_step.min(pixels - first);
            let panels = [panel, panels.min(panel + panel_step)];
            let blocks = panels.map(|panel| gemm::panel_start(panel, blocks, self.level));
            let gathered = count * self.gathered_lanes();
            let room = self.weights.room(gemm::room(self.level));
            with_scratch(room + gathered + count * (blocks[1] - blocks[0]), |scratch| {
                let (room, scratch) = scratch.split_at_mut(room);
                let (gathered, sums) = scratch.split_at_mut(gathered);
                let weights = self.weights.matrix(room.as_mut_ptr().cast());
                let part = Part { job: &job, first, count, panels, blocks, weights, gathered, sums };
                // SAFETY: the level was available when the weights were packed; the pixels or channels of
                // different tasks are different.
                unsafe { self.level.run(part) }
            });
        });
    }

    /// Vectors of a gathered row.
    fn gathered_lanes(&self) -> usize {
        if self.planar { self.depth.div_ceil(LANES) } else { STEP_LANES }
    }
}

/// A call of the convolution.
struct Job<'a> {
    layer: &'a Direct,
    source: Source<'a>,
    shape: Shape,
    out_shape: Shape,
    output: &'a Output<'a>,
}

impl Job<'_> {
    /// For each output pixel from `first` on its image, and row and column of the input under the kernel's first
    /// tap (less the padding).
    #[inline(always)]
    fn places(&self, first: usize) -> impl Iterator<Item = [usize; 3]> {
        let ([_, _, h, w], stride) = (self.out_shape, self.layer.desc.stride);
        let mut next = [first / (h * w), first / w % h, first % w];
        std::iter::from_fn(move || {
            let [image, y, x] = next;
            next = match (x + 1 < w, y + 1 < h) {
                (true, _) => [image, y, x + 1],
                (false, true) => [image, y + 1, 0],
                (false, false) => [image + 1, 0, 0],
            };
            Some([image, y * stride, x * stride])
        })
    }

    /// Where the tap at `ky` and `kx` falls on the image, if it does.
    #[inline(always)]
    fn at(&self, [_, y, x]: [usize; 3], ky: usize, kx: usize) -> Option<usize> {
        let ([_, _, h, w], padding) = (self.shape, self.layer.desc.padding);
        let (y, x) = ((y + ky).wrapping_sub(padding), (x + kx).wrapping_sub(padding));
        (y < h && x < w).then(|| y * w + x)
    }

    /// Fills `row` with all that lies under the kernel at one output pixel: channel, row, column.
    fn gather_planar(&self, values: &[f32], place: [usize; 3], row: &mut [f32]) {
        let ([_, channels, h, w], kernel) = (self.shape, self.layer.desc.kernel);
        let image = &values[place[0] * channels * h * w..][..channels * h * w];
        for (plane, row) in image.chunks_exact(h * w).zip(row.chunks_exact_mut(kernel * kernel)) {
            for (ky, row) in row.chunks_exact_mut(kernel).enumerate() {
                if let (Some(first), Some(last)) = (self.at(place, ky, 0), self.at(place, ky, kernel - 1)) {
                    row.iter_mut().zip(&plane[first..=last]).for_each(|(value, x)| *value = *x);
                    continue;
                }
                for (kx, value) in row.iter_mut().enumerate() {
                    *value = self.at(place, ky, kx).map_or(0.0, |at| plane[at]);
                }
            }
        }
    }

    /// Fills rows with what lies under the kernel at output pixels from `first` on, for the vectors of the depth
    /// from `start` on: tap, channel block.
    fn gather_blocked(&self, planes: &[&[Lanes]], first: usize, start: usize, rows: &mut [Lanes]) {
        let blocks = self.shape[1].div_ceil(LANES);
        let count = (DEPTH_STEP / LANES).min(self.layer.depth / LANES - start);
        let kernel = self.layer.desc.kernel;
        let (tap, first_block) = (start / blocks, start % blocks);
        let first_tap = [tap / kernel, tap % kernel];
        for (place, row) in self.places(first).zip(rows.chunks_exact_mut(STEP_LANES)) {
            let planes = &planes[place[0] * blocks..][..blocks];
            let ([mut ky, mut kx], mut block) = (first_tap, first_block);
            let mut at = self.at(place, ky, kx);
            for lanes in &mut row[..count] {
                *lanes = at.map_or(Lanes::ZERO, |at| planes[block][at]);
                block += 1;
                if block == blocks {
                    (ky, kx, block) = if kx + 1 < kernel { (ky, kx + 1, 0) } else { (ky + 1, 0, 0) };
                    at = self.at(place, ky, kx);
                }
            }
        }
    }
}

/// A run of output pixels, in the order of images, rows and columns, and some of their channels.
struct Part<'a> {
    job: &'a Job<'a>,
    first: usize,
    count: usize,
    panels: [usize; 2],
    /// The channel blocks of the panels.
    blocks: [usize; 2],
    weights: Matrix,
    /// Room for the inputs of a step.
    gathered: &'a mut [Lanes],
    sums: &'a mut [Lanes],
}

impl Task for Part<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { job, first, count, panels, blocks: [start, end], weights, gathered, sums } = self;
        let Direct { desc, depth, level, .. } = job.layer;
        let (outs, stride) = (desc.out_channels.div_ceil(LANES), job.layer.gathered_lanes());
        let sums: *mut f32 = sums.as_mut_ptr().cast();
        let gemm = Gemm {
            panels,
            ..Gemm::whole(count, *depth, outs, weights, *level)
                // The sums of the panels before are not there.
                .into(sums.wrapping_sub(start * LANES), (end - start) * LANES)
        };
        // SAFETY: both working areas have `count` rows of their strides; the pixels are inside of the output
        // and belong to this task.
        unsafe {
            match job.source {
                Source::Planar(values) => {
                    for (place, row) in job.places(first).zip(gathered.chunks_exact_mut(stride)) {
                        job.gather_planar(values, place, flat_mut(row));
                    }
                    gemm.multiply::<S>(gathered.as_ptr().cast(), stride * LANES);
                }
                Source::Blocked(planes) => {
                    for step in (0..*depth).step_by(DEPTH_STEP) {
                        job.gather_blocked(planes, first, step / LANES, gathered);
                        gemm.step::<S>(gathered.as_ptr().cast(), stride * LANES, step);
                    }
                }
            }
            let area = job.out_shape[2] * job.out_shape[3];
            for block in start..end {
                for i in 0..count {
                    let pixel = first + i;
                    let epilogue = job.output.plane::<S>(pixel / area, block, outs);
                    let sum = S::load(sums.add((i * (end - start) + block - start) * LANES));
                    epilogue.finish(pixel % area, sum);
                }
            }
        }
    }
}
