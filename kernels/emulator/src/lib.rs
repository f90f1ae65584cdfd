//! The part of the CUDA driver's API that Reverie uses, without a GPU: a `libcuda.so` for tests, whose kernels run in the PTX
//! interpreter.
//!
//! What a stream is given runs as late as the driver's rules allow: when somebody waits for it, or for an event behind it. A
//! wait that is missing so shows each time, and not only now and then: the other stream's work has certainly not run yet, and
//! pinned memory is read and written at the very last moment.
//!
//! What a driver lets pass or leaves undefined ends the process with a message: freeing memory that pending work uses,
//! destroying a graph that is still to run, copies from memory that is not pinned, and contexts that are left with
//! something in them. A fault of a kernel, such as an access out of bounds, loses the device, as it does on a GPU.
//!
//! It is one device of compute capability 9.0 with [`MEMORY`] bytes. Modules and graphs take [`OVERHEAD`] bytes of
//! those each, and the functions of a module [`CODE`] bytes when they are asked for, as in a driver that loads lazily: so it
//! also shows what happens where there is nothing left for them.
#![warn(missing_docs)]

mod context;
mod graph;
mod launch;
mod memory;
mod occupancy;
mod state;
mod stream;

/// Bytes of the device's memory.
pub const MEMORY: usize = 192 << 20;

/// Bytes that the driver takes for a module, and for a graph.
pub const OVERHEAD: usize = 64 << 10;

/// Bytes that the driver takes for a function.
pub const CODE: usize = 16 << 10;

/// Ends the process: what was done has no defined result with a real driver.
pub(crate) fn refuse(what: &str) -> ! {
    eprintln!("emulated CUDA driver: {what}");
    std::process::abort()
}
