//! What the tensor cores do at best. Nothing that models need: what operations are fast beside it shows.

use crate::error::Result;
use crate::gpu::{Arg, Device, GpuBackend, Launch, Variant};

/// Threads of a block.
const THREADS: u32 = 256;

/// Products of a warp that do not wait for one another.
const CHAINS: i64 = 8;

/// Products of each chain in a round.
const UNROLLED: i64 = 4;

/// Multiplications and additions of m16n8k16.
const OPERATIONS: u64 = 2 * 16 * 8 * 16;

pub(in crate::gpu) fn variants() -> Vec<Variant> {
    vec![variant()]
}

fn variant() -> Variant {
    Variant::new("ceiling", &[("CHAINS", CHAINS), ("UNROLLED", UNROLLED)])
}

/// Matrix products out of registers by `mma`, fp16 with sums in fp32: as many rounds in each of so many blocks of 256 threads.
/// The result has an fp32 sum for each thread.
///
/// # Errors
/// [`Error::OutOfMemory`](crate::Error::OutOfMemory), [`Error::Device`](crate::Error::Device).
pub fn products<D: Device>(gpu: &GpuBackend<D>, blocks: u32, rounds: u32) -> Result<D::Buffer> {
    let (blocks, rounds) = (blocks.max(1), rounds.max(1));
    let out = gpu.allocate(4 * THREADS as usize * blocks as usize)?;
    let launch = Launch { grid: [blocks, 1, 1], block: THREADS, shared: 0 };
    gpu.launch(&variant(), "products", launch, &[Arg::Buffer(&out), Arg::U32(rounds)])?;
    Ok(out)
}

/// Floating-point operations of [`products`].
pub fn operations(blocks: u32, rounds: u32) -> u64 {
    let warps = u64::from(blocks.max(1)) * u64::from(THREADS / 32);
    warps * u64::from(rounds.max(1)) * (CHAINS * UNROLLED) as u64 * OPERATIONS
}
