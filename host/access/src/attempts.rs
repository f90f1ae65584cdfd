//! Wrong tokens, by the address that they come from.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::bucket::Bucket;

/// Wrong tokens that an address has at once, and one more in so many seconds.
const BURST: f64 = 20.0;
const RATE: f64 = 1.0 / 6.0;
/// Addresses that are remembered.
const MAX_ADDRESSES: usize = 4096;

/// Who has sent wrong tokens, of bounded size.
#[derive(Default)]
pub struct Attempts {
    buckets: Mutex<HashMap<IpAddr, Bucket>>,
}

impl Attempts {
    /// Whether an address may try a token that can be guessed.
    ///
    /// # Errors
    /// How long it has to wait.
    pub fn check(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let mut buckets = self.buckets.lock();
        let Some(bucket) = buckets.get_mut(&network(address)) else { return Ok(()) };
        // Looked at, not taken.
        match bucket.clone().take(BURST, RATE, now) {
            Ok(()) => Ok(()),
            Err(wait) => Err(wait),
        }
    }

    /// Takes note of a wrong token.
    pub fn failed(&self, address: IpAddr, now: Instant) {
        let mut buckets = self.buckets.lock();
        let address = network(address);
        if !buckets.contains_key(&address) && buckets.len() >= MAX_ADDRESSES {
            buckets.retain(|_, bucket| bucket.level(BURST, RATE, now) < BURST);
            // All tried lately: whoever tried the least goes.
            let level = |bucket: &Bucket| bucket.clone().level(BURST, RATE, now);
            if buckets.len() >= MAX_ADDRESSES
                && let Some(least) = buckets.iter().max_by(|a, b| level(a.1).total_cmp(&level(b.1)))
            {
                let least = *least.0;
                buckets.remove(&least);
            }
        }
        let bucket = buckets.entry(address).or_insert_with(|| Bucket::full(BURST, now));
        let _ = bucket.take(BURST, RATE, now);
    }

    /// How many addresses are remembered.
    pub fn len(&self) -> usize {
        self.buckets.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What one customer has of addresses: all of a /64 of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(six) => match six.to_ipv4_mapped() {
            Some(four) => four.into(),
            None => std::net::Ipv6Addr::from_bits(six.to_bits() & (u128::MAX << 64)).into(),
        },
        four => four,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_slowed_down_and_others_are_not() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        let (one, other): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        for _ in 0..20 {
            attempts.check(one, now).unwrap();
            attempts.failed(one, now);
        }
        let wait = attempts.check(one, now).unwrap_err();
        assert!((5.9..6.1).contains(&wait.as_secs_f64()), "{wait:?}");
        attempts.check(other, now).unwrap();
        attempts.check("::ffff:10.0.0.1".parse().unwrap(), now).unwrap_err();
        attempts.check(one, now + Duration::from_secs(7)).unwrap();
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        for i in 0..20u128 {
            attempts.failed(std::net::Ipv6Addr::from_bits((0x2001_0db8 << 96) + i).into(), now);
        }
        attempts.check("2001:db8::ffff".parse().unwrap(), now).unwrap_err();
        attempts.check("2001:db8:0:1::1".parse().unwrap(), now).unwrap();
        assert_eq!(attempts.len(), 1);
    }

    #[test]
    fn the_table_is_bounded_and_keeps_the_worst() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        let worst: IpAddr = "192.0.2.1".parse().unwrap();
        (0..20).for_each(|_| attempts.failed(worst, now));
        for i in 0..2 * MAX_ADDRESSES as u32 {
            attempts.failed(std::net::Ipv4Addr::from_bits(0x0a00_0000 + i).into(), now);
        }
        assert_eq!(attempts.len(), MAX_ADDRESSES);
        attempts.check(worst, now).unwrap_err();
    }
}
