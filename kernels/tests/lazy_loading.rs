//! A driver that loads code lazily and has no memory left for it, on the emulated one. By itself, as it leaves nothing to others.
#![cfg(target_os = "linux")]

#[path = "common/emulator.rs"]
mod emulator;

use reverie_cuda_emulator::{CODE, OVERHEAD};
use reverie_kernels::{
    Backend, Error,
    gpu::{Device, GpuBackend, cuda::Cuda},
};

#[test]
fn what_is_kept_makes_room_for_functions() {
    emulator::emulate();
    let cuda = Cuda::new(0, Some(u64::MAX), false).unwrap();
    let gpu = GpuBackend::new(cuda.clone());
    let x = gpu.tensor(vec![1.5; 64], [1, 1, 8, 8]).unwrap();
    let free = || cuda.properties().memory_free.unwrap() as usize;
    // Room for the module and not for its first function.
    let rest = OVERHEAD + CODE / 2;
    let mut all = Vec::new();
    while let Some(bytes) = free().checked_sub(rest).filter(|bytes| *bytes >= 512) {
        all.push(cuda.allocate(1 << bytes.ilog2()).unwrap());
    }
    let twice = gpu.add(&x, &x);
    assert!(
        matches!(&twice, Err(Error::OutOfMemory { what, .. }) if what.contains("of elementwise")),
        "{:?}",
        twice.err()
    );
    // The largest half of what was taken: kept for later, and the driver has as little as before.
    all.remove(0);
    assert!(free() >= OVERHEAD && free() < OVERHEAD + CODE);
    assert_eq!(gpu.to_vec(&gpu.add(&x, &x).unwrap()).unwrap(), [3.0; 64]);
}
