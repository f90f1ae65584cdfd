//! Work that is recorded, on a device whose memory is small.

mod mixed;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use parking_lot::Mutex;
use reverie_kernels::{
    Backend, Error, Result,
    gpu::{Arg, Device, GpuBackend, GpuTensor, Launch, Recording, Variant},
};

use crate::tested::{
    self,
    interpreted::{self, Interpreted},
};

/// An interpreter with so many bytes of memory, which records. Lanes share them.
struct Small {
    device: Arc<Interpreted>,
    left: Arc<Mutex<usize>>,
    /// What is being recorded: of one thread, as these tests have.
    tape: Mutex<Option<Vec<Command>>>,
    /// How often something was recorded.
    records: AtomicUsize,
}

struct Held {
    buffer: interpreted::Buffer,
    bytes: usize,
    left: Arc<Mutex<usize>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        *self.left.lock() += self.bytes;
    }
}

type Buffer = Arc<Held>;

enum Command {
    Upload(Buffer, Vec<u8>),
    Launch(Variant, &'static str, Launch, Vec<Owned>),
}

enum Owned {
    Buffer(Buffer),
    Null,
    U32(u32),
    F32(f32),
}

impl Command {
    fn run(&self, device: &Interpreted) -> Result<()> {
        match self {
            Self::Upload(buffer, bytes) => device.upload(&buffer.buffer, bytes),
            Self::Launch(variant, entry, launch, args) => {
                let args: Vec<_> = args
                    .iter()
                    .map(|arg| match arg {
                        Owned::Buffer(buffer) => Arg::Buffer(&buffer.buffer),
                        Owned::Null => Arg::Null,
                        Owned::U32(value) => Arg::U32(*value),
                        Owned::F32(value) => Arg::F32(*value),
                    })
                    .collect();
                // SAFETY: as of whoever launched it first; the interpreter checks every access.
                unsafe { device.launch(variant, entry, *launch, &args) }
            }
        }
    }
}

struct Tape {
    device: Arc<Interpreted>,
    commands: Vec<Command>,
}

impl Recording for Tape {
    fn replay(&self) -> Result<()> {
        self.commands.iter().try_for_each(|command| command.run(&self.device))
    }
}

impl Small {
    fn new(bytes: usize) -> Self {
        let (device, tape, records) = Default::default();
        Self { device, left: Arc::new(Mutex::new(bytes)), tape, records }
    }

    /// How often something was recorded in this lane.
    fn records(&self) -> usize {
        self.records.load(Ordering::Relaxed)
    }

    fn ask(&self, command: Command) -> Result<()> {
        if let Some(tape) = &mut *self.tape.lock() {
            tape.push(command);
            return Ok(());
        }
        command.run(&self.device)
    }
}

impl Device for Small {
    type Buffer = Buffer;

    fn name(&self) -> &str {
        "small"
    }

    fn multiprocessors(&self) -> usize {
        self.device.multiprocessors()
    }

    fn lane(&self) -> Result<Self> {
        let (tape, records) = Default::default();
        Ok(Self { device: self.device.clone(), left: self.left.clone(), tape, records })
    }

    fn allocate(&self, bytes: usize) -> Result<Buffer> {
        let mut left = self.left.lock();
        let full =
            || Error::OutOfMemory { device: "small".into(), what: format!("{bytes} bytes"), budget: 0 };
        *left = left.checked_sub(bytes).ok_or_else(full)?;
        Ok(Arc::new(Held { buffer: self.device.allocate(bytes)?, bytes, left: self.left.clone() }))
    }

    fn upload(&self, buffer: &Buffer, bytes: &[u8]) -> Result<()> {
        self.ask(Command::Upload(buffer.clone(), bytes.to_vec()))
    }

    fn download(&self, buffer: &Buffer, bytes: &mut [u8]) -> Result<()> {
        self.device.download(&buffer.buffer, bytes)
    }

    unsafe fn launch(
        &self,
        variant: &Variant,
        entry: &'static str,
        launch: Launch,
        args: &[Arg<'_, Buffer>],
    ) -> Result<()> {
        let args = args.iter().map(|arg| match arg {
            Arg::Buffer(buffer) => Owned::Buffer((*buffer).clone()),
            Arg::Null => Owned::Null,
            Arg::U32(value) => Owned::U32(*value),
            Arg::F32(value) => Owned::F32(*value),
            Arg::Map(_) => unreachable!("by attention on a device with wgmma only"),
        });
        self.ask(Command::Launch(variant.clone(), entry, launch, args.collect()))
    }

    fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Option<Box<dyn Recording>>> {
        self.records.fetch_add(1, Ordering::Relaxed);
        *self.tape.lock() = Some(Vec::new());
        let done = work();
        let commands = self.tape.lock().take().unwrap();
        done?;
        Ok(Some(Box::new(Tape { device: self.device.clone(), commands })))
    }
}

/// A backend on one with 1 MiB.
fn small() -> Option<GpuBackend<Small>> {
    tested::is_interpreter().then(|| GpuBackend::new(Small::new(1 << 20)))
}

/// Values of a tensor in the tests, and its bytes.
const LEN: usize = 256;
const BYTES: usize = 2 * LEN;

/// Repeats x * 3 + 0.5, which takes one tensor beside its result, and counts how often it was done itself.
struct Worker {
    gpu: GpuBackend<Small>,
    repeated: <GpuBackend<Small> as Backend>::Repeated,
    half: GpuTensor<Small>,
    calls: usize,
}

impl Worker {
    fn new(gpu: GpuBackend<Small>) -> Self {
        let half = gpu.tensor(vec![0.5; LEN], [1, 1, 16, 16]).unwrap();
        Self { repeated: gpu.repeated(), half, gpu, calls: 0 }
    }

    fn input(&self, value: f32) -> GpuTensor<Small> {
        self.gpu.tensor(vec![value; LEN], [1, 1, 16, 16]).unwrap()
    }

    /// Whether the work itself was done.
    #[track_caller]
    fn run(&mut self, x: &GpuTensor<Small>, value: f32) -> bool {
        let before = self.calls;
        let Self { gpu, half, calls, .. } = self;
        let out = gpu.repeat(&self.repeated, &[x], &mut |xs| {
            *calls += 1;
            Ok(vec![gpu.scale_add(&gpu.scale_add(&xs[0], 2.0, &xs[0])?, 1.0, half)?])
        });
        assert_eq!(gpu.to_vec(&out.unwrap()[0]).unwrap(), vec![3.0 * value + 0.5; LEN]);
        self.calls > before
    }
}

#[test]
fn work_is_recorded_at_its_second_time() {
    let Some(gpu) = small() else { return };
    let mut worker = Worker::new(gpu);
    let done = [1.0, 2.0, 3.0, 4.0].map(|value| {
        let x = worker.input(value);
        worker.run(&x, value)
    });
    assert_eq!(done, [true, true, false, false]);
}

#[test]
fn a_full_device_is_an_error_that_passes() {
    let Some(gpu) = tested::interpreter() else { return };
    let x = gpu.tensor(vec![1.0; LEN], [1, 1, 16, 16]).unwrap();
    gpu.device().run_out_after(Some(1));
    assert!(gpu.add(&x, &x).is_ok());
    let what = format!("{BYTES} bytes");
    assert!(matches!(gpu.add(&x, &x), Err(Error::OutOfMemory { what: of, .. }) if of == what));
    gpu.device().run_out_after(None);
    assert_eq!(gpu.to_vec(&gpu.add(&x, &x).unwrap()).unwrap(), [2.0; LEN]);
}

#[test]
fn recordings_of_all_lanes_go_where_memory_runs_out() {
    let Some(gpu) = small() else { return };
    let lane = gpu.lane().unwrap();
    let mut workers = [Worker::new(lane), Worker::new(gpu.lane().unwrap())];
    let xs = workers.each_ref().map(|worker| worker.input(7.0));
    let free = |gpu: &GpuBackend<Small>| *gpu.device().left.lock();
    let before = free(&gpu);
    for (worker, x) in workers.iter_mut().zip(&xs) {
        assert_eq!([(); 3].map(|()| worker.run(x, 7.0)), [true, true, false]);
    }
    // Each holds its input, its result and what is in between.
    assert_eq!(before - free(&gpu), 2 * 3 * BYTES);
    let rest = gpu.device().allocate(free(&gpu)).unwrap();
    // An upload and a tensor, of four times and twice the bytes, for which all recordings go.
    let more = gpu.tensor(vec![1.0; 2 * LEN], [1, 1, 16, 32]).unwrap();
    drop(more);
    assert_eq!(free(&gpu), 6 * BYTES);
    drop(rest);
    for (worker, x) in workers.iter_mut().zip(&xs) {
        assert_eq!([(); 3].map(|()| worker.run(x, 7.0)), [true, true, false], "recorded once more");
    }
}

#[test]
fn a_recording_takes_no_other_ones_memory() {
    let Some(gpu) = small() else { return };
    let mut workers = [Worker::new(gpu.lane().unwrap()), Worker::new(gpu.lane().unwrap())];
    let xs = workers.each_ref().map(|worker| worker.input(7.0));
    assert_eq!([(); 3].map(|()| workers[0].run(&xs[0], 7.0)), [true, true, false]);
    // Enough to do the work and to look at its result, and not for a recording beside that.
    let left = *gpu.device().left.lock();
    let _rest = gpu.device().allocate(left - 3 * BYTES).unwrap();
    assert_eq!([(); 4].map(|()| workers[1].run(&xs[1], 7.0)), [true; 4]);
    assert!(!workers[0].run(&xs[0], 7.0), "still recorded");
}

#[test]
fn without_room_for_its_results_a_recording_gives_way_to_the_work() {
    let Some(gpu) = small() else { return };
    let mut worker = Worker::new(gpu.lane().unwrap());
    let x = worker.input(7.0);
    assert_eq!([(); 3].map(|()| worker.run(&x, 7.0)), [true, true, false]);
    let left = *gpu.device().left.lock();
    let _rest = gpu.device().allocate(left).unwrap();
    assert!(worker.run(&x, 7.0), "in the recording's memory");
}

#[test]
fn what_there_was_no_room_to_record_is_recorded_once_there_is() {
    let Some(gpu) = small() else { return };
    let mut worker = Worker::new(gpu.lane().unwrap());
    let x = worker.input(7.0);
    assert!(worker.run(&x, 7.0));
    let left = *gpu.device().left.lock();
    let rest = gpu.device().allocate(left - 3 * BYTES).unwrap();
    assert!(worker.run(&x, 7.0));
    drop(rest);
    assert_eq!([(); 2].map(|()| worker.run(&x, 7.0)), [true, false]);
}

#[test]
fn repeated_work_within_repeated_work_is_part_of_it() {
    let Some(gpu) = small() else { return };
    let mut inner = Worker::new(gpu.lane().unwrap());
    let x = inner.input(7.0);
    assert_eq!([(); 3].map(|()| inner.run(&x, 7.0)), [true, true, false]);
    let outer = gpu.repeated();
    let mut calls = 0;
    for value in [1.0, 2.0, 3.0, 4.0] {
        let x = inner.input(value);
        let Worker { gpu, repeated, half, .. } = &inner;
        let out = gpu.repeat(&outer, &[&x], &mut |xs| {
            calls += 1;
            gpu.repeat(repeated, &[&xs[0]], &mut |xs| {
                Ok(vec![gpu.scale_add(&gpu.scale_add(&xs[0], 2.0, &xs[0])?, 1.0, half)?])
            })
        });
        assert_eq!(gpu.to_vec(&out.unwrap()[0]).unwrap(), vec![3.0 * value + 0.5; LEN]);
    }
    assert_eq!(calls, 2);
}
