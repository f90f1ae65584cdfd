//! The GPU backend without a GPU: its PTX runs in the interpreter, which checks every access, and its results are held
//! against plain versions with sums in `f64`. The same on a GPU with `REVERIE_TEST_DEVICE=cuda:0`.

mod assemble;
mod attention;
mod ceiling;
mod combine;
#[path = "../common/mod.rs"]
mod common;
mod conv2d;
mod copies;
mod elementwise;
mod embedding;
mod gemm;
mod layout;
mod linear;
mod multiprocessors;
mod norm;
#[cfg(target_os = "linux")]
mod on_the_driver;
mod pixel_shuffle;
mod pixels;
mod repeated;
mod resize;
mod tested;
mod timesteps;

use common::{Plain, assert_close_in_heads};
use reverie_kernels::{Backend, gpu::GpuTensor};
use tested::{Gpu, Tested, gpu};

type Tensor = GpuTensor<Tested>;

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
    check_heads(gpu, actual, expected, 1, tolerance, what);
}

/// The same for the result of so many heads.
#[track_caller]
fn check_heads(gpu: &Gpu, actual: &Tensor, expected: &Plain, heads: usize, tolerance: f32, what: &str) {
    assert_eq!(gpu.shape(actual), expected.shape, "{what}");
    assert_close_in_heads(&gpu.to_vec(actual).unwrap(), expected, heads, tolerance, what);
}
