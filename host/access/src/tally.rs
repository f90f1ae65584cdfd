//! What owners have used of their keys' limits.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use parking_lot::Mutex;

/// Seconds of a day.
const DAY: f64 = 86400.0;
/// Pictures are counted together within so many seconds.
const GRAIN: f64 = 60.0;

/// Pixels of the pictures that each tenant made within the last 24 hours.
#[derive(Default)]
pub struct Pixels {
    made: Mutex<HashMap<String, VecDeque<(f64, u64)>>>,
}

impl Pixels {
    /// Takes note of a picture made at `now`, in unix seconds.
    pub fn made(&self, tenant: &str, pixels: u64, now: f64) {
        let mut made = self.made.lock();
        let entries = made.entry(tenant.to_owned()).or_default();
        match entries.back_mut() {
            Some((at, sum)) if now - *at < GRAIN => *sum = sum.saturating_add(pixels),
            _ => entries.push_back((now, pixels)),
        }
        while entries.front().is_some_and(|(at, _)| now - at >= DAY) {
            entries.pop_front();
        }
    }

    /// How many there were in the 24 hours before `now`.
    pub fn of(&self, tenant: &str, now: f64) -> u64 {
        let made = self.made.lock();
        let entries = made.get(tenant).into_iter().flatten();
        entries.filter(|(at, _)| now - at < DAY).fold(0, |sum, (_, pixels)| sum.saturating_add(*pixels))
    }
}

/// Jobs that are being accepted, by tenant: together with those that wait they are never more than the limit.
#[derive(Default)]
pub struct Queue {
    coming: Mutex<HashMap<String, u64>>,
}

/// A place among the jobs that wait, until the job has one itself.
pub struct Queued {
    queue: Arc<Queue>,
    tenant: String,
}

impl Queue {
    /// A place, where fewer than `limit` are taken. `waiting` tells how many jobs of the tenant wait.
    ///
    /// # Errors
    /// How many there are.
    pub fn take(
        self: &Arc<Self>,
        tenant: &str,
        limit: u64,
        waiting: impl Fn() -> u64,
    ) -> Result<Queued, u64> {
        let mut coming = self.coming.lock();
        let taken = waiting() + coming.get(tenant).copied().unwrap_or(0);
        if taken >= limit {
            return Err(taken);
        }
        *coming.entry(tenant.to_owned()).or_default() += 1;
        Ok(Queued { queue: self.clone(), tenant: tenant.to_owned() })
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        let mut coming = self.queue.coming.lock();
        if let Some(count) = coming.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                coming.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_count_for_a_day() {
        let pixels = Pixels::default();
        pixels.made("a", 10, 0.0);
        pixels.made("a", 5, 30.0);
        pixels.made("a", 7, 1000.0);
        assert_eq!((pixels.of("a", 1000.0), pixels.of("b", 1000.0)), (22, 0));
        assert_eq!(pixels.of("a", DAY + 1.0), 7);
        pixels.made("a", u64::MAX, DAY + 2000.0);
        assert_eq!(pixels.of("a", DAY + 2000.0), u64::MAX);
        assert_eq!(pixels.made.lock()["a"].len(), 1);
    }

    #[test]
    fn places_are_given_back() {
        let queue = Arc::new(Queue::default());
        let one = queue.take("a", 2, || 0).map_err(drop).unwrap();
        let _two = queue.take("a", 2, || 0).map_err(drop).unwrap();
        assert_eq!(queue.take("a", 2, || 0).err(), Some(2));
        let _other = queue.take("b", 2, || 1).map_err(drop).unwrap();
        drop(one);
        assert_eq!(queue.take("a", 2, || 1).err(), Some(2));
        assert!(queue.take("a", 2, || 0).is_ok());
    }
}
