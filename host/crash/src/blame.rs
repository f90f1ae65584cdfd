//! Which jobs each thread works for, and which are on the device: what a crash is blamed on. Kept where a signal handler can
//! read it, in a table of atomics and a number of each thread.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    marker::PhantomData,
    pin::pin,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use uuid::Uuid;

/// Jobs that are worked for at the same time. Of more, some are blamed for nothing.
const SLOTS: usize = 128;

/// A thread that nobody told whom it works for: of the device's libraries, which compute for whatever is on the device.
const OF_THE_DEVICE: u64 = 0;
/// A thread of the server that works for no job.
const OWN: u64 = u64::MAX;

thread_local! {
    /// The group of jobs that the thread works for.
    static GROUP: Cell<u64> = const { Cell::new(OF_THE_DEVICE) };
}

static NEXT: AtomicU64 = AtomicU64::new(1);

struct Slot {
    taken: AtomicBool,
    /// 0 while it is free or being filled.
    group: AtomicU64,
    job: [AtomicU64; 2],
    on_device: AtomicBool,
}

static TABLE: [Slot; SLOTS] = [const {
    Slot {
        taken: AtomicBool::new(false),
        group: AtomicU64::new(0),
        job: [AtomicU64::new(0), AtomicU64::new(0)],
        on_device: AtomicBool::new(false),
    }
}; SLOTS];

/// Says that this thread is one of the server: what it does outside of jobs is no job's fault.
pub fn own_thread() {
    GROUP.set(OWN);
}

/// For as long as it is kept, and on this thread, the thread works for these jobs alone. Those that are begun later end
/// earlier.
#[must_use]
pub struct Working {
    group: u64,
    before: u64,
    /// It must not leave the thread.
    _thread: PhantomData<*const ()>,
}

/// See [`Working`].
pub fn working_for(jobs: impl IntoIterator<Item = Uuid>) -> Working {
    let group = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut free = TABLE.iter().filter(|slot| !slot.taken.swap(true, Ordering::Acquire));
    for job in jobs {
        let Some(slot) = free.next() else { break };
        let (high, low) = job.as_u64_pair();
        slot.job[0].store(high, Ordering::Relaxed);
        slot.job[1].store(low, Ordering::Relaxed);
        slot.on_device.store(false, Ordering::Relaxed);
        slot.group.store(group, Ordering::Release);
    }
    Working { group, before: GROUP.replace(group), _thread: PhantomData }
}

impl Drop for Working {
    fn drop(&mut self) {
        GROUP.set(self.before);
        for slot in of_group(self.group) {
            slot.group.store(0, Ordering::Relaxed);
            slot.taken.store(false, Ordering::Release);
        }
    }
}

/// For as long as it is kept, the jobs that its thread worked for when it was made are on the device.
#[must_use]
pub struct OnDevice(u64);

/// See [`OnDevice`].
pub fn on_device() -> OnDevice {
    let group = GROUP.get();
    of_group(group).for_each(|slot| slot.on_device.store(true, Ordering::Relaxed));
    OnDevice(group)
}

impl Drop for OnDevice {
    fn drop(&mut self) {
        of_group(self.0).for_each(|slot| slot.on_device.store(false, Ordering::Relaxed));
    }
}

/// Does `work` for a job, whichever threads it runs on.
pub async fn attributed<T>(job: Uuid, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    poll_fn(|context| {
        let _working = working_for([job]);
        work.as_mut().poll(context)
    })
    .await
}

fn of_group(group: u64) -> impl Iterator<Item = &'static Slot> {
    let is_group = group != OF_THE_DEVICE && group != OWN;
    TABLE.iter().filter(move |slot| is_group && slot.group.load(Ordering::Acquire) == group)
}

/// Tells the jobs that a crash of this thread is blamed on; whether because they are on the device, and not because the thread
/// works for them. Neither allocates nor locks.
pub(crate) fn blamed(mut tell: impl FnMut(Uuid)) -> bool {
    let own = GROUP.get();
    let by_device = own == OF_THE_DEVICE;
    for slot in &TABLE {
        let group = slot.group.load(Ordering::Acquire);
        let meant = if by_device { slot.on_device.load(Ordering::Relaxed) } else { group == own };
        if group != 0 && meant {
            let [high, low] = &slot.job;
            tell(Uuid::from_u64_pair(high.load(Ordering::Relaxed), low.load(Ordering::Relaxed)));
        }
    }
    by_device
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told() -> (bool, Vec<Uuid>) {
        let mut jobs = Vec::new();
        let by_device = blamed(|job| jobs.push(job));
        (by_device, jobs)
    }

    fn elsewhere() -> (bool, Vec<Uuid>) {
        std::thread::spawn(told).join().unwrap()
    }

    // One test, as the table is the process's.
    #[test]
    fn a_thread_is_blamed_for_its_own_jobs_and_others_for_those_on_the_device() {
        let [a, b, c] = [1, 2, 3].map(Uuid::from_u128);
        assert_eq!(told(), (true, vec![]), "nobody said anything");
        own_thread();
        let first = working_for([a]);
        assert_eq!(told(), (false, vec![a]));
        assert_eq!(elsewhere(), (true, vec![]), "it is not on the device");
        let leased = on_device();
        assert_eq!(elsewhere(), (true, vec![a]));
        {
            // As the leader of a batch.
            let _batch = working_for([b, c]);
            assert_eq!(told(), (false, vec![b, c]));
            let lease = on_device();
            assert_eq!(elsewhere().1.len(), 3);
            drop(lease);
            assert_eq!(elsewhere(), (true, vec![a]));
            let _nobody = working_for([]);
            assert_eq!(told(), (false, vec![]), "it works for none of them");
        }
        assert_eq!(told(), (false, vec![a]), "as before");
        drop(leased);
        assert_eq!(elsewhere(), (true, vec![]));
        drop(first);
        assert_eq!(told(), (false, vec![]), "a thread of the server");
        let _lease = on_device();
        assert_eq!(elsewhere(), (true, vec![]), "of no job");

        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let job = attributed(a, async {
                tokio::task::yield_now().await;
                told()
            });
            let other = async {
                tokio::task::yield_now().await;
                told()
            };
            assert_eq!(tokio::join!(job, other), ((false, vec![a]), (false, vec![])));
        });

        let many: Vec<Uuid> = (1..=SLOTS as u128 + 9).map(Uuid::from_u128).collect();
        let working = working_for(many.iter().copied());
        assert_eq!(told().1, many[..SLOTS]);
        drop(working);
        assert!(TABLE.iter().all(|slot| !slot.taken.load(Ordering::Relaxed)), "all are given back");
    }
}
