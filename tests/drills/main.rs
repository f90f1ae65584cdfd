//! Drills: the server as operators run it, and what goes wrong around it. Each drill is one command,
//!
//! ```text
//! cargo test --workspace --test drills -- NAME --nocapture
//! ```
//!
//! and lasts seconds; longer with `REVERIE_DRILL_SECONDS`, with the same random numbers again with `REVERIE_DRILL_SEED`.
//! OPERATIONS.md says what each fault looks like to an operator, and what it costs.
#![cfg(target_os = "linux")]

mod backup;
mod damage;
mod disk_and_clock;
mod drill;
mod fleet;
mod folders;
mod full_disk;
mod inside;
mod line;
mod memory;
mod model;
mod process;
mod read_only;
mod records;
mod storm;
mod two_processes;
