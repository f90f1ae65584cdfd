//! Values by key that are made once, by whoever asks first.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, OnceLock},
};

use parking_lot::{Mutex, RwLock};

use crate::error::Result;

/// A value that may still be to make.
struct Slot<V> {
    made: OnceLock<Arc<V>>,
    /// Held while it is made.
    making: Mutex<()>,
}

/// Values by key. Those of different keys are made at the same time, where different threads ask; nobody waits for another
/// key's.
pub struct Once<K, V>(RwLock<HashMap<K, Arc<Slot<V>>>>);

impl<K, V> Default for Once<K, V> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<K: Clone + Eq + Hash, V> Once<K, V> {
    /// The value of this key, made by the first call that succeeds.
    ///
    /// # Errors
    /// Those of `make`, which the next call tries again.
    pub fn get(&self, key: &K, make: impl FnOnce() -> Result<V>) -> Result<Arc<V>> {
        let found = self.0.read().get(key).cloned();
        let slot = found.unwrap_or_else(|| {
            let mut slots = self.0.write();
            let empty = || Arc::new(Slot { made: OnceLock::new(), making: Mutex::default() });
            slots.entry(key.clone()).or_insert_with(empty).clone()
        });
        if let Some(made) = slot.made.get() {
            return Ok(made.clone());
        }
        let _making = slot.making.lock();
        if let Some(made) = slot.made.get() {
            return Ok(made.clone());
        }
        let made = Arc::new(make()?);
        Ok(slot.made.get_or_init(|| made).clone())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            atomic::{AtomicU32, Ordering},
            mpsc,
        },
        time::Duration,
    };

    use super::*;
    use crate::error::Error;

    #[test]
    fn different_keys_are_made_at_the_same_time() {
        let once = Once::default();
        // Each is made only when the other is being made, too.
        let ends = [mpsc::channel(), mpsc::channel()];
        let [(to_a, from_b), (to_b, from_a)] = ends;
        std::thread::scope(|scope| {
            for (key, to, from) in [(1, to_b, from_b), (2, to_a, from_a)] {
                let once = &once;
                scope.spawn(move || {
                    let made = once.get(&key, || {
                        to.send(()).unwrap();
                        from.recv_timeout(Duration::from_secs(20)).expect("the other key's is being made");
                        Ok(key)
                    });
                    assert_eq!(*made.unwrap(), key);
                });
            }
        });
    }

    #[test]
    fn a_key_is_made_once_whoever_asks() {
        let (once, calls) = (Once::default(), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let make = || {
                        std::thread::sleep(Duration::from_millis(20));
                        Ok(calls.fetch_add(1, Ordering::Relaxed))
                    };
                    assert_eq!(*once.get(&"key", make).unwrap(), 0);
                });
            }
        });
        assert_eq!(calls.into_inner(), 1);
    }

    #[test]
    fn what_failed_is_tried_again() {
        let once = Once::default();
        assert_eq!(once.get(&1, || Err::<u32, _>(Error::NothingToConcat)), Err(Error::NothingToConcat));
        assert_eq!(once.get(&1, || Ok(2)), Ok(Arc::new(2)));
        assert_eq!(once.get(&1, || Ok(3)), Ok(Arc::new(2)));
    }
}
