//! The driver's side of the GPU backend against an emulated driver, on any machine: memory, transfers, lanes, recordings and
//! errors, as `tests/cuda` has them on a GPU. The emulator says what else it watches for.
#![cfg(target_os = "linux")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../cuda/device.rs"]
mod device;
#[path = "../common/emulator.rs"]
mod emulator;
mod examined;
#[path = "../cuda_alone/exclusive.rs"]
mod exclusive;
mod speed;

use reverie_kernels::{
    Backend, Mask, Shape,
    gpu::{GpuBackend, cuda::Cuda},
};

use common::{Plain, assert_close};
use emulator::emulate;
use reverie_examine::noise;

/// A tensor and how often it is halved. What it takes does not matter: nothing runs before it is waited for.
const LONG: (Shape, usize) = ([1, 8, 8, 8], 10);

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
        let [q, k, v] = [0, 1, 2]
            .map(|i| Plain { data: noise::halves(common::len(shapes[i]), 1.0, i as u64), shape: shapes[i] });
        let expected = common::attention(&q, &k, &v, 1, Mask::None);
        let [q, k, v] = [q, k, v].map(|x| gpu.tensor(x.data, x.shape).unwrap());
        let out = gpu.attention(&q, &k, &v, 1, Mask::None).unwrap();
        assert_close(&gpu.to_vec(&out).unwrap(), &expected, 2e-3, &format!("{width}, wgmma: {wgmma}"));
    }
}
