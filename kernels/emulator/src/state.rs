//! What the driver keeps, and how work runs.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use cudarc::driver::sys::CUresult;
use parking_lot::{Mutex, MutexGuard};
use reverie_ptx as ptx;

use crate::MEMORY;

/// What a call returns beside success.
pub type Outcome<T = ()> = Result<T, CUresult>;

/// A piece of work of a stream.
#[derive(Clone)]
pub enum Work {
    Launch(Arc<Launch>),
    /// From the host's address to the device's.
    Upload {
        from: usize,
        to: u64,
        bytes: usize,
    },
    /// From the device's address to the host's.
    Download {
        from: u64,
        to: usize,
        bytes: usize,
    },
    Copy {
        from: u64,
        to: u64,
        bytes: usize,
    },
    /// An event is recorded.
    Record {
        event: u64,
        mark: u64,
    },
    /// What was recorded as this mark comes first.
    Wait {
        mark: u64,
    },
    Graph(Arc<[Work]>),
}

/// A kernel with all that it needs.
pub struct Launch {
    pub module: Arc<ptx::Module>,
    pub kernel: String,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared: usize,
    pub args: Vec<ptx::Arg>,
}

/// Addresses from the first on, up to the second.
pub type Range = (u64, u64);

impl Work {
    /// Whether it touches these addresses: the device's, which the host's never are.
    fn uses(&self, (from, to): Range) -> bool {
        let within = |address: u64, bytes: usize| address < to && from < address + bytes as u64;
        match self {
            Self::Launch(launch) => launch.args.iter().any(|arg| match arg {
                ptx::Arg::Bits(address, 8) => within(*address, 1),
                ptx::Arg::Map(map) => within(map.buffer.address(), 1),
                _ => false,
            }),
            Self::Upload { to, bytes, .. } => within(*to, *bytes),
            Self::Download { from, bytes, .. } => within(*from, *bytes),
            Self::Copy { from, to, bytes } => within(*from, *bytes) || within(*to, *bytes),
            Self::Graph(tape) => tape.iter().any(|work| work.uses((from, to))),
            Self::Record { .. } | Self::Wait { .. } => false,
        }
    }

    /// Whether it touches these addresses of the host.
    fn uses_host(&self, (from, to): Range) -> bool {
        match self {
            Self::Upload { from: address, bytes, .. } | Self::Download { to: address, bytes, .. } => {
                (*address as u64) < to && from < (*address + *bytes) as u64
            }
            Self::Graph(tape) => tape.iter().any(|work| work.uses_host((from, to))),
            _ => false,
        }
    }
}

/// Work in order.
#[derive(Default)]
pub struct Stream {
    pub queue: VecDeque<Work>,
    /// What is being recorded; `Err` when that has become impossible.
    pub capture: Option<Result<Vec<Work>, CUresult>>,
}

#[derive(Default)]
pub struct Event {
    pub timed: bool,
    /// What it stands for since it was recorded last.
    pub mark: Option<u64>,
    /// When that was reached.
    pub reached: Option<Instant>,
}

/// A kernel that a module has.
pub struct Function {
    pub module: Arc<ptx::Module>,
    pub kernel: String,
    /// The most dynamic shared memory that a launch may ask for.
    pub shared: usize,
}

impl Function {
    pub fn kernel(&self) -> Outcome<&ptx::Kernel> {
        self.module.kernel(&self.kernel).map_err(|_| CUresult::CUDA_ERROR_NOT_FOUND)
    }
}

/// The driver.
#[derive(Default)]
pub struct Driver {
    pub memory: ptx::Memory,
    /// Bytes of the device's memory that are taken.
    pub taken: usize,
    /// Buffers by address.
    pub buffers: HashMap<u64, ptx::Buffer>,
    /// Pinned memory of the host: bytes by address.
    pub pinned: HashMap<u64, usize>,
    pub streams: HashMap<u64, Stream>,
    pub events: HashMap<u64, Event>,
    /// Modules, and the functions that were asked for in each.
    pub modules: HashMap<u64, (Arc<ptx::Module>, Vec<u64>)>,
    pub functions: HashMap<u64, Function>,
    /// Graphs, and those that can be launched.
    pub graphs: HashMap<u64, Arc<[Work]>>,
    pub executables: HashMap<u64, Arc<[Work]>>,
    /// The stream in which each mark is still to be reached.
    marks: HashMap<u64, u64>,
    /// The last handle or mark.
    last: u64,
    /// How often the context was retained.
    pub retained: usize,
    pub initialised: bool,
    /// What every call returns since a kernel failed.
    pub fault: Option<CUresult>,
}

/// The driver, for one call.
pub fn driver() -> MutexGuard<'static, Driver> {
    static DRIVER: std::sync::LazyLock<Mutex<Driver>> = std::sync::LazyLock::new(Mutex::default);
    DRIVER.lock()
}

impl Driver {
    /// A number that was never given out.
    pub fn handle(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    pub fn take(&mut self, bytes: usize) -> Outcome {
        if MEMORY - self.taken < bytes {
            return Err(CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        }
        self.taken += bytes;
        Ok(())
    }

    pub fn stream(&mut self, handle: u64) -> Outcome<&mut Stream> {
        self.streams.get_mut(&handle).ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)
    }

    pub fn event(&mut self, handle: u64) -> Outcome<&mut Event> {
        self.events.get_mut(&handle).ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)
    }

    /// Puts work into a stream, or into what it records.
    pub fn put(&mut self, stream: u64, work: Work) -> Outcome {
        let stream = self.stream(stream)?;
        match &mut stream.capture {
            Some(Ok(tape)) => tape.push(work),
            Some(Err(_)) => return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED),
            None => stream.queue.push_back(work),
        }
        Ok(())
    }

    /// A new mark at the end of a stream.
    pub fn mark(&mut self, stream: u64) -> u64 {
        let mark = self.handle();
        self.marks.insert(mark, stream);
        mark
    }

    /// Whether work that has not run yet is as `is` says.
    fn is_pending(&self, is: impl Fn(&Work) -> bool) -> bool {
        self.streams.values().flat_map(|stream| &stream.queue).any(is)
    }

    /// Whether pending work uses these addresses of the device.
    pub fn is_used(&self, range: Range) -> bool {
        self.is_pending(|work| work.uses(range))
    }

    /// Whether pending work, or a graph, uses these addresses of the host.
    pub fn is_used_host(&self, range: Range) -> bool {
        let tapes = self.executables.values().flat_map(|tape| tape.iter());
        self.is_pending(|work| work.uses_host(range)) || tapes.into_iter().any(|work| work.uses_host(range))
    }

    /// Whether this graph is still to run.
    pub fn is_launched(&self, tape: &Arc<[Work]>) -> bool {
        self.is_pending(|work| matches!(work, Work::Graph(pending) if Arc::ptr_eq(pending, tape)))
    }

    /// Runs all that is in a stream.
    pub fn finish(&mut self, stream: u64) -> Outcome {
        while let Some(work) = self.streams.get_mut(&stream).and_then(|stream| stream.queue.pop_front()) {
            self.run(work)?;
        }
        Ok(())
    }

    /// Runs what comes before a mark.
    pub fn reach(&mut self, mark: u64) -> Outcome {
        while let Some(stream) = self.marks.get(&mark) {
            let work = self.streams.get_mut(stream).and_then(|stream| stream.queue.pop_front());
            self.run(work.expect("a mark that was not reached is in its stream"))?;
        }
        Ok(())
    }

    fn run(&mut self, work: Work) -> Outcome {
        let done = match work {
            Work::Launch(launch) => self.launch(&launch),
            Work::Upload { from, to, bytes } => {
                // SAFETY: pinned memory, which is not freed while pending work uses it.
                let bytes = unsafe { std::slice::from_raw_parts(from as *const u8, bytes) };
                self.memory.write_at(to, bytes)
            }
            Work::Download { from, to, bytes } => self.memory.read_at(from, bytes).map(|read| {
                // SAFETY: as above; whoever waits for the copy does not look before.
                unsafe { std::ptr::copy_nonoverlapping(read.as_ptr(), to as *mut u8, bytes) }
            }),
            Work::Copy { from, to, bytes } => self.memory.copy(from, to, bytes),
            Work::Record { event, mark } => {
                self.marks.remove(&mark);
                if let Some(event) = self.events.get_mut(&event).filter(|event| event.mark == Some(mark)) {
                    event.reached = Some(Instant::now());
                }
                Ok(())
            }
            Work::Wait { mark } => return self.reach(mark),
            Work::Graph(tape) => return tape.iter().cloned().try_for_each(|work| self.run(work)),
        };
        done.map_err(|error| {
            eprintln!("emulated CUDA driver: a fault loses the device: {error}");
            *self.fault.insert(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS)
        })
    }

    fn launch(&self, launch: &Launch) -> ptx::Result<()> {
        let Launch { module, kernel, grid, block, shared, args } = launch;
        let launch = ptx::Launch { kernel, grid: *grid, block: *block, dynamic_shared: *shared };
        launch.run(module, &self.memory, args).map(drop)
    }
}
