//! Convolutions of any kernel, stride and padding: the pixels under the kernel are gathered for a block of
//! outputs at a time ("im2col"), small enough to stay in the core's cache, and multiplied with the weights.

use super::buffer::{LANES, Lanes};
use super::epilogue::Output;
use super::gemm::{self, Gemm};
use super::scratch::with_scratch;
use super::simd::{Level, Simd, Task};
use crate::backend::{Conv2dDesc, Shape};
use rayon::prelude::*;

/// Bytes of a task's gathered pixels and sums: half of a second-level cache of 1 MiB.
const TASK_BYTES: usize = 512 << 10;
/// The most output pixels of a task; a multiple of the rows of every register block.
const TASK_PIXELS: usize = 192;

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
    weights: Vec<Lanes>,
    planar: bool,
    depth: usize,
    level: Level,
}

impl Direct {
    /// Packs weights in out, in, row, column order.
    pub(crate) fn new(desc: Conv2dDesc, weight: &[f32], level: Level) -> Self {
        let (inputs, taps) = (desc.in_channels, desc.kernel * desc.kernel);
        // Blocks would be mostly padding for the few channels of a picture.
        let planar = inputs < LANES;
        let padded = inputs.next_multiple_of(LANES);
        let depth = taps * if planar { inputs } else { padded };
        let mut packed = Vec::new();
        gemm::pack(&mut packed, depth, desc.out_channels, level, |row, o| {
            let (tap, input) = if planar { (row % taps, row / taps) } else { (row / padded, row % padded) };
            if input < inputs { weight[(o * inputs + input) * taps + tap] } else { 0.0 }
        });
        Self { desc, weights: gemm::aligned(&packed), planar, depth, level }
    }

    /// Whether [`Direct::run`] needs its input in the planar layout.
    pub(crate) fn planar(&self) -> bool {
        self.planar
    }

    /// Convolves `source`, of `shape`, into the planes of `output`.
    pub(crate) fn run(&self, source: Source, shape: Shape, out_shape: Shape, output: &Output) {
        let outs = self.desc.out_channels.div_ceil(LANES);
        let depth_lanes = self.depth.div_ceil(LANES);
        let pixels = out_shape[0] * out_shape[2] * out_shape[3];
        let most = TASK_BYTES / (depth_lanes + outs) / size_of::<Lanes>();
        let step = (most / 24 * 24).clamp(24, TASK_PIXELS).min(pixels.div_ceil(rayon::current_num_threads()));
        (0..pixels.div_ceil(step)).into_par_iter().for_each(|i| {
            let count = step.min(pixels - i * step);
            with_scratch(count * (depth_lanes + outs), |scratch| {
                let (gathered, sums) = scratch.split_at_mut(count * depth_lanes);
                for (j, row) in gathered.chunks_exact_mut(depth_lanes).enumerate() {
                    self.gather(source, shape, out_shape, i * step + j, row);
                }
                let task = Pixels {
                    layer: self,
                    output,
                    area: out_shape[2] * out_shape[3],
                    first: i * step,
                    count,
                    gathered: gathered.as_ptr().cast(),
                    sums: sums.as_mut_ptr().cast(),
                };
                // SAFETY: the level was available when the weights were packed; the pixels of different
                // tasks are different.
                unsafe { self.level.run(task) }
            });
        });
    }

    /// Fills `row` with what lies under the kernel at one output pixel.
    #[inline]
    fn gather(&self, source: Source, shape: Shape, out_shape: Shape, pixel: usize, row: &mut [Lanes]) {
        let ([_, channels, h, w], [_, _, out_h, out_w]) = (shape, out_shape);
        let Conv2dDesc { kernel, stride, padding, .. } = self.desc;
        let image = pixel / (out_h * out_w);
        let (y, x) = (pixel / out_w % out_h * stride, pixel % out_w * stride);
        // Where a tap falls on the image, if it does.
        let at = |ky: usize, kx: usize| {
            let (y, x) = ((y + ky).wrapping_sub(padding), (x + kx).wrapping_sub(padding));
            (y < h && x < w).then(|| y * w + x)
        };
        match source {
            Source::Planar(values) => {
                let row = super::buffer::flat_mut(row);
                let image = &values[image * channels * h * w..][..channels * h * w];
                for (plane, row) in image.chunks_exact(h * w).zip(row.chunks_exact_mut(kernel * kernel)) {
                    for (ky, row) in row.chunks_exact_mut(kernel).enumerate() {
                        if let (Some(first), Some(last)) = (at(ky, 0), at(ky, kernel - 1)) {
                            row.iter_mut().zip(&plane[first..=last]).for_each(|(value, x)| *value = *x);
                            continue;
                        }
                        for (kx, value) in row.iter_mut().enumerate() {
                            *value = at(ky, kx).map_or(0.0, |at| plane[at]);
                        }
                    }
                }
            }
            Source::Blocked(planes) => {
                let blocks = channels.div_ceil(LANES);
                let planes = &planes[image * blocks..][..blocks];
                for (tap, row) in row.chunks_exact_mut(blocks).enumerate() {
                    let at = at(tap / kernel, tap % kernel);
                    for (lanes, plane) in row.iter_mut().zip(planes) {
                        *lanes = at.map_or(Lanes::ZERO, |at| plane[at]);
                    }
                }
            }
        }
    }
}

/// A run of output pixels, in the order of images, rows and columns, with their inputs gathered.
struct Pixels<'a> {
    layer: &'a Direct,
    output: &'a Output<'a>,
    area: usize,
    first: usize,
    count: usize,
    gathered: *const f32,
    sums: *mut f32,
}

impl Task for Pixels<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let outs = self.layer.desc.out_channels.div_ceil(LANES);
        // SAFETY: both working areas have `count` rows of their strides; the pixels are inside of the
        // output and belong to this task.
        unsafe {
            Gemm {
                rows: self.count,
                depth: self.layer.depth,
                blocks: outs,
                a: self.gathered,
                a_stride: self.layer.depth.next_multiple_of(LANES),
                b: self.layer.weights.as_ptr().cast(),
                c: self.sums,
                c_stride: outs * LANES,
            }
            .multiply::<S>();
            for block in 0..outs {
                for i in 0..self.count {
                    let pixel = self.first + i;
                    let epilogue = self.output.plane::<S>(pixel / self.area, block, outs);
                    epilogue.finish(pixel % self.area, S::load(self.sums.add((i * outs + block) * LANES)));
                }
            }
        }
    }
}
