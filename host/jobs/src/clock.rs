//! Time, as something that a test can turn.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

pub trait Clock: Send + Sync {
    /// Unix seconds, for people to read. They may jump.
    fn unix(&self) -> f64;
    /// Seconds since this clock was made, which never jump. What is kept for a time is kept by them.
    fn elapsed(&self) -> f64;
}

/// The machine's.
pub struct Machine(Instant);

impl Default for Machine {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for Machine {
    fn unix(&self) -> f64 {
        now()
    }

    fn elapsed(&self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }
}

/// Unix seconds.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |t| t.as_secs_f64())
}
