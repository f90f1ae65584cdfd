//! Jobs: accepted once, never forgotten. A job is in the [`store`] before its acknowledgement leaves, and so is its end before
//! anybody hears of it. Every change of it is published through one hook, from whichever thread makes the change.

#![forbid(unsafe_code)]

mod clock;
mod config;
mod described;
mod detail;
pub mod error;
mod handle;
mod jobs;
mod record;
mod refused;
mod reservation;
mod retention;
mod state;
pub mod store;
mod sweep;
mod weight;

use std::time::Duration;

use serde_json::{Map, Value};

pub use clock::{Clock, Machine, now};
pub use config::Config;
pub use described::Described;
pub use detail::MAX_DETAIL;
use error::Error;
pub use handle::JobHandle;
pub use jobs::{Given, Jobs, Submitted, check_key, check_priority, unknown};
pub use record::{Output, Snapshot, Spec, Status};
pub use store::{Content, Health, Input, Inspected, Object, Record, inspect};

/// The range of `priority`; 0 unless given, higher runs first.
pub const PRIORITIES: std::ops::RangeInclusive<i64> = -100..=100;

/// Characters of an idempotency key.
pub const MAX_KEY: usize = 128;

/// A change of a job that clients hear of.
#[derive(Debug, Clone)]
pub enum Event {
    /// Any mutation.
    Progress(Snapshot),
    /// The end; preceded by a last `Progress`.
    Finished {
        job: Snapshot,
        /// How long it ran, if it was started.
        ran: Option<Duration>,
    },
}

/// How a job ended.
#[derive(Debug, Clone)]
pub enum Outcome {
    Done {
        outputs: Vec<Output>,
        meta: Map<String, Value>,
    },
    Failed(Error),
    Cancelled,
    /// Not ended: back into the queue.
    Requeued,
}

/// What a worker asks before it takes a job: whether this one may start now, given a way to count those that run.
pub type MayStart<'a> = &'a (dyn Fn(&Spec, Running<'_>) -> bool + Send + Sync);

/// Counts the running jobs that a condition fits.
pub type Running<'a> = &'a dyn Fn(&dyn Fn(&Spec) -> bool) -> usize;
