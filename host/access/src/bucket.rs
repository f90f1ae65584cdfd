//! A token bucket.

use std::time::{Duration, Instant};

/// Lets `burst` through at once, and one more in each `1 / rate` seconds.
#[derive(Debug, Clone)]
pub struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    pub fn full(burst: f64, now: Instant) -> Self {
        Self { left: burst, at: now }
    }

    fn refill(&mut self, burst: f64, rate: f64, now: Instant) {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + since * rate).min(burst);
        self.at = now;
    }

    /// How much is in it now.
    pub fn level(&mut self, burst: f64, rate: f64, now: Instant) -> f64 {
        self.refill(burst, rate, now);
        self.left
    }

    /// Takes one out.
    ///
    /// # Errors
    /// How long it takes until there is one.
    pub fn take(&mut self, burst: f64, rate: f64, now: Instant) -> Result<(), Duration> {
        self.refill(burst, rate, now);
        if self.left >= 1.0 {
            self.left -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64(((1.0 - self.left) / rate).min(86400.0)))
    }
}
