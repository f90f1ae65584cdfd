//! The device, shared: whoever computes holds one of its lanes for one step (a tile), and the job with the highest priority, then
//! the oldest, goes next. A running job of lower priority so gives way within one tile.

pub mod backend;
mod lane;
pub mod room;

pub use backend::AnyBackend;
pub use lane::{Denoise, Ended, Lane, Watch};
pub use room::Room;

use std::{collections::BTreeMap, time::Duration};

use parking_lot::{Condvar, Mutex};
use reverie_crash::blame;

/// How often a waiting computation looks whether it was asked to stop.
const STOP_POLL: Duration = Duration::from_millis(20);

/// One device and those who wait for it.
pub struct Device {
    /// What to do where it is full.
    pub room: Room,
    lanes: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Lanes that are held.
    busy: usize,
    /// Waiting computations by ticket, with their priorities.
    waiting: BTreeMap<u64, i64>,
    next: u64,
}

/// A computation's place in line, kept over all of its steps: among equals the one that came first finishes first.
pub struct Ticket<'a> {
    device: &'a Device,
    number: u64,
}

/// The right to compute one step.
pub struct Lease<'a> {
    device: &'a Device,
    _on_device: blame::OnDevice,
}

impl Device {
    /// One on which so many compute at the same time.
    pub fn new(lanes: usize) -> Self {
        Self { room: Room::default(), lanes, state: Mutex::default(), changed: Condvar::new() }
    }

    pub fn ticket(&self) -> Ticket<'_> {
        let mut state = self.state.lock();
        state.next += 1;
        Ticket { device: self, number: state.next }
    }

    /// Whether its lock is given free within `patience`, as it is when nobody has died with it.
    pub fn answers(&self, patience: Duration) -> bool {
        self.state.try_lock_for(patience).is_some()
    }

    /// How many computations wait.
    pub fn waiting(&self) -> usize {
        self.state.lock().waiting.len()
    }
}

impl<'a> Ticket<'a> {
    pub fn device(&self) -> &'a Device {
        self.device
    }

    /// Blocks this thread until it is this computation's turn; none when `stop` says so first. `priority` is asked while
    /// waiting, since it can change.
    pub fn lease(&self, priority: impl Fn() -> i64, stop: impl Fn() -> bool) -> Option<Lease<'a>> {
        self.lease_unless(|| false, priority, stop)
    }

    /// The same, but it is never its turn while `yields` says so.
    pub fn lease_unless(
        &self,
        yields: impl Fn() -> bool,
        priority: impl Fn() -> i64,
        stop: impl Fn() -> bool,
    ) -> Option<Lease<'a>> {
        let device = self.device;
        let mut state = device.state.lock();
        loop {
            if stop() {
                state.waiting.remove(&self.number);
                device.changed.notify_all();
                return None;
            }
            if yields() {
                // Not among those who wait either: nobody is to wait for its turn.
                if state.waiting.remove(&self.number).is_some() {
                    device.changed.notify_all();
                }
                device.changed.wait_for(&mut state, STOP_POLL);
                continue;
            }
            state.waiting.insert(self.number, priority());
            let first = state.waiting.iter().min_by_key(|(number, priority)| (-**priority, **number));
            if state.busy < device.lanes && first.is_some_and(|(number, _)| *number == self.number) {
                state.waiting.remove(&self.number);
                state.busy += 1;
                // Another lane may be free for whoever is first now.
                device.changed.notify_all();
                return Some(Lease { device, _on_device: blame::on_device() });
            }
            device.changed.wait_for(&mut state, STOP_POLL);
        }
    }
}

impl Drop for Ticket<'_> {
    /// Also by a panic of what was asked while it waited: nobody is to wait for its turn.
    fn drop(&mut self) {
        if self.device.state.lock().waiting.remove(&self.number).is_some() {
            self.device.changed.notify_all();
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.device.state.lock().busy -= 1;
        self.device.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    };

    use super::*;

    #[test]
    fn higher_priority_goes_next_and_equals_keep_their_order() {
        let device = Arc::new(Device::new(1));
        let held = device.ticket();
        let lease = held.lease(|| 0, || false).unwrap();
        let (order, finished) = mpsc::channel();
        let mut threads = Vec::new();
        for (name, priority) in [("first", 0), ("second", 0), ("urgent", 5)] {
            let (device, order) = (device.clone(), order.clone());
            let before = device.waiting();
            let own = device.clone();
            threads.push(std::thread::spawn(move || {
                let ticket = own.ticket();
                let _lease = ticket.lease(|| priority, || false).unwrap();
                order.send(name).unwrap();
            }));
            while device.waiting() == before {
                std::thread::yield_now();
            }
        }
        drop(lease);
        for thread in threads {
            thread.join().unwrap();
        }
        drop(order);
        assert_eq!(finished.iter().collect::<Vec<_>>(), ["urgent", "first", "second"]);
    }

    #[test]
    fn who_yields_waits_without_being_waited_for() {
        let device = Arc::new(Device::new(1));
        let yields = Arc::new(AtomicBool::new(true));
        let (own, told) = (device.clone(), yields.clone());
        let background = std::thread::spawn(move || {
            let ticket = own.ticket();
            ticket.lease_unless(|| told.load(Ordering::Relaxed), || 100, || false).is_some()
        });
        std::thread::sleep(STOP_POLL);
        for _ in 0..3 {
            assert!(device.ticket().lease(|| 0, || false).is_some());
            assert_eq!(device.waiting(), 0);
        }
        yields.store(false, Ordering::Relaxed);
        assert!(background.join().unwrap());
    }

    #[test]
    fn as_many_compute_at_once_as_there_are_lanes() {
        let device = Device::new(2);
        let leases = [(); 2].map(|()| device.ticket().lease(|| 0, || false).unwrap());
        let asked = std::cell::Cell::new(0);
        let stop = || asked.replace(asked.get() + 1) == 2;
        assert!(device.ticket().lease(|| 9, stop).is_none(), "both are held");
        let [first, _second] = leases;
        drop(first);
        assert!(device.ticket().lease(|| 0, || false).is_some());
    }

    #[test]
    fn a_stopped_wait_leaves_the_line() {
        let device = Device::new(1);
        let ticket = device.ticket();
        let _lease = ticket.lease(|| 0, || false).unwrap();
        assert!(device.ticket().lease(|| 0, || true).is_none());
        assert_eq!(device.waiting(), 0);
    }
}
