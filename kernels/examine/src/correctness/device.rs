//! What the device and the driver must keep, whatever the operation: transfers, recordings, lanes, and what a full device does.

use reverie_kernels::{
    Backend, Error, Result, Shape,
    gpu::{Device, GpuBackend, GpuTensor, cuda::Cuda},
};

use super::{Check, Verdict};
use crate::noise;

type Tensor = GpuTensor<Cuda>;
type Gpu = GpuBackend<Cuda>;

const SHAPE: Shape = [1, 40, 9, 7];

/// The largest buffer that a full device is filled with, and the smallest.
const LARGEST: usize = 1 << 30;
const SMALLEST: usize = 64 << 10;

/// What is examined, in words, and how: what is wrong, if anything.
type Examination = (&'static str, &'static str, fn(&Cuda) -> Result<Option<String>>);

const ALL: [Examination; 6] = [
    ("transfers", "there, to another buffer, and back", transfers),
    ("recording", "replays with other inputs", recording),
    ("lanes", "two at once, each with a recording", lanes),
    ("lanes", "each with what the other wrote", shared_buffers),
    ("memory", "the same again takes no more", steady_memory),
    ("memory", "full, and then at work again", full_memory),
];

/// Examines transfers, recorded graphs, lanes and memory. The last takes all of the budget that `cuda` was opened with for a moment, so
/// whoever shares the device with others opens it with less than is free. Calls `each` as soon as a check is done.
///
/// Does not panic and does not stop: errors are [`Verdict::Failed`].
pub fn device(cuda: &Cuda, each: &mut dyn FnMut(&Check)) -> Vec<Check> {
    let mut checks = Vec::new();
    for (operation, case, examine) in ALL {
        let verdict = match examine(cuda) {
            Ok(None) => Verdict::Right,
            Ok(Some(what)) => Verdict::Differs(what),
            Err(error) => Verdict::Failed(error.to_string()),
        };
        let check = Check::plain(operation, case, verdict);
        each(&check);
        checks.push(check);
    }
    checks
}

fn tensor(gpu: &Gpu, seed: u64) -> Result<Tensor> {
    gpu.tensor(noise::halves(SHAPE.iter().product(), 1.0, seed), SHAPE)
}

/// What differs of two that must be the same to the last bit.
fn difference(what: &str, actual: &[f32], expected: &[f32]) -> Option<String> {
    let wrong = actual.iter().zip(expected).position(|(a, e)| a.to_bits() != e.to_bits());
    let wrong = wrong.or((actual.len() != expected.len()).then_some(0))?;
    Some(format!("{what}: value {wrong} is {:?}, not {:?}", actual.get(wrong), expected.get(wrong)))
}

fn transfers(cuda: &Cuda) -> Result<Option<String>> {
    // Some larger than the pinned memory, in which they go by parts.
    for len in [1, 3, 300, 70_000, (4 << 20) + 1, (9 << 20) + 5] {
        let content: Vec<u8> = (0..len).map(|i: usize| (i * i / 7 + i % 251) as u8).collect();
        let [buffer, copy] = [cuda.allocate(len)?, cuda.allocate(len)?];
        cuda.upload(&buffer, &content)?;
        cuda.copy(&buffer, &copy, len)?;
        let mut back = vec![0; len];
        cuda.download(&copy, &mut back)?;
        if let Some(wrong) = back.iter().zip(&content).position(|(a, b)| a != b) {
            let (actual, expected) = (back[wrong], content[wrong]);
            return Ok(Some(format!("of {len} bytes number {wrong} came back as {actual}, not {expected}")));
        }
    }
    Ok(None)
}

/// With an upload, and with buffers that are dropped and used again within.
fn work(gpu: &Gpu, x: &Tensor, added: &Tensor) -> Result<Vec<Tensor>> {
    let slopes = noise::halves(SHAPE[1], 1.0, 100);
    let a = gpu.scale_add(&gpu.prelu(x, &slopes)?, 0.5, added)?;
    let b = gpu.add(&gpu.scale_add(&a, 2.0, x)?, &a)?;
    let c = gpu.add(&gpu.scale_add(&b, 2.0, x)?, &a)?;
    Ok(vec![c, a])
}

fn recording(cuda: &Cuda) -> Result<Option<String>> {
    let gpu = Gpu::new(cuda.clone());
    let added = tensor(&gpu, 200)?;
    let repeated = gpu.repeated();
    let (mut calls, mut outputs) = (0, Vec::new());
    for seed in 1..=5 {
        let x = tensor(&gpu, seed)?;
        outputs.push(gpu.repeat(&repeated, &[&x], &mut |xs| {
            calls += 1;
            work(&gpu, &xs[0], &added)
        })?);
    }
    // Looked at when all are done: results outlive the replays after them.
    for (seed, output) in (1..).zip(&outputs) {
        let expected = work(&gpu, &tensor(&gpu, seed)?, &added)?;
        for (i, (actual, expected)) in output.iter().zip(&expected).enumerate() {
            let what = format!("result {i} for input {seed}");
            if let Some(text) = difference(&what, &gpu.to_vec(actual)?, &gpu.to_vec(expected)?) {
                return Ok(Some(text));
            }
        }
    }
    Ok((calls != 2).then(|| format!("of 5 times the work was done {calls} times by itself, not twice")))
}

fn lanes(cuda: &Cuda) -> Result<Option<String>> {
    let gpu = Gpu::new(cuda.clone());
    let added = tensor(&gpu, 200)?;
    let values = |gpu: &Gpu, outputs: Vec<Tensor>| gpu.to_vec(&outputs[0]);
    let expected = [1, 2].map(|seed| values(&gpu, work(&gpu, &tensor(&gpu, seed)?, &added)?));
    let lane = |seed: u64, expected: Result<Vec<f32>>| {
        let (lane, expected) = (gpu.lane()?, expected?);
        let repeated = lane.repeated();
        for round in 0..10 {
            let x = tensor(&lane, seed)?;
            let outputs = lane.repeat(&repeated, &[&x], &mut |xs| work(&lane, &xs[0], &added))?;
            let what = format!("lane {seed}, round {round}");
            if let Some(text) = difference(&what, &values(&lane, outputs)?, &expected) {
                return Ok(Some(text));
            }
        }
        Ok(None)
    };
    std::thread::scope(|scope| {
        let threads = [1, 2].into_iter().zip(expected).map(|(seed, x)| scope.spawn(move || lane(seed, x)));
        let threads: Vec<_> = threads.collect();
        let mut found = Ok(None);
        for thread in threads {
            let outcome = thread.join().unwrap_or_else(|_| Ok(Some("a lane's thread panicked".into())));
            found = found.and_then(|found: Option<String>| Ok(found.or(outcome?)));
        }
        found
    })
}

fn shared_buffers(cuda: &Cuda) -> Result<Option<String>> {
    let [a, b] = [Gpu::new(cuda.clone()), Gpu::new(cuda.lane()?)];
    let added = tensor(&a, 200)?;
    let expected = a.to_vec(&work(&a, &tensor(&a, 1)?, &added)?[0])?;
    for round in 0..10 {
        // Written in one lane and read in the other, with nothing that waits in between; then its memory is used anew.
        let x = tensor(&a, 1)?;
        let output = work(&b, &x, &added)?;
        drop(x);
        let other = tensor(&a, 3)?;
        let what = format!("round {round}");
        let found = difference(&what, &b.to_vec(&output[0])?, &expected);
        let others = noise::halves(SHAPE.iter().product(), 1.0, 3);
        if let Some(text) = found.or(difference(&what, &a.to_vec(&other)?, &others)) {
            return Ok(Some(text));
        }
    }
    Ok(None)
}

fn steady_memory(cuda: &Cuda) -> Result<Option<String>> {
    let gpu = Gpu::new(cuda.lane()?);
    let [x, added] = [tensor(&gpu, 1)?, tensor(&gpu, 2)?];
    let round = || work(&gpu, &x, &added).and_then(|outputs| gpu.to_vec(&outputs[0]));
    let first = round()?;
    let held = cuda.memory().held;
    for _ in 0..50 {
        if let Some(text) = difference("the same again", &round()?, &first) {
            return Ok(Some(text));
        }
    }
    let after = cuda.memory().held;
    Ok((after > held).then(|| format!("{after} bytes are held after 50 rounds, {held} were after the first")))
}

fn full_memory(cuda: &Cuda) -> Result<Option<String>> {
    let gpu = Gpu::new(cuda.clone());
    let [x, added] = [tensor(&gpu, 1)?, tensor(&gpu, 2)?];
    let round = || work(&gpu, &x, &added).and_then(|outputs| gpu.to_vec(&outputs[0]));
    let expected = round()?;
    let mut taken = Vec::new();
    let mut bytes = LARGEST;
    while bytes >= SMALLEST {
        match cuda.allocate(bytes) {
            Ok(buffer) => taken.push(buffer),
            Err(Error::OutOfMemory { .. }) => bytes /= 2,
            Err(error) => return Err(error),
        }
    }
    if taken.is_empty() {
        return Ok(Some("there was no memory to take".into()));
    }
    // With all taken it works, or says that there is no memory; and afterwards it works.
    if let Some(text) = match round() {
        Ok(values) => difference("with all memory taken", &values, &expected),
        Err(Error::OutOfMemory { .. }) => None,
        Err(error) => return Err(error),
    } {
        return Ok(Some(text));
    }
    drop(taken);
    let found = difference("after all memory was taken", &round()?, &expected);
    cuda.trim()?;
    Ok(found)
}
