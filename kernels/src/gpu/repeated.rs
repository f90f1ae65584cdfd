//! Work that is done again and again, such as the steps of a sampler: recorded, it costs the host one call.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Device, GpuBackend, GpuTensor, Recording};
use crate::{backend::Shape, error::Result};

/// Recordings that are kept, one for each combination of the inputs' shapes: each holds as much memory as its work needs.
const KEPT: usize = 2;

/// Work that the device records once, to replay it with other inputs of the same shapes. Where the device cannot record, or
/// the work cannot be recorded, it is simply done each time.
///
/// A replay does what was recorded: with the same tensors other than the inputs, the same numbers, and the same uploads.
/// Whatever changes from one time to the next must be in the inputs, and nothing but the results may outlive the work.
pub struct Repeated<D: Device> {
    /// The one used last comes last.
    states: Mutex<Vec<(Vec<Shape>, State<D>)>>,
}

enum State<D: Device> {
    /// Done once, which compiled its kernels. The next time it is recorded.
    Warm,
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

impl<D: Device> Default for Repeated<D> {
    fn default() -> Self {
        Self { states: Mutex::default() }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
        match self.advance(&shapes) {
            None => {
                let out = work(&own)?;
                self.set(shapes, State::Warm);
                Ok(out)
            }
            Some(State::Plain) => work(&own),
            Some(State::Recorded(recorded)) => locked(&recorded).replay(gpu, inputs),
            Some(State::Warm) => match Recorded::new(gpu, &shapes, &mut work) {
                Ok(Some(recorded)) => {
                    let out = recorded.replay(gpu, inputs)?;
                    self.set(shapes, State::Recorded(Arc::new(Mutex::new(recorded))));
                    Ok(out)
                }
                // What is wrong with the work itself, it says again.
                Ok(None) | Err(_) => work(&own),
            },
        }
    }

    /// The state for these shapes, now the last used; what is to be recorded is plain to others until it is.
    fn advance(&self, shapes: &[Shape]) -> Option<State<D>> {
        let mut states = locked(&self.states);
        let at = states.iter().position(|(of, _)| of == shapes)?;
        let (shapes, state) = states.remove(at);
        let (next, now) = match state {
            State::Warm => (State::Plain, State::Warm),
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
