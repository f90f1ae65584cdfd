//! The GPU backend on an NVIDIA GPU, at the shapes of real models, against the CPU backend; and the device's memory, transfers
//! and errors. Without a GPU every test says that it was skipped.

#[path = "../common/mod.rs"]
mod common;
mod device;
mod operations;

use std::{io::Write as _, sync::OnceLock};

use common::{Plain, assert_close, len};
use reverie_kernels::{
    Backend, Either, Result, Shape,
    cpu::CpuBackend,
    gpu::{GpuBackend, cuda::Cuda},
};

/// A tensor and how often it is halved for the device to be busy while other lanes go on.
const LONG: (Shape, usize) = ([1, 320, 64, 64], 200);

type Any = Either<CpuBackend, GpuBackend<Cuda>>;
type Tensor = <Any as Backend>::Tensor;

/// The first GPU with so much memory; none where there is none, or one that is too old, and a failure if it does not work.
fn cuda(budget: Option<u64>) -> Option<Cuda> {
    open(budget, false)
}

/// With `wgmma`, none where the GPU has no such instructions.
fn open(budget: Option<u64>, wgmma: bool) -> Option<Cuda> {
    let error = match Cuda::count().map(|count| (count > 0).then(|| Cuda::new(0, budget, wgmma))) {
        Ok(Some(Ok(cuda))) => return Some(cuda),
        Ok(Some(Err(error))) if error.to_string().contains("compute capability") => error.to_string(),
        Ok(Some(Err(error))) => panic!("{error}"),
        Ok(None) => "no NVIDIA GPU".to_owned(),
        Err(error) => error.to_string(),
    };
    // Not by `eprintln!`, which is shown for tests that fail only.
    let _ = writeln!(std::io::stderr(), "skipped: {error}");
    None
}

/// The CPU, and the first GPU.
struct Pair([Any; 2]);

/// One for all tests, which run at the same time: that is tested, too.
fn pair() -> Option<&'static Pair> {
    static PAIR: OnceLock<Pair> = OnceLock::new();
    let gpu = cuda(None)?;
    let open = || Pair([Any::First(CpuBackend::new(0)), Any::Second(GpuBackend::new(gpu))]);
    Some(PAIR.get_or_init(open))
}

/// The CPU, and the first GPU with attention by `wgmma`.
fn pair_with_wgmma() -> Option<Pair> {
    let gpu = open(None, true)?;
    Some(Pair([Any::First(CpuBackend::new(0)), Any::Second(GpuBackend::new(gpu))]))
}

/// Noise that fp16 holds exactly: what differs then is the arithmetic.
fn noise(len: usize, scale: f32, seed: u64) -> Vec<f32> {
    let round = |value| half::f16::from_f32(value * scale).to_f32();
    common::noise(len, seed).into_iter().map(round).collect()
}

impl Pair {
    /// Runs `op` on noise of these shapes on both. `tolerance` is relative to the largest value; fp16 rounds by 4.9e-4 of a
    /// value at most.
    #[track_caller]
    fn compare(
        &self,
        what: &str,
        inputs: &[Shape],
        tolerance: f32,
        op: impl Fn(&Any, &[&Tensor]) -> Result<Tensor>,
    ) {
        let [expected, actual] = self.0.each_ref().map(|backend| {
            let tensor = |(i, shape): (usize, &Shape)| {
                backend.tensor(noise(len(*shape), 1.0, i as u64 + 1), *shape).unwrap()
            };
            let tensors: Vec<Tensor> = inputs.iter().enumerate().map(tensor).collect();
            let out = op(backend, &tensors.iter().collect::<Vec<_>>()).unwrap();
            Plain { shape: backend.shape(&out), data: backend.to_vec(&out).unwrap() }
        });
        assert_eq!(actual.shape, expected.shape, "{what}");
        assert_close(&actual.data, &expected, tolerance, what);
    }
}
