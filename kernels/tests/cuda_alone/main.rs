//! The tests on an NVIDIA GPU that take all of its memory or lose it: each in a process of its own, one after another, and, as cargo
//! runs one test binary at a time, beside no others. Without a GPU every test says that it was skipped.

#[path = "../common/device.rs"]
mod device;
mod exclusive;

use device::cuda;
