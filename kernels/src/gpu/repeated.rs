//! Work that is done again and again, such as the steps of a sampler: recorded, it costs the host one call.

use std::{
    cell::Cell,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

use super::{Device, GpuBackend, GpuTensor, Recording};
use crate::{
    backend::Shape,
    error::{Error, Result},
};

/// Recordings that are kept of one piece of work unless [`GpuBackend::keeping`] says, one for each combination of the inputs' shapes;
/// each holds as much memory as its work needs.
const KEPT: usize = 16;

/// Combinations of shapes that are known for each recording that is kept, most of them just counted.
const KNOWN: usize = 8;

/// Runs for each recording that is kept after which counts are halved, so that what was in use long ago gives way.
const AGE: usize = 16;

/// How often it is tried to record work for which memory runs out: each time it is done twice.
const TRIES: u32 = 3;

/// Work that the device records once, to replay it with other inputs of the same shapes. Where the device cannot record, or
/// the work cannot be recorded, it is simply done each time.
///
/// A replay does what was recorded: with the same tensors other than the inputs, the same numbers, and the same uploads.
/// Whatever changes from one time to the next must be in the inputs, and nothing but the results may outlive the work.
///
/// Of shapes that come in more combinations than recordings are kept for, those that are used most are recorded. One takes another
/// one's place only where it is used more than twice as often, so that recording ends, however shapes are mixed.
pub struct Repeated<D: Device> {
    states: Arc<States<D>>,
    recordings: Arc<Recordings<D>>,
}

type States<D> = Mutex<Known<D>>;

/// What is known of some work.
struct Known<D: Device> {
    /// By the inputs' shapes; the one used last comes last.
    kinds: Vec<Kind<D>>,
    /// Runs since counts were halved.
    runs: usize,
}

impl<D: Device> Default for Known<D> {
    fn default() -> Self {
        Self { kinds: Vec::new(), runs: 0 }
    }
}

/// Work on inputs of certain shapes.
struct Kind<D: Device> {
    shapes: Vec<Shape>,
    /// Runs, of which earlier ones count less.
    uses: u32,
    /// The [`Recordings::clock`] of the last one.
    last: u64,
    state: State<D>,
}

impl<D: Device> Kind<D> {
    fn is_recorded(&self) -> bool {
        matches!(self.state, State::Recorded(_))
    }
}

enum State<D: Device> {
    /// Done once, which compiled its kernels. The next time it is recorded, or as often as this where memory runs out.
    Warm(u32),
    /// Being recorded, or not recordable.
    Plain,
    Recorded(Arc<Mutex<Recorded<D>>>),
}

/// Behind a lock, as from the copies to `inputs` to those of `outputs` nothing else may replay it.
struct Recorded<D: Device> {
    inputs: Vec<GpuTensor<D>>,
    outputs: Vec<GpuTensor<D>>,
    recording: Box<dyn Recording>,
}

/// What the lanes of a device do again and again.
pub(super) struct Recordings<D: Device> {
    all: Mutex<Vec<Weak<States<D>>>>,
    /// Runs of all work.
    clock: AtomicU64,
    /// How many are kept of each.
    kept: usize,
}

impl<D: Device> Default for Recordings<D> {
    fn default() -> Self {
        Self::keeping(KEPT)
    }
}

impl<D: Device> Recordings<D> {
    /// So many are kept of each piece of work.
    pub fn keeping(kept: usize) -> Self {
        Self { all: Mutex::default(), clock: AtomicU64::new(0), kept }
    }

    /// Nothing to remember yet.
    pub fn repeated(self: &Arc<Self>) -> Repeated<D> {
        let states: Arc<States<D>> = Arc::default();
        let mut all = self.all.lock();
        all.retain(|states| states.strong_count() > 0);
        all.push(Arc::downgrade(&states));
        Repeated { states, recordings: self.clone() }
    }

    /// Drops the recording that was not used for longest, to have its memory back; whether there was any. One that is being replayed
    /// goes afterwards. Nothing is dropped for what is being recorded itself: it can be done without.
    pub fn forget(&self) -> bool {
        if RECORDS.get() {
            return false;
        }
        let all: Vec<_> = self.all.lock().iter().filter_map(Weak::upgrade).collect();
        let oldest = |states: &Arc<States<D>>| {
            let known = states.lock();
            known.kinds.iter().filter(|kind| kind.is_recorded()).map(|kind| kind.last).min()
        };
        let Some((last, states)) =
            all.iter().filter_map(|states| Some((oldest(states)?, states))).min_by_key(|(last, _)| *last)
        else {
            return false;
        };
        let is_it = |kind: &mut Kind<D>| kind.is_recorded() && kind.last == last;
        let dropped: Vec<_> = states.lock().kinds.extract_if(.., is_it).collect();
        // Whatever is dropped waits for the device. Where another thread was faster, there may be room now.
        drop(dropped);
        true
    }
}

thread_local! {
    /// Whether this thread is recording.
    static RECORDS: Cell<bool> = const { Cell::new(false) };
}

/// This thread records for as long as it lives.
struct Records;

impl Records {
    fn new() -> Self {
        RECORDS.set(true);
        Self
    }
}

impl Drop for Records {
    fn drop(&mut self) {
        RECORDS.set(false);
    }
}

impl<D: Device> Recorded<D> {
    /// Records `work`; none where that does not go.
    fn new(
        gpu: &GpuBackend<D>,
        shapes: &[Shape],
        mut work: impl FnMut(&[GpuTensor<D>]) -> Result<Vec<GpuTensor<D>>>,
    ) -> Result<Option<Self>> {
        let inputs: Vec<_> = shapes.iter().map(|shape| gpu.empty(*shape)).collect::<Result<_>>()?;
        let mut outputs = Vec::new();
        let recording = gpu.device.record(&mut || {
            outputs = work(&inputs)?;
            Ok(())
        })?;
        Ok(recording.map(|recording| Self { inputs, outputs, recording }))
    }

    fn replay(&self, gpu: &GpuBackend<D>, inputs: &[&GpuTensor<D>]) -> Result<Vec<GpuTensor<D>>> {
        for (from, to) in inputs.iter().zip(&self.inputs) {
            gpu.device.copy(&from.buffer, &to.buffer, 2 * from.len())?;
        }
        self.recording.replay()?;
        // The next replay overwrites its results: what is given out is a copy.
        let copy = |output: &GpuTensor<D>| {
            let copy = gpu.empty(output.shape)?;
            gpu.device.copy(&output.buffer, &copy.buffer, 2 * output.len())?;
            Ok(copy)
        };
        self.outputs.iter().map(copy).collect()
    }
}

impl<D: Device> Repeated<D> {
    /// Does `work`, which is called the first two times that the inputs have these shapes.
    pub(super) fn run(
        &self,
        gpu: &GpuBackend<D>,
        inputs: &[&GpuTensor<D>],
        mut work: impl FnMut(&[GpuTensor<D>]) -> Result<Vec<GpuTensor<D>>>,
    ) -> Result<Vec<GpuTensor<D>>> {
        let shapes: Vec<Shape> = inputs.iter().map(|x| x.shape).collect();
        let own: Vec<_> = inputs.iter().map(|x| (*x).clone()).collect();
        if RECORDS.get() {
            // It becomes part of what is being recorded.
            return work(&own);
        }
        match self.advance(&shapes) {
            None => {
                let out = work(&own)?;
                self.set(shapes, State::Warm(TRIES));
                Ok(out)
            }
            Some(State::Plain) => work(&own),
            Some(State::Recorded(recorded)) => {
                let replayed = recorded.lock().replay(gpu, inputs);
                match replayed {
                    // Where there is no room for the results, there is in the recording's memory.
                    Err(Error::OutOfMemory { .. }) => {
                        drop(recorded);
                        work(&own)
                    }
                    replayed => replayed,
                }
            }
            Some(State::Warm(tries)) => {
                let records = Records::new();
                let recorded = Recorded::new(gpu, &shapes, &mut work);
                let replayed = recorded.and_then(|recorded| {
                    let Some(recorded) = recorded else { return Ok(None) };
                    let out = recorded.replay(gpu, inputs)?;
                    Ok(Some((recorded, out)))
                });
                drop(records);
                match replayed {
                    Ok(Some((recorded, out))) => {
                        self.set(shapes, State::Recorded(Arc::new(Mutex::new(recorded))));
                        Ok(out)
                    }
                    Err(Error::OutOfMemory { .. }) if tries > 1 => {
                        self.set(shapes, State::Warm(tries - 1));
                        work(&own)
                    }
                    // What is wrong with the work itself, it says again.
                    Ok(None) | Err(_) => work(&own),
                }
            }
        }
    }

    /// The state for these shapes, which are used now; what is to be recorded is plain to others until it is. What has to wait
    /// for its recording is plain this time.
    fn advance(&self, shapes: &[Shape]) -> Option<State<D>> {
        let mut known = self.states.lock();
        known.runs += 1;
        if known.runs >= AGE * self.recordings.kept {
            known.runs = 0;
            known.kinds.iter_mut().for_each(|kind| kind.uses /= 2);
        }
        let at = known.kinds.iter().position(|kind| kind.shapes == shapes)?;
        let mut kind = known.kinds.remove(at);
        kind.uses += 1;
        kind.last = self.recordings.clock.fetch_add(1, Ordering::Relaxed);
        let (now, replaced) = match &kind.state {
            State::Plain => (State::Plain, None),
            State::Recorded(recorded) => (State::Recorded(recorded.clone()), None),
            State::Warm(tries) => match known.admit(kind.uses, self.recordings.kept) {
                Some(replaced) => (State::Warm(*tries), replaced),
                None => (State::Plain, None),
            },
        };
        if let State::Warm(_) = now {
            kind.state = State::Plain;
        }
        known.kinds.push(kind);
        drop(known);
        // It waits for the device.
        drop(replaced);
        Some(now)
    }

    fn set(&self, shapes: Vec<Shape>, state: State<D>) {
        let mut known = self.states.lock();
        let before = known.kinds.iter().position(|kind| kind.shapes == shapes);
        let before = before.map(|at| known.kinds.remove(at));
        let uses = before.as_ref().map_or(1, |kind| kind.uses);
        let last = self.recordings.clock.fetch_add(1, Ordering::Relaxed);
        known.kinds.push(Kind { shapes, uses, last, state });
        // Only what is counted: recordings are fewer.
        if known.kinds.len() > KNOWN * self.recordings.kept
            && let Some(at) = known.kinds.iter().position(|kind| !kind.is_recorded())
        {
            known.kinds.remove(at);
        }
        drop(known);
        drop(before);
    }
}

impl<D: Device> Known<D> {
    /// Whether work with so many uses is recorded, and the recording that makes place for it.
    fn admit(&mut self, uses: u32, kept: usize) -> Option<Option<State<D>>> {
        let recorded = self.kinds.iter().filter(|kind| kind.is_recorded()).count();
        if recorded < kept {
            return Some(None);
        }
        let recorded = self.kinds.iter_mut().filter(|kind| kind.is_recorded());
        let least = recorded.min_by_key(|kind| kind.uses).filter(|least| uses > 2 * least.uses)?;
        Some(Some(std::mem::replace(&mut least.state, State::Warm(TRIES))))
    }
}
