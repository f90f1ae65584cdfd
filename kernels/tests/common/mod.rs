//! Plain versions of every operation, with sums in `f64`, and what the tests share.
#![allow(dead_code)] // Each test crate uses its part.

use reverie_examine::mismatch::{Layout, compare_and_dump};
use reverie_kernels::cpu::{CpuBackend, CpuTensor, Level};
use reverie_kernels::{Activation, Backend, Conv2dDesc, Filter, Mask, Shape, Unary};

pub use reverie_examine::noise::uniform as noise;

/// Height and width: single pixels, less than a tile, exact tiles, and odd remainders.
pub const SIZES: [[usize; 2]; 9] =
    [[1, 1], [1, 7], [3, 5], [6, 6], [8, 13], [12, 18], [17, 33], [31, 4], [65, 129]];

/// A backend for each instruction set of this machine.
pub fn backends() -> Vec<CpuBackend> {
    Level::available().filter_map(|level| CpuBackend::with_level(2, level)).collect()
}

pub fn len(shape: Shape) -> usize {
    shape.iter().product()
}

/// A tensor as plain values.
#[derive(Clone)]
pub struct Plain {
    pub data: Vec<f32>,
    pub shape: Shape,
}

impl Plain {
    pub fn noise(shape: Shape, seed: u64) -> Self {
        Self { data: noise(len(shape), seed), shape }
    }

    pub fn from_fn(shape: Shape, f: impl Fn(usize, usize, usize, usize) -> f64) -> Self {
        let [n, c, h, w] = shape;
        let mut data = Vec::with_capacity(len(shape));
        for i in 0..n * c * h * w {
            data.push(f(i / (c * h * w), i / (h * w) % c, i / w % h, i % w) as f32);
        }
        Self { data, shape }
    }

    pub fn at(&self, n: usize, c: usize, y: usize, x: usize) -> f64 {
        let [_, channels, h, w] = self.shape;
        f64::from(self.data[((n * channels + c) * h + y) * w + x])
    }

    /// Zero outside of the image.
    fn padded(&self, n: usize, c: usize, y: isize, x: isize) -> f64 {
        let [_, _, h, w] = self.shape;
        let inside = (0..h as isize).contains(&y) && (0..w as isize).contains(&x);
        if inside { self.at(n, c, y as usize, x as usize) } else { 0.0 }
    }
}

pub fn slope_of(act: &Activation, channel: usize) -> f64 {
    match act {
        Activation::None => 1.0,
        Activation::LeakyRelu(slope) => f64::from(*slope),
        Activation::PRelu(slope) => f64::from(slope[if slope.len() == 1 { 0 } else { channel }]),
    }
}

pub fn leaky(x: f64, slope: f64) -> f64 {
    if x > 0.0 { x } else { x * slope }
}

/// x Φ(x). The error function by its series, or by its continued fraction where that converges.
pub fn gelu(x: f64) -> f64 {
    let z = x.abs() / std::f64::consts::SQRT_2;
    let upper = if z < 3.0 {
        // erf z = 2/√π Σ (-1)ⁿ z^(2n+1) / (n! (2n+1))
        let mut term = z;
        let mut sum = z;
        for n in 1..100 {
            term *= -z * z / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        0.5 - sum / std::f64::consts::PI.sqrt()
    } else {
        // erfc z = e^(-z²)/√π · 1 / (z + (1/2) / (z + (2/2) / (z + …)))
        let fraction = (1..200).rev().fold(z, |below, n| z + f64::from(n) / 2.0 / below);
        (-z * z).exp() / std::f64::consts::PI.sqrt() / fraction / 2.0
    };
    x * if x > 0.0 { 1.0 - upper } else { upper }
}

/// The function of one value.
pub fn apply(f: Unary, x: f64) -> f64 {
    match f {
        Unary::Identity => x,
        Unary::Relu => x.max(0.0),
        Unary::Silu => x / (1.0 + (-x).exp()),
        Unary::Gelu => gelu(x),
        Unary::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
        Unary::Tanh => x.tanh(),
    }
}

pub const FUNCTIONS: [Unary; 6] =
    [Unary::Identity, Unary::Relu, Unary::Silu, Unary::Gelu, Unary::QuickGelu, Unary::Tanh];

/// The mean of values, and what their deviation is to be multiplied by.
fn normal(values: &[f32], eps: f64) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().map(|x| f64::from(*x)).sum::<f64>() / count;
    let squares: f64 = values.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum();
    (mean, (squares / count + eps).sqrt().recip())
}

/// `torch.nn.GroupNorm` and `act`.
pub fn group_norm(x: &Plain, groups: usize, [weight, bias]: [&Plain; 2], eps: f64, act: Unary) -> Plain {
    let [n, c, h, w] = x.shape;
    let (per_group, area) = (c / groups, h * w);
    let factors: Vec<_> =
        x.data[..n * c * area].chunks_exact(per_group * area).map(|group| normal(group, eps)).collect();
    Plain::from_fn(x.shape, |n, c, y, x0| {
        let (mean, scale) = factors[n * groups + c / per_group];
        apply(act, (x.at(n, c, y, x0) - mean) * scale * weight.at(0, 0, 0, c) + bias.at(0, 0, 0, c))
    })
}

/// `torch.nn.LayerNorm`.
pub fn layer_norm(x: &Plain, [weight, bias]: [&Plain; 2], eps: f64) -> Plain {
    let width = x.shape[3];
    let factors: Vec<_> = x.data.chunks_exact(width).map(|row| normal(row, eps)).collect();
    Plain::from_fn(x.shape, |n, _, y, i| {
        let (mean, scale) = factors[n * x.shape[2] + y];
        (x.at(n, 0, y, i) - mean) * scale * weight.at(0, 0, 0, i) + bias.at(0, 0, 0, i)
    })
}

/// `x Wᵀ`, plus the bias.
pub fn linear(x: &Plain, outputs: usize, weight: &[f32], bias: Option<&[f32]>) -> Plain {
    let [n, _, rows, inputs] = x.shape;
    Plain::from_fn([n, 1, rows, outputs], |n, _, row, o| {
        let bias = bias.map_or(0.0, |bias| f64::from(bias[o]));
        let terms = (0..inputs).map(|i| x.at(n, 0, row, i) * f64::from(weight[o * inputs + i]));
        bias + terms.sum::<f64>()
    })
}

/// `softmax(q kᵀ / √d + mask) v`, by heads.
pub fn attention(q: &Plain, k: &Plain, v: &Plain, heads: usize, mask: Mask) -> Plain {
    let [n, _, queries, features] = q.shape;
    let (keys, width) = (k.shape[2], features / heads);
    let mut data = Vec::with_capacity(len(q.shape));
    for (n, row) in (0..n * queries).map(|i| (i / queries, i % queries)) {
        for first in (0..heads).map(|head| head * width) {
            let seen = if mask == Mask::Causal { keys.min(row + 1) } else { keys };
            let score = |key: usize| {
                let terms = (first..first + width).map(|i| q.at(n, 0, row, i) * k.at(n, 0, key, i));
                terms.sum::<f64>() / (width as f64).sqrt()
            };
            let scores: Vec<f64> = (0..seen).map(score).collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
            let all: f64 = weights.iter().sum();
            for i in first..first + width {
                let sum: f64 = weights.iter().enumerate().map(|(key, x)| x * v.at(n, 0, key, i)).sum();
                data.push((sum / all) as f32);
            }
        }
    }
    Plain { data, shape: q.shape }
}

pub fn conv2d(x: &Plain, desc: Conv2dDesc, weight: &[f32], bias: &[f32], act: &Activation) -> Plain {
    let Conv2dDesc { in_channels, out_channels, kernel: k, stride, padding } = desc;
    let [n, _, h, w] = x.shape;
    let side = |len: usize| (len + 2 * padding - k) / stride + 1;
    Plain::from_fn([n, out_channels, side(h), side(w)], |n, o, y, x0| {
        let mut sum = f64::from(bias[o]);
        for c in 0..in_channels {
            for ky in 0..k {
                for kx in 0..k {
                    let iy = (y * stride + ky) as isize - padding as isize;
                    let ix = (x0 * stride + kx) as isize - padding as isize;
                    sum +=
                        f64::from(weight[((o * in_channels + c) * k + ky) * k + kx]) * x.padded(n, c, iy, ix);
                }
            }
        }
        leaky(sum, slope_of(act, o))
    })
}

pub fn pixel_shuffle(x: &Plain, f: usize) -> Plain {
    let [n, c, h, w] = x.shape;
    Plain::from_fn([n, c / f / f, h * f, w * f], |n, c, y, x0| {
        x.at(n, (c * f + y % f) * f + x0 % f, y / f, x0 / f)
    })
}

/// The weight of a tap at distance `d` of the target's centre.
fn weight(filter: Filter, d: f64) -> f64 {
    let d = d.abs();
    match filter {
        Filter::Nearest => 1.0,
        Filter::Bilinear => (1.0 - d).max(0.0),
        Filter::Bicubic if d <= 1.0 => 1.25 * d.powi(3) - 2.25 * d.powi(2) + 1.0,
        Filter::Bicubic if d < 2.0 => -0.75 * (d.powi(3) - 5.0 * d.powi(2) + 8.0 * d - 4.0),
        Filter::Bicubic => 0.0,
        Filter::Lanczos3 if d == 0.0 => 1.0,
        Filter::Lanczos3 if d < 3.0 => {
            let pi_d = std::f64::consts::PI * d;
            3.0 * pi_d.sin() * (pi_d / 3.0).sin() / (pi_d * pi_d)
        }
        Filter::Lanczos3 => 0.0,
    }
}

/// Position and weight of every source pixel in reach, edges handled as the filter's documentation says.
fn taps(old: usize, new: usize, i: usize, filter: Filter) -> Vec<(usize, f64)> {
    if filter == Filter::Nearest {
        return vec![(i * old / new, 1.0)];
    }
    let centre = (i as f64 + 0.5) * old as f64 / new as f64 - 0.5;
    let from = centre.floor() as isize - 3;
    let mut taps = Vec::new();
    for at in from..from + 8 {
        let weight = weight(filter, centre - at as f64);
        let inside = (0..old as isize).contains(&at);
        if weight != 0.0 && (inside || filter != Filter::Lanczos3) {
            taps.push((at.clamp(0, old as isize - 1) as usize, weight));
        }
    }
    let sum: f64 = taps.iter().map(|tap| tap.1).sum();
    taps.into_iter().map(|(at, weight)| (at, weight / sum)).collect()
}

pub fn resize(x: &Plain, h: usize, w: usize, filter: Filter) -> Plain {
    let [n, c, old_h, old_w] = x.shape;
    Plain::from_fn([n, c, h, w], |n, c, y, x0| {
        let mut sum = 0.0;
        for (sy, wy) in taps(old_h, h, y, filter) {
            for (sx, wx) in taps(old_w, w, x0, filter) {
                sum += wy * wx * x.at(n, c, sy, sx);
            }
        }
        sum
    })
}

/// Asserts that no value is further off than `tolerance` times the largest expected one. What it says where one is lets the error be
/// found without the device; with `REVERIE_DUMP` set to a folder, all values are written there.
#[track_caller]
pub fn assert_close(actual: &[f32], expected: &Plain, tolerance: f32, what: &str) {
    assert_close_in_heads(actual, expected, 1, tolerance, what);
}

/// The same for what has so many heads side by side.
#[track_caller]
pub fn assert_close_in_heads(actual: &[f32], expected: &Plain, heads: usize, tolerance: f32, what: &str) {
    let layout = Layout { shape: expected.shape, heads };
    let found = compare_and_dump(what, actual, &expected.data, layout, tolerance, &[]);
    if let Some(mismatch) = found.mismatch {
        panic!("{what}: {mismatch}");
    }
}

/// The same values in both layouts: a convolution with the identity leaves them blocked.
pub fn layouts(backend: &CpuBackend, x: &Plain) -> [CpuTensor; 2] {
    let planar = backend.tensor(x.data.clone(), x.shape).unwrap();
    let c = x.shape[1];
    let identity: Vec<f32> = (0..c * c).map(|i| if i / c == i % c { 1.0 } else { 0.0 }).collect();
    let desc = Conv2dDesc::same(c, c, 1);
    let conv = backend.prepare_conv2d(desc, &identity, None, Activation::None).unwrap();
    let blocked = backend.conv2d(&planar, &conv).unwrap();
    [planar, blocked]
}

/// Runs `op` on both layouts of `x` on every backend.
#[track_caller]
pub fn check(x: &Plain, expected: &Plain, tolerance: f32, op: impl Fn(&CpuBackend, &CpuTensor) -> CpuTensor) {
    for backend in backends() {
        for (tensor, layout) in layouts(&backend, x).iter().zip(["planar", "blocked"]) {
            let out = op(&backend, tensor);
            let what = format!("{:?} {layout}, {}", x.shape, backend.name());
            assert_eq!(backend.shape(&out), expected.shape, "{what}");
            assert_close(&backend.to_vec(&out).unwrap(), expected, tolerance, &what);
        }
    }
}
