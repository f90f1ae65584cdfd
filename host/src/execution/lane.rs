//! Continuous batching: the pictures that one model makes take their steps together, whenever they began.
//!
//! Whoever waits for a picture brings a thread. One of them at a time leads: it chooses a batch, waits for the device, runs
//! the step, and tells the others. So a lone picture changes no threads, and a new one joins at the next step.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use reverie_crash::blame;
use reverie_models::{Error, denoise};
use uuid::Uuid;

use super::{AnyBackend, Device};

/// A picture on its way.
pub type Denoise = denoise::Denoise<AnyBackend>;

/// How often a waiting picture looks whether it was asked to stop.
const STOP_POLL: Duration = Duration::from_millis(20);

/// Who a picture is for.
pub trait Watch: Send + Sync {
    /// Higher goes first; it can change.
    fn priority(&self) -> i64;

    /// Whether it was asked to stop.
    fn stopped(&self) -> bool;

    /// Whether it has to wait, because it is of the background and somebody else is not.
    fn yields(&self) -> bool {
        false
    }

    /// Whether it is of the background: it shares no step with what is not, which would take longer for it.
    fn background(&self) -> bool {
        false
    }

    /// The job it is for, which is to blame where its step ends the process.
    fn job(&self) -> Option<Uuid> {
        None
    }

    /// Called once, at its end: for how long it was in no step.
    fn waited(&self, _time: Duration) {}

    /// Called after each of its steps, on the leader's thread.
    fn stepped(&self, picture: &Denoise);
}

/// Why a picture was not finished.
#[derive(Debug)]
pub enum Ended {
    Stopped,
    Failed(Error),
    /// The step panicked.
    Fault,
}

/// The pictures of one model.
#[derive(Default)]
pub struct Lane {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    entries: Vec<Entry>,
    stepping: bool,
    /// Counts entries and batches.
    clock: u64,
}

struct Entry {
    id: u64,
    /// When it was last in a batch: among equals who waited longest goes first.
    turn: u64,
    /// Away while it is in a batch.
    picture: Option<Denoise>,
    watch: Arc<dyn Watch>,
    /// A shared step of it failed: its next one is its own, so that it alone fails or goes on.
    alone: bool,
    /// What its steps took.
    computed: Duration,
    ended: Option<Result<(), Ended>>,
}

/// A step of all these pictures, in one call of the model.
pub type Step<'a> = &'a (dyn Fn(&mut [&mut Denoise]) -> Result<(), Error> + Sync);

impl Lane {
    /// Takes `picture` through all of its steps, in batches of at most `max_batch` with the other pictures of the lane.
    ///
    /// # Errors
    /// [`Ended`].
    pub fn run(
        &self,
        device: &Device,
        picture: Denoise,
        watch: Arc<dyn Watch>,
        max_batch: usize,
        step: Step<'_>,
    ) -> Result<Denoise, Ended> {
        let ticket = device.ticket();
        let (began, own) = (Instant::now(), watch.clone());
        let place = self.enter(picture, watch);
        let id = place.id;
        let mut state = self.state.lock();
        loop {
            state.end_stopped();
            if let Some((ended, computed)) = state.take_ended(id) {
                drop(state);
                own.waited(began.elapsed().saturating_sub(computed));
                return ended;
            }
            let mut batch = if state.stepping { Batch::new() } else { state.choose(max_batch) };
            if batch.is_empty() {
                self.changed.wait_for(&mut state, STOP_POLL);
                continue;
            }
            state.stepping = true;
            drop(state);

            let mut leased = Instant::now();
            // Whatever happens, the batch goes back to the others.
            let stepped = catch_unwind(AssertUnwindSafe(|| {
                let _working = blame::working_for(batch.iter().filter_map(|(_, _, watch)| watch.job()));
                let priority = || batch.iter().map(|(_, _, watch)| watch.priority()).max().unwrap_or(0);
                // A batch that has to wait goes back too: another one may be made of others meanwhile.
                let stopped = || batch.iter().any(|(_, _, watch)| watch.stopped() || watch.yields());
                let Some(lease) = ticket.lease(priority, stopped) else { return Ok(false) };
                leased = Instant::now();
                let mut pictures: Vec<&mut Denoise> =
                    batch.iter_mut().map(|(_, picture, _)| picture).collect();
                step(&mut pictures)?;
                drop(lease);
                batch.iter().for_each(|(_, picture, watch)| watch.stepped(picture));
                Ok(true)
            }));
            let stepped = match stepped {
                Ok(Ok(false)) => None,
                Ok(Ok(true)) => Some(Ok(())),
                Ok(Err(error)) => Some(Err(Some(error))),
                Err(_) => Some(Err(None)),
            };
            state = self.state.lock();
            state.stepping = false;
            state.put_back(batch, stepped, leased.elapsed());
            self.changed.notify_all();
        }
    }

    /// Whether its lock is given free within `patience`, as it is when nobody has died with it.
    pub fn answers(&self, patience: Duration) -> bool {
        self.state.try_lock_for(patience).is_some()
    }

    fn enter(&self, picture: Denoise, watch: Arc<dyn Watch>) -> Place<'_> {
        let mut state = self.state.lock();
        state.clock += 1;
        let (id, turn) = (state.clock, state.clock);
        state.entries.push(Entry {
            id,
            turn,
            picture: Some(picture),
            watch,
            alone: false,
            computed: Duration::ZERO,
            ended: None,
        });
        Place { lane: self, id }
    }
}

/// A picture's entry, for as long as its thread is there: a panic of a [`Watch`] ends the one thread that met it.
struct Place<'a> {
    lane: &'a Lane,
    id: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.lane.state.lock().entries.retain(|entry| entry.id != self.id);
        self.lane.changed.notify_all();
    }
}

impl Entry {
    /// Whether it may share a step with `first`.
    fn fits(&self, first: &Self) -> bool {
        let pictures = self.picture.as_ref().zip(first.picture.as_ref());
        !self.alone
            && self.watch.background() == first.watch.background()
            && pictures.is_some_and(|(picture, first)| picture.fits(first))
    }
}

type Batch = Vec<(u64, Denoise, Arc<dyn Watch>)>;

impl State {
    fn end_stopped(&mut self) {
        for entry in &mut self.entries {
            if entry.ended.is_none() && entry.picture.is_some() && entry.watch.stopped() {
                entry.ended = Some(Err(Ended::Stopped));
            }
        }
    }

    fn take_ended(&mut self, id: u64) -> Option<(Result<Denoise, Ended>, Duration)> {
        let at = self.entries.iter().position(|entry| entry.id == id && entry.ended.is_some())?;
        let entry = self.entries.swap_remove(at);
        let (picture, computed) = (entry.picture?, entry.computed);
        entry.ended.map(|ended| (ended.map(|()| picture), computed))
    }

    /// The most urgent picture, and as many that fit it as the batch may have; none where all have to wait. Where a watch
    /// panics, all stay where they are.
    fn choose(&mut self, max_batch: usize) -> Batch {
        self.clock += 1;
        let turn = self.clock;
        let waits = |entry: &&mut Entry| entry.ended.is_none() && entry.picture.is_some();
        let mut order: Vec<&mut Entry> =
            self.entries.iter_mut().filter(waits).filter(|entry| !entry.watch.yields()).collect();
        order.sort_by_cached_key(|entry| (-entry.watch.priority(), entry.turn));
        let mut chosen: Vec<&mut Entry> = Vec::new();
        for entry in order {
            let alone = entry.alone;
            if chosen.first().is_some_and(|first| !entry.fits(first)) {
                continue;
            }
            chosen.push(entry);
            if alone || chosen.len() >= max_batch {
                break;
            }
        }
        let taken = |entry: &mut Entry| {
            entry.turn = turn;
            entry.picture.take().map(|picture| (entry.id, picture, entry.watch.clone()))
        };
        chosen.into_iter().filter_map(taken).collect()
    }

    /// `stepped` is none when the device was not waited for, as one of the batch was stopped; its error is none for a panic.
    fn put_back(&mut self, batch: Batch, stepped: Option<Result<(), Option<Error>>>, took: Duration) {
        let shared = batch.len() > 1;
        for (id, picture, _) in batch {
            let Some(entry) = self.entries.iter_mut().find(|entry| entry.id == id) else { continue };
            let fault = picture.fault().cloned().filter(|_| matches!(stepped, Some(Ok(()))));
            match &stepped {
                // Of the others of its batch, nothing is wrong.
                _ if fault.is_some() => entry.ended = fault.map(|error| Err(Ended::Failed(error))),
                Some(Ok(())) if picture.is_done() => entry.ended = Some(Ok(())),
                Some(Err(_)) if shared => entry.alone = true,
                Some(Err(error)) => {
                    entry.ended = Some(Err(error.clone().map_or(Ended::Fault, Ended::Failed)))
                }
                Some(Ok(())) | None => {}
            }
            if let Some(Ok(())) = &stepped {
                entry.alone = false;
            }
            if stepped.is_some() {
                entry.computed += took;
            }
            entry.picture = Some(picture);
        }
    }
}
