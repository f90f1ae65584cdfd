//! Tensor operations for image generation and restoration.
//!
//! [`Backend`] names the operations that the models need; [`cpu::CpuBackend`] carries them out on any CPU
//! (AVX-512, AVX2 or portable code, chosen at run time). Nothing here knows what a network is: a model is
//! written once against the trait and runs on every backend.
//!
//! ```
//! use reverie_kernels::{Activation, Backend, Conv2dDesc, cpu::CpuBackend};
//!
//! # fn main() -> reverie_kernels::Result<()> {
//! let cpu = CpuBackend::new(1);
//! let image = cpu.tensor(vec![1.0; 3 * 8 * 8], [1, 3, 8, 8])?;
//! let desc = Conv2dDesc { in_channels: 3, out_channels: 4, kernel: 3, stride: 1, padding: 1 };
//! let conv = cpu.prepare_conv2d(desc, &[0.1; 4 * 3 * 9], None, Activation::LeakyRelu(0.2))?;
//! let features = cpu.conv2d(&image, &conv)?;
//! let larger = cpu.pixel_shuffle(&features, 2)?;
//! assert_eq!(cpu.shape(&larger), [1, 1, 16, 16]);
//! # Ok(())
//! # }
//! ```
#![deny(unsafe_code)]
#![warn(missing_docs)]

mod backend;
mod checks;
pub mod cpu;
mod either;
mod error;
pub mod gpu;
mod numerics;
pub mod nvml;
mod taps;
mod weight;

pub use backend::{
    Activation, Backend, Conv2dDesc, Filter, Mask, PixelRange, Rows, Shape, Timesteps, Unary, Work,
};
pub use either::Either;
pub use error::{Error, Result};
pub use numerics::{NotFinite, Numerics};
pub use weight::{Format, Weight};
