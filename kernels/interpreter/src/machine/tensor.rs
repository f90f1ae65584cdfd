//! Copies of boxes of a tensor to shared memory, which an mbarrier tells the end of (PTX ISA: Asynchronous Data Movement).

use super::{
    memory::Buffer,
    shared::Shared,
    warp::{Fault, Step, Warp, lanes},
};
use crate::instruction::Operand;

/// A tensor of four dimensions in global memory, of fp16, and the box of it that a copy takes: what
/// `cuTensorMapEncodeTiled` encodes, with `CU_TENSOR_MAP_SWIZZLE_128B` and no interleaving. What lies outside of the tensor is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorMap {
    /// Where it lies.
    pub buffer: Buffer,
    /// Values by dimension, the innermost first.
    pub dimensions: [u64; 4],
    /// Bytes from one to the next, of all dimensions but the innermost.
    pub strides: [u64; 3],
    /// Values of the box by dimension.
    pub shape: [u32; 4],
}

/// Bytes of a row of a box, of which eight rows are swizzled together.
const ROW: u64 = 128;

impl TensorMap {
    /// Of `CUtensorMap`.
    pub const BYTES: usize = 128;

    /// Whether the driver would take it.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.dimensions.contains(&0) || self.strides.iter().any(|stride| !stride.is_multiple_of(16)) {
            return Err(format!("a tensor map of {:?} with strides {:?}", self.dimensions, self.strides));
        }
        if self.shape.iter().any(|side| !(1..=256).contains(side)) || u64::from(self.shape[0]) * 2 != ROW {
            return Err(format!("a tensor map with a box of {:?}", self.shape));
        }
        Ok(())
    }
}

/// Where 128-byte swizzling puts what would be at this address: which of a row's eight parts of 16 bytes, by the row.
pub fn swizzled(address: u64) -> u64 {
    address ^ (address >> 7 & 7) << 4
}

impl Warp {
    /// `mbarrier.init [address], count`
    pub fn init_mbarrier(
        &mut self,
        step: &Step,
        shared: &mut Shared,
        at: &Operand,
        count: &Operand,
    ) -> Result<(), Fault> {
        for lane in lanes(step.active) {
            let (address, count) = (self.read(step, at, lane)?, self.read(step, count, lane)?);
            let made = shared.mbarriers.init(address, count, self.thread(lane), self.moment());
            made.map_err(|what| (lane, what))?;
        }
        Ok(())
    }

    /// `mbarrier.arrive _, [address]` and `mbarrier.arrive.expect_tx _, [address], bytes`. A lane speaks for its whole warp,
    /// whose lanes are in step here.
    pub fn arrive(
        &mut self,
        step: &Step,
        shared: &mut Shared,
        expects: bool,
        operands: &[Operand],
    ) -> Result<(), Fault> {
        let [Operand::Sink, at, rest @ ..] = operands else {
            return Err((0, "mbarrier.arrive is known with a state of _ only".into()));
        };
        for lane in lanes(step.active) {
            let address = self.read(step, at, lane)?;
            let bytes = match rest {
                [bytes] if expects => self.read(step, bytes, lane)?,
                [] if !expects => 0,
                _ => return Err((lane, "mbarrier.arrive with other operands".into())),
            };
            let (thread, now, clock) = (self.thread(lane), self.moment(), self.tell());
            let arrived = shared.mbarriers.arrive(address, bytes, thread, now, &clock);
            arrived.map_err(|what| (lane, what))?;
        }
        Ok(())
    }

    /// `mbarrier.try_wait.parity done, [address], parity`
    pub fn try_wait(&mut self, step: &Step, shared: &mut Shared, operands: &[Operand]) -> Result<(), Fault> {
        let [to, at, parity] = operands else {
            return Err((0, "mbarrier.try_wait takes a result, an address and a parity".into()));
        };
        for lane in lanes(step.active) {
            let (address, parity) = (self.read(step, at, lane)?, self.read(step, parity, lane)?);
            let over = shared.mbarriers.try_wait(address, parity, self.thread(lane), self.moment());
            let over = over.map_err(|what| (lane, what))?.map(|(phases, clock)| (phases, clock.clone()));
            let phases = over.map(|(phases, clock)| {
                self.hear(&clock);
                phases
            });
            self.saw(address, phases, shared);
            self.write(step, to, lane, phases.is_some().into())?;
        }
        Ok(())
    }

    /// `cp.async.bulk.tensor [to], [map, {coordinates}], [mbarrier]`
    pub fn bulk_tensor(
        &mut self,
        step: &Step,
        shared: &mut Shared,
        dimensions: usize,
        operands: &[Operand],
    ) -> Result<(), Fault> {
        let [to, Operand::Tensor(map, coordinates), mbarrier] = operands else {
            return Err((0, "cp.async.bulk.tensor takes [to], [map, {coordinates}], [mbarrier]".into()));
        };
        if dimensions != 4 || coordinates.len() != 4 {
            return Err((0, "tensor maps of four dimensions are known only".into()));
        }
        for lane in lanes(step.active) {
            let fault = |what: String| (lane, what);
            let (to, map) = (self.read(step, to, lane)?, self.read(step, map, lane)?);
            let map =
                *step.block.map(map).ok_or_else(|| fault(format!("there is no tensor map at {map:#x}")))?;
            let mbarrier = self.read(step, mbarrier, lane)?;
            if !to.is_multiple_of(ROW) {
                return Err(fault(format!("a bulk copy to {to}, which is no multiple of {ROW}")));
            }
            let mut first = [0i64; 4];
            for (first, coordinate) in first.iter_mut().zip(coordinates) {
                *first = self.read(step, coordinate, lane)? as u32 as i32 as i64;
            }
            let (thread, in_grid) =
                (self.thread(lane), step.block.number * step.block.threads + self.thread(lane));
            let phase = shared.mbarriers.phase(mbarrier, thread, self.moment()).map_err(fault)?;
            let [width, sides @ ..] = map.shape.map(u64::from);
            let rows = sides.iter().product::<u64>();
            for row in 0..rows {
                let offsets = [row % sides[0], row / sides[0] % sides[1], row / (sides[0] * sides[1])];
                for column in 0..width {
                    let mut address = map.buffer.address();
                    let mut inside = true;
                    let places = std::iter::once(column)
                        .chain(offsets)
                        .zip(first)
                        .map(|(offset, first)| first + offset as i64);
                    for (dimension, place) in places.enumerate() {
                        inside &= (0..map.dimensions[dimension] as i64).contains(&place);
                        let stride = if dimension == 0 { 2 } else { map.strides[dimension - 1] };
                        address = address.wrapping_add_signed(place.wrapping_mul(stride as i64));
                    }
                    let value = match inside {
                        true => {
                            step.block.memory.load(address, 2, in_grid, step.block.threads).map_err(fault)?
                                as u16
                        }
                        false => 0,
                    };
                    let place = swizzled(to + row * ROW + 2 * column);
                    shared.bulk_copy(place, value, thread, self.now(), (mbarrier, phase)).map_err(fault)?;
                }
            }
            shared.mbarriers.complete(mbarrier, (rows * ROW) as usize);
        }
        Ok(())
    }
}
