//! Examines an NVIDIA GPU: what the kernels compile to there, whether their results are right, and how fast they are.
//!
//! `reverie doctor` prints what it finds, the kit for GPU machines writes it to files, and the tests of the kernels hold the same
//! cases against the CPU. All of it runs on the emulated driver too.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod correctness;
pub mod mismatch;
pub mod modules;
pub mod noise;
pub mod probe;
pub mod sinusoids;
pub mod speed;
