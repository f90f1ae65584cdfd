//! What moves values and computes nothing.

use super::blocks;
use crate::backend::Shape;
use crate::error::Result;
use crate::gpu::{Arg, Device, GpuBackend, GpuTensor, Launch, Variant};

/// Bytes that a thread moves at once.
const WORDS: [usize; 4] = [16, 8, 4, 2];

/// Images of one launch: the second side of a grid has 16 bits.
const MOST_IMAGES: usize = 65535;

pub(in crate::gpu) fn variants() -> Vec<Variant> {
    WORDS.map(variant).to_vec()
}

fn variant(word: usize) -> Variant {
    Variant::new("copies", &[("WORD", word as i64)])
}

/// Rows of one tensor that go into another; in values.
struct Rows {
    /// Where the first begins, in the source and in the target.
    at: [usize; 2],
    /// From row to row.
    stride: [usize; 2],
    /// Of an image of the target.
    rows: usize,
    width: usize,
    /// What the source has of that, from the upper left; the rest is zeros.
    kept_rows: usize,
    kept_width: usize,
    images: usize,
}

impl Rows {
    /// `rows` of `width`, one after another in the source and `stride` apart in the target.
    fn whole(rows: usize, width: usize, at: [usize; 2], stride: usize) -> Self {
        let stride = [width, stride];
        Self { at, stride, rows, width, kept_rows: rows, kept_width: width, images: 1 }
    }

    /// `len` values that lie together.
    fn range(len: usize, at: [usize; 2]) -> Self {
        Self::whole(1, len, at, len)
    }

    fn copy<D: Device>(&self, gpu: &GpuBackend<D>, from: &GpuTensor<D>, to: &GpuTensor<D>) -> Result<()> {
        let measures = [self.at[0], self.at[1], self.stride[0], self.stride[1], self.width, self.kept_width];
        let fits = |word: &usize| measures.iter().all(|values| (2 * values).is_multiple_of(*word));
        let word = WORDS.into_iter().find(fits).unwrap_or(2);
        let words = |values: usize| 2 * values / word;
        let width = words(self.width);
        let number = |value: usize| Arg::U32(value as u32);
        let args = [
            from.arg(),
            to.arg(),
            number(words(self.at[0])),
            number(words(self.at[1])),
            number(words(self.stride[0])),
            number(words(self.stride[1])),
            number(width),
            number(self.rows),
            number(words(self.kept_width)),
            number(self.kept_rows),
            number(256 / width),
            number(256 % width),
        ];
        let grid = [blocks(self.rows * width, 4 * 256), self.images as u32, 1];
        gpu.launch(&variant(word), "copy", Launch { grid, block: 256, shared: 0 }, &args)
    }
}

/// Joined along the channels.
pub(in crate::gpu) fn concat<D: Device>(
    gpu: &GpuBackend<D>,
    xs: &[&GpuTensor<D>],
    shape: Shape,
) -> Result<GpuTensor<D>> {
    let out = gpu.empty(shape)?;
    let [n, channels, h, w] = shape;
    let mut at = 0;
    for x in xs {
        Rows::whole(n * h * w, x.shape[1], [0, at], channels).copy(gpu, x, &out)?;
        at += x.shape[1];
    }
    Ok(out)
}

/// Joined along the batch.
pub(in crate::gpu) fn stack<D: Device>(
    gpu: &GpuBackend<D>,
    xs: &[&GpuTensor<D>],
    shape: Shape,
) -> Result<GpuTensor<D>> {
    let out = gpu.empty(shape)?;
    let mut at = 0;
    for x in xs {
        Rows::range(x.len(), [0, at]).copy(gpu, x, &out)?;
        at += x.len();
    }
    Ok(out)
}

/// The images from `first` on that `shape` has.
pub(in crate::gpu) fn images<D: Device>(
    gpu: &GpuBackend<D>,
    x: &GpuTensor<D>,
    first: usize,
    shape: Shape,
) -> Result<GpuTensor<D>> {
    if shape == x.shape {
        return Ok(x.clone());
    }
    let out = gpu.empty(shape)?;
    Rows::range(out.len(), [first * (out.len() / shape[0]), 0]).copy(gpu, x, &out)?;
    Ok(out)
}

/// Zeros at the right and at the bottom.
pub(in crate::gpu) fn pad<D: Device>(
    gpu: &GpuBackend<D>,
    x: &GpuTensor<D>,
    shape: Shape,
) -> Result<GpuTensor<D>> {
    if shape == x.shape {
        return Ok(x.clone());
    }
    let out = gpu.empty(shape)?;
    let [n, channels, h, w] = shape;
    let [kept_rows, kept_width] = [x.shape[2], x.shape[3] * channels];
    let width = w * channels;
    for first in (0..n).step_by(MOST_IMAGES) {
        let rows = Rows {
            at: [first * kept_rows * kept_width, first * h * width],
            stride: [kept_width, width],
            rows: h,
            width,
            kept_rows,
            kept_width,
            images: (n - first).min(MOST_IMAGES),
        };
        rows.copy(gpu, x, &out)?;
    }
    Ok(out)
}
