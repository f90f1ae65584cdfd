//! A driver that loads code lazily and has no memory left for it, on the emulated one. By itself, as these tests leave nothing to
//! others: one at a time.
#![cfg(target_os = "linux")]

#[path = "common/emulator.rs"]
mod emulator;

use parking_lot::Mutex;
use reverie_cuda_emulator::{CODE, OVERHEAD};
use reverie_kernels::{
    Backend, Error, Result,
    gpu::{
        Device, GpuBackend,
        cuda::{Cuda, CudaBuffer},
    },
};

static ALONE: Mutex<()> = Mutex::new(());

/// Takes all of the device's memory but `rest` bytes and what of it is less than a power of two.
fn fill(cuda: &Cuda, rest: usize) -> Vec<CudaBuffer> {
    let mut all = Vec::new();
    while let Some(bytes) = free(cuda).checked_sub(rest).filter(|bytes| *bytes >= 512) {
        all.push(cuda.allocate(1 << bytes.ilog2()).unwrap());
    }
    all
}

fn free(cuda: &Cuda) -> usize {
    cuda.properties().memory_free.unwrap() as usize
}

#[test]
fn what_is_kept_makes_room_for_functions() {
    let _alone = ALONE.lock();
    emulator::emulate();
    let cuda = Cuda::new(0, Some(u64::MAX), false).unwrap();
    let gpu = GpuBackend::new(cuda.clone());
    let x = gpu.tensor(vec![1.5; 64], [1, 1, 8, 8]).unwrap();
    // Room for the module and not for its first function.
    let mut all = fill(&cuda, OVERHEAD + CODE / 2);
    let twice = gpu.add(&x, &x).map(drop);
    let refused = |result: &Result<()>| matches!(result, Err(Error::OutOfMemory { what, .. }) if what.contains("of elementwise"));
    assert!(refused(&twice), "{twice:?}");
    // The largest of what was taken: kept for later, and the driver has as little as before.
    all.remove(0);
    assert!((OVERHEAD..OVERHEAD + CODE).contains(&free(&cuda)));
    assert_eq!(gpu.to_vec(&gpu.add(&x, &x).unwrap()).unwrap(), [3.0; 64]);
}

#[test]
fn recordings_make_room_for_the_driver() {
    let _alone = ALONE.lock();
    emulator::emulate();
    let cuda = Cuda::new(0, Some(u64::MAX), false).unwrap();
    let gpu = GpuBackend::new(cuda.clone());
    let x = gpu.tensor(vec![1.5; 1 << 17], [1, 1, 1 << 7, 1 << 10]).unwrap();
    let repeated = gpu.repeated();
    let mut calls = 0;
    let mut run = || {
        gpu.repeat(&repeated, &[&x], &mut |xs| {
            calls += 1;
            Ok(vec![gpu.add(&xs[0], &xs[0])?])
        })
    };
    (0..3).for_each(|_| drop(run().unwrap()));
    cuda.trim().unwrap();
    // Room for a result, and for another module only where the recording gives its memory.
    let all = fill(&cuda, 2 << 17);
    let clamped = gpu.clamp(&x, 1.0).map(drop);
    drop(all);
    assert_eq!(clamped, Ok(()));
    run().unwrap();
    assert_eq!(calls, 3, "twice, and once more after the recording went");
}
