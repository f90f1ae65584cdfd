//! The GPU backend without a GPU: its PTX runs in the interpreter, which checks every access, and its results are held
//! against plain versions with sums in `f64`.

mod assemble;
mod attention;
mod combine;
#[path = "../common/mod.rs"]
mod common;
mod conv2d;
mod copies;
mod elementwise;
mod embedding;
mod gemm;
mod interpreted;
mod layout;
mod linear;
mod multiprocessors;
mod norm;
mod pixel_shuffle;
mod pixels;
mod repeated;
mod resize;
mod timesteps;

use common::{Plain, assert_close};
use interpreted::{Gpu, gpu, hopper};
use reverie_kernels::{Backend, gpu::GpuTensor};

type Tensor = GpuTensor<interpreted::Interpreted>;

/// Rounded to fp16, as the device holds it: what is expected of an operation is computed from that.
fn halves(mut x: Plain) -> Plain {
    x.data.iter_mut().for_each(|value| *value = half::f16::from_f32(*value).to_f32());
    x
}

fn noise(shape: [usize; 4], seed: u64) -> Plain {
    halves(Plain::noise(shape, seed))
}

fn upload(gpu: &Gpu, x: &Plain) -> Tensor {
    gpu.tensor(x.data.clone(), x.shape).unwrap()
}

/// Asserts that a tensor has the expected shape and values; `tolerance` is relative to the largest of them. fp16 rounds by
/// 4.9e-4 of a value at most.
#[track_caller]
fn check(gpu: &Gpu, actual: &Tensor, expected: &Plain, tolerance: f32, what: &str) {
    assert_eq!(gpu.shape(actual), expected.shape, "{what}");
    assert_close(&gpu.to_vec(actual).unwrap(), expected, tolerance, what);
}
