//! Runs a grid: its blocks on all cores, each with its warps in turn.

mod execute;
mod matrix;
mod mbarrier;
mod memory;
mod number;
mod shared;
mod tensor;
mod warp;
mod wgmma;

use rayon::prelude::*;

use crate::{
    error::{Error, Result},
    parse::{Kernel, Module},
};
pub use memory::{Buffer, Element, Memory};
use shared::Shared;
pub use tensor::TensorMap;
use warp::{Stop, Warp};

/// Instructions that one warp may run; more is taken for an endless loop.
const FUEL: u64 = 200_000_000;

/// Shared memory that a block may have at most: that of sm_90.
const MOST_SHARED: usize = 227 * 1024;

/// A kernel and the shape of its grid.
#[derive(Debug, Clone, Copy)]
pub struct Launch<'a> {
    /// Name of the `.entry`.
    pub kernel: &'a str,
    /// Blocks by dimension.
    pub grid: [u32; 3],
    /// Threads of a block by dimension.
    pub block: [u32; 3],
    /// Bytes of `.extern .shared` memory.
    pub dynamic_shared: usize,
}

/// A parameter.
#[derive(Debug, Clone, Copy)]
pub enum Arg {
    /// Bits, of the width that the kernel declares.
    Bits(u64, usize),
    /// The address of a buffer.
    Buffer(Buffer),
    /// A `.b8` array of 128 bytes.
    Map(TensorMap),
}

impl From<u32> for Arg {
    fn from(value: u32) -> Self {
        Self::Bits(value.into(), 4)
    }
}

impl From<u64> for Arg {
    fn from(value: u64) -> Self {
        Self::Bits(value, 8)
    }
}

impl From<f32> for Arg {
    fn from(value: f32) -> Self {
        Self::Bits(value.to_bits().into(), 4)
    }
}

impl From<Buffer> for Arg {
    fn from(buffer: Buffer) -> Self {
        Self::Buffer(buffer)
    }
}

/// What a launch did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Instructions, counted once for a warp.
    pub instructions: u64,
}

impl Launch<'_> {
    /// Runs the grid to its end.
    ///
    /// # Errors
    /// [`Error::Launch`] for arguments or a shape that the kernel does not take, [`Error::Fault`] for what a thread did wrong:
    /// the first one in the first block that has one.
    pub fn run(&self, module: &Module, memory: &Memory, args: &[Arg]) -> Result<Statistics> {
        let kernel = module.kernel(self.kernel)?;
        let (parameters, maps) = parameters(kernel, args)?;
        let threads = self.threads(kernel)?;
        memory.begin();
        let blocks: u32 = self.grid.iter().product();
        let ran = (0..blocks).into_par_iter().map(|number| {
            let [x, y, _] = self.grid;
            let index = [number % x, number / x % y, number / (x * y)];
            let bytes = kernel.shared_bytes + self.dynamic_shared;
            let parameters = &parameters;
            Block { launch: self, kernel, memory, parameters, maps: &maps, index, number, threads }
                .run(Shared::new(bytes))
        });
        let ran: Vec<Result<u64>> = ran.collect();
        let instructions = ran.into_iter().sum::<Result<u64>>()?;
        Ok(Statistics { instructions })
    }

    /// Threads in a block.
    fn threads(&self, kernel: &Kernel) -> Result<u32> {
        let refuse = |what: String| Err(Error::Launch(format!("{}: {what}", kernel.name)));
        if self.grid.contains(&0) || self.block.contains(&0) {
            return refuse(format!("a grid of {:?} blocks of {:?} threads", self.grid, self.block));
        }
        let threads: u32 = self.block.iter().product();
        if threads > 1024 || kernel.largest_block.is_some_and(|most| threads > most) {
            return refuse(format!("{threads} threads are too many for a block"));
        }
        if let Some(required) = kernel.required_block
            && required != self.block
        {
            return refuse(format!("blocks must have {required:?} threads, not {:?}", self.block));
        }
        if self.dynamic_shared > 0 && !kernel.dynamic_shared {
            return refuse("takes no dynamic shared memory".into());
        }
        if kernel.shared_bytes + self.dynamic_shared > MOST_SHARED {
            return refuse(format!("{} bytes of shared memory", kernel.shared_bytes + self.dynamic_shared));
        }
        Ok(threads)
    }
}

/// Tensor maps among the parameters, with the bytes where they begin.
type Maps = Vec<(usize, TensorMap)>;

/// The parameter block, and the tensor maps in it with their places.
fn parameters(kernel: &Kernel, args: &[Arg]) -> Result<(Vec<u8>, Maps)> {
    if args.len() != kernel.parameters.len() {
        let (wants, has) = (kernel.parameters.len(), args.len());
        return Err(Error::Launch(format!(
            "{}: {wants} parameters are wanted, {has} are given",
            kernel.name
        )));
    }
    let (mut block, mut maps) = (vec![0; kernel.parameter_bytes], Vec::new());
    for (parameter, arg) in kernel.parameters.iter().zip(args) {
        let (bits, bytes) = match arg {
            Arg::Bits(bits, bytes) => (*bits, *bytes),
            Arg::Buffer(buffer) => (buffer.address(), 8),
            Arg::Map(map) => {
                map.check().map_err(|what| Error::Launch(format!("{}: {what}", parameter.name)))?;
                maps.push((parameter.offset, *map));
                (0, TensorMap::BYTES)
            }
        };
        if bytes != parameter.bytes {
            let (wants, name) = (parameter.bytes, &parameter.name);
            return Err(Error::Launch(format!("{}: {name} has {wants} bytes, not {bytes}", kernel.name)));
        }
        let value = &bits.to_le_bytes()[..bytes.min(8)];
        block[parameter.offset..][..value.len()].copy_from_slice(value);
    }
    Ok((block, maps))
}

/// Lets those go on that wait at a named barrier which has all its threads, if there is one.
fn release_named(warps: &mut [Warp]) -> bool {
    let named: Vec<_> = warps.iter().map(Warp::named).collect();
    let full = named.iter().flatten().find(|(name, count, _)| {
        named.iter().flatten().filter(|other| other.0 == *name).map(|other| other.2).sum::<u64>() == *count
    });
    let Some((name, ..)) = full.copied() else { return false };
    let mut clock = mbarrier::Clock::default();
    let mut here: Vec<&mut Warp> =
        warps.iter_mut().filter(|warp| warp.named().is_some_and(|named| named.0 == name)).collect();
    here.iter_mut().for_each(|warp| clock.join(&warp.tell()));
    for warp in here {
        warp.hear(&clock);
        warp.release();
    }
    true
}

/// What the threads of a block have in common.
struct Block<'a> {
    launch: &'a Launch<'a>,
    kernel: &'a Kernel,
    memory: &'a Memory,
    parameters: &'a [u8],
    maps: &'a [(usize, TensorMap)],
    index: [u32; 3],
    /// Among the grid's blocks.
    number: u32,
    threads: u32,
}

impl Block<'_> {
    fn run(&self, mut shared: Shared) -> Result<u64> {
        let mut warps: Vec<Warp> =
            (0..self.threads.div_ceil(32)).map(|number| Warp::new(self, number)).collect();
        let mut barriers = 0;
        loop {
            for warp in &mut warps {
                warp.run(self, &mut shared, barriers).map_err(|stop| self.fault(stop))?;
            }
            if warps.iter().all(Warp::is_done) {
                wgmma::check(&warps).map_err(|stop| self.fault(stop))?;
                return Ok(warps.iter().map(|warp| warp.instructions).sum());
            }
            let can_go_on =
                |warp: &Warp| !warp.is_done() && warp.waits().is_none() && warp.spins(&shared).is_none();
            if warps.iter().any(can_go_on) || release_named(&mut warps) {
                continue;
            }
            if let Some((at, thread)) = warps.iter().find_map(|warp| warp.spins(&shared)) {
                let what = "waits for ever at an mbarrier: nobody else can go on".into();
                return Err(self.fault(Stop { at, thread, what }));
            }
            // No warp can go on: all threads must wait at one and the same barrier.
            let (at, thread) = warps.iter().find_map(Warp::waits).expect("not done, so it waits");
            if let Some(missing) = warps.iter().find_map(|warp| warp.not_at(at)) {
                let what = format!("waits at a barrier that thread {missing} does not come to");
                return Err(self.fault(Stop { at, thread, what }));
            }
            barriers += 1;
            warps.iter_mut().for_each(Warp::release);
        }
    }

    /// The tensor map at this address.
    fn map(&self, address: u64) -> Option<&TensorMap> {
        let offset = address.checked_sub(warp::PARAMETERS)? as usize;
        self.maps.iter().find(|(place, _)| *place == offset).map(|(_, map)| map)
    }

    fn fault(&self, stop: Stop) -> Error {
        let [x, y, _] = self.launch.block;
        Error::Fault {
            kernel: self.kernel.name.clone(),
            line: self.kernel.code.get(stop.at).map_or(0, |instruction| instruction.line),
            block: self.index,
            thread: [stop.thread % x, stop.thread / x % y, stop.thread / (x * y)],
            what: stop.what,
        }
    }
}
