//! What the driver makes of each kernel.

use serde::Serialize;

/// An entry of a variant, as the driver compiled it.
#[derive(Debug, Clone, Serialize)]
pub struct Module {
    /// The file and its constants, such as `gemm BM=128 BN=64`.
    pub variant: String,
    /// The name of the kernel.
    pub entry: String,
    /// Milliseconds that the driver took for the variant.
    pub compile_ms: f32,
    /// 32-bit registers of a thread.
    pub registers: u32,
    /// Bytes of local memory of a thread: what did not fit into registers.
    pub local_bytes: u32,
    /// Bytes of shared memory of a block, static and dynamic.
    pub shared_bytes: u32,
    /// Threads of a block.
    pub threads: u32,
    /// Blocks that a multiprocessor runs at a time.
    pub blocks_per_multiprocessor: u32,
    /// Why the driver refused it; the figures are 0 then.
    pub error: Option<String>,
}
