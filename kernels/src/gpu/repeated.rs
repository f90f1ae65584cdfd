//! Work that is done again and again, such as the steps of a sampler: recorded, it costs the host one call.

use std::{
    cell::Cell,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use super::{Device, GpuBackend, GpuTensor, Recording};
use crate::{
    backend::Shape,
    error::{Error, Result},
};

/// Recordings that are kept, one for each combination of the inputs' shapes: each holds as much memory as its work needs.
const KEPT: usize = 2;

/// How often it is tried to record work for which memory runs out: each time it is done twice.
const TRIES: u32 = 3;

/// Work that the device records once, to replay it with other inputs of the same shapes. Where the device cannot record, or
/// the work cannot be recorded, it is simply done each time.
///
/// A replay does what was recorded: with the same tensors other than the inputs, the same numbers, and the same uploads.
/// Whatever changes from one time to the next must be in the inputs, and nothing but the results may outlive the work.
pub struct Repeated<D: Device> {
    states: Arc<States<D>>,
}

/// By the inputs' shapes; the one used last comes last.
type States<D> = Mutex<Vec<(Vec<Shape>, State<D>)>>;

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

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the lanes of a device do again and again.
pub(super) struct Recordings<D: Device>(Mutex<Vec<Weak<States<D>>>>);

impl<D: Device> Default for Recordings<D> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<D: Device> Recordings<D> {
    /// Nothing to remember yet.
    pub fn repeated(&self) -> Repeated<D> {
        let states: Arc<States<D>> = Arc::default();
        let mut all = locked(&self.0);
        all.retain(|states| states.strong_count() > 0);
        all.push(Arc::downgrade(&states));
        Repeated { states }
    }

    /// Drops all recordings, to have their memory back; whether there were any. One that is being replayed goes afterwards.
    /// Nothing is dropped for what is being recorded itself: it can be done without.
    pub fn forget(&self) -> bool {
        if RECORDS.get() {
            return false;
        }
        let all: Vec<_> = locked(&self.0).iter().filter_map(Weak::upgrade).collect();
        let is_recorded = |(_, state): &mut (_, State<D>)| matches!(state, State::Recorded(_));
        // Whatever is dropped waits for the device.
        let dropped: Vec<_> = all
            .iter()
            .flat_map(|states| locked(states).extract_if(.., is_recorded).collect::<Vec<_>>())
            .collect();
        !dropped.is_empty()
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
                let replayed = locked(&recorded).replay(gpu, inputs);
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

    /// The state for these shapes, now the last used; what is to be recorded is plain to others until it is.
    fn advance(&self, shapes: &[Shape]) -> Option<State<D>> {
        let mut states = locked(&self.states);
        let at = states.iter().position(|(of, _)| of == shapes)?;
        let (shapes, state) = states.remove(at);
        let (next, now) = match state {
            State::Warm(tries) => (State::Plain, State::Warm(tries)),
            State::Plain => (State::Plain, State::Plain),
            State::Recorded(recorded) => (State::Recorded(recorded.clone()), State::Recorded(recorded)),
        };
        states.push((shapes, next));
        Some(now)
    }

    fn set(&self, shapes: Vec<Shape>, state: State<D>) {
        let mut states = locked(&self.states);
        states.retain(|(of, _)| *of != shapes);
        states.push((shapes, state));
        // Whatever is dropped here waits for the device.
        let excess = states.len().saturating_sub(KEPT);
        let dropped: Vec<_> = states.drain(..excess).collect();
        drop(states);
        drop(dropped);
    }
}
