//! The driver's side of the GPU backend against an emulated driver, on any machine: memory, transfers, lanes, recordings and
//! errors, as `tests/cuda` has them on a GPU. The emulator says what else it watches for.
#![cfg(target_os = "linux")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../cuda/device.rs"]
mod device;

use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use reverie_kernels::{
    Backend, Mask, Shape,
    gpu::{GpuBackend, cuda::Cuda},
};

use common::{Plain, assert_close};

/// A tensor and how often it is halved. What it takes does not matter: nothing runs before it is waited for.
const LONG: (Shape, usize) = ([1, 8, 8, 8], 10);

/// Puts the emulator into this process as its `libcuda.so`.
fn emulate() {
    static EMULATOR: OnceLock<Library> = OnceLock::new();
    EMULATOR.get_or_init(|| {
        let folder = std::env::current_exe().unwrap().with_file_name("");
        let path = folder.join("libreverie_cuda_emulator.so");
        // SAFETY: the library has no initialisers with preconditions.
        unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) }.expect("built with this test")
    });
}

fn cuda(budget: Option<u64>) -> Option<Cuda> {
    emulate();
    Some(Cuda::new(0, budget, false).unwrap())
}

/// What launches need beyond buffers and numbers: tensor maps, and more shared memory than a kernel may have unasked.
#[test]
fn attention() {
    emulate();
    for (wgmma, width) in [(true, 64), (false, 64), (false, 512)] {
        let gpu = GpuBackend::new(Cuda::new(0, None, wgmma).unwrap());
        let shapes = [[1, 1, 130, width], [1, 1, 150, width], [1, 1, 150, width]];
        let [q, k, v] =
            [0, 1, 2].map(|i| Plain { data: noise(common::len(shapes[i]), 1.0, i as u64), shape: shapes[i] });
        let expected = common::attention(&q, &k, &v, 1, Mask::None);
        let [q, k, v] = [q, k, v].map(|x| gpu.tensor(x.data, x.shape).unwrap());
        let out = gpu.attention(&q, &k, &v, 1, Mask::None).unwrap();
        assert_close(&gpu.to_vec(&out).unwrap(), &expected, 2e-3, &format!("{width}, wgmma: {wgmma}"));
    }
}

/// Noise that fp16 holds exactly.
fn noise(len: usize, scale: f32, seed: u64) -> Vec<f32> {
    let round = |value| half::f16::from_f32(value * scale).to_f32();
    common::noise(len, seed).into_iter().map(round).collect()
}
