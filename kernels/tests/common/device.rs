//! The NVIDIA GPU that tests have, if there is one.

use std::io::Write as _;

use reverie_kernels::gpu::cuda::Cuda;

/// The first GPU with so much memory, or nine tenths of what is free; none where there is none, or one that is too old, and a failure
/// if it does not work.
pub fn cuda(budget: Option<u64>) -> Option<Cuda> {
    open(budget, false)
}

/// With `wgmma`, none where the GPU has no such instructions.
pub fn open(budget: Option<u64>, wgmma: bool) -> Option<Cuda> {
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
