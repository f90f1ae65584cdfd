//! The GPU backend on an NVIDIA GPU, at the shapes of real models, against the CPU backend; and the device's memory, transfers
//! and errors. Without a GPU every test says that it was skipped.

#[path = "../common/mod.rs"]
mod common;
mod device;
#[path = "../common/device.rs"]
mod found;
mod operations;

use found::{cuda, open};
use reverie_kernels::Shape;

/// A tensor and how often it is halved for the device to be busy while other lanes go on.
const LONG: (Shape, usize) = ([1, 320, 64, 64], 200);
