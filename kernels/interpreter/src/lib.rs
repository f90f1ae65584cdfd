//! An interpreter of the part of PTX that Reverie's kernels are written in.
//!
//! It parses the very files that ship, and runs grids of blocks of warps: predication, divergence and reconvergence, shared
//! memory, barriers, shuffles, `mma.sync`, `ldmatrix`, `cp.async`, atomics, and fp16 rounding; of sm_90a, mbarriers, copies by
//! tensor map, and `wgmma`. What a GPU lets pass or merely
//! gets wrong now and then is an error here, with the line of the file, the block and the thread: accesses out of bounds and
//! misaligned ones, reads of what nobody wrote, two threads at one byte without a barrier between, barriers that not all
//! threads reach, and writes that another thread of the grid overwrites.
//!
//! Semantics are those of NVIDIA's "Parallel Thread Execution ISA"; section names in comments are its. Approximate
//! instructions (`ex2.approx`, `rsqrt.approx`) are computed more exactly than a device does.
//!
//! ```
//! use reverie_ptx::{Arg, Launch, Memory, Module};
//!
//! let module = Module::parse(
//!     ".version 7.0
//!      .target sm_80
//!      .address_size 64
//!      .visible .entry double(.param .u64 out) {
//!          .reg .u32 %i, %twice;
//!          .reg .u64 %to, %offset;
//!          mov.u32 %i, %tid.x;
//!          add.u32 %twice, %i, %i;
//!          ld.param.u64 %to, [out];
//!          mul.wide.u32 %offset, %i, 4;
//!          add.u64 %to, %to, %offset;
//!          st.global.u32 [%to], %twice;
//!          ret;
//!      }",
//! )?;
//! let mut memory = Memory::default();
//! let out = memory.allocate(4 * 4);
//! Launch { kernel: "double", grid: [1, 1, 1], block: [4, 1, 1], dynamic_shared: 0 }.run(&module, &memory, &[out.into()])?;
//! assert_eq!(memory.read::<u32>(out)?, [0, 2, 4, 6]);
//! # Ok::<(), reverie_ptx::Error>(())
//! ```
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod error;
mod instruction;
mod machine;
mod parse;

pub use error::{Error, Result};
pub use machine::{Arg, Buffer, Element, Launch, Memory, Statistics, TensorMap};
pub use parse::{Kernel, Module};
