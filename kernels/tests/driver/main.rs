//! What the GPU backend asks of the driver beyond memory, transfers and lanes, on the emulated one: compiling, and the time
//! of launches.
#![cfg(target_os = "linux")]

#[path = "../common/emulator.rs"]
mod emulator;
mod trace;
mod warm;
