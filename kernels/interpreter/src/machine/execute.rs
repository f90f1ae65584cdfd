//! What each instruction does, lane by lane.

use super::{
    number::{binary, compare, convert, lop3, mad, prmt, unary},
    shared::Shared,
    warp::{Fault, LANES, Step, Warp, lanes},
};
use crate::instruction::{Binary, Op, Operand, Shuffle, Space, Type};

impl Warp {
    pub fn execute(&mut self, step: &Step, shared: &mut Shared) -> Result<(), Fault> {
        let (operands, flush) = (step.instruction.operands.as_slice(), step.instruction.flush);
        let operand = |at: usize| operands.get(at).ok_or((0, "an operand is missing".to_owned()));
        match step.instruction.op {
            Op::Mov(kind) => self.mov(step, kind, operand(0)?, operand(1)?),
            Op::Binary(op, kind) => self.each(step, |[a, b, _]| binary(op, kind, a, b, flush)),
            Op::Mad(product, kind) => self.each(step, |parts| mad(product, kind, parts, flush)),
            Op::Unary(op, kind) => self.each(step, |[a, ..]| unary(op, kind, a, flush)),
            Op::Setp(op, kind, with) => self.each(step, |[a, b, c]| {
                let holds = u64::from(compare(op, kind, a, b, flush)?);
                with.map_or(Ok(holds), |with| binary(with, Type::Pred, holds, c, false))
            }),
            Op::Selp(_) => self.each(step, |[a, b, c]| Ok(if c & 1 == 1 { a } else { b })),
            Op::Cvt { to, from, rounding, saturate } => {
                self.each(step, |[a, ..]| convert(to, from, rounding, saturate, a))
            }
            Op::CvtF16x2 => self.each(step, |[a, b, _]| {
                let half =
                    |bits| convert(Type::F16, Type::F32, crate::instruction::Rounding::Nearest, false, bits);
                Ok(half(a)? << 16 | half(b)?)
            }),
            Op::Prmt => self.each(step, |[a, b, c]| Ok(prmt(a, b, c))),
            Op::Lop3 => {
                let Operand::Immediate(table) = *operand(4)? else {
                    return Err((0, "lop3 without a table".into()));
                };
                self.each(step, |[a, b, c]| Ok(lop3(a, b, c, table)))
            }
            Op::Ld(space, kind) => self.load(step, shared, space, kind, operand(0)?, operand(1)?),
            Op::St(space, kind) => self.store(step, shared, space, kind, operand(0)?, operand(1)?),
            Op::Shfl(kind) => self.shuffle(step, kind, operands),
            Op::Mma => self.mma(step, operands),
            Op::Ldmatrix(count, transposed) => {
                self.load_matrices(step, shared, count, transposed, operand(0)?, operand(1)?)
            }
            Op::CpAsync(bytes) => self.copy(step, shared, bytes, operands),
            Op::CpAsyncCommit => {
                self.commit(step.active);
                Ok(())
            }
            Op::CpAsyncWait(left) => {
                self.wait(step.active, left, shared);
                Ok(())
            }
            Op::Atomic(space, op, kind, returns) => self.atomic(step, space, op, kind, returns, operands),
            Op::Fence => Ok(()),
            Op::MbarrierInit => self.init_mbarrier(step, shared, operand(0)?, operand(1)?),
            Op::MbarrierArrive(expects) => self.arrive(step, shared, expects, operands),
            Op::MbarrierTryWait => self.try_wait(step, shared, operands),
            Op::BulkTensor(dimensions) => self.bulk_tensor(step, shared, dimensions, operands),
            Op::Wgmma(n, from_registers) => self.wgmma(step, shared, n, from_registers, operands),
            Op::WgmmaFence => {
                self.together(step)?;
                self.multiplications.fence(self.instructions);
                Ok(())
            }
            Op::WgmmaCommit => {
                self.together(step)?;
                self.multiplications.commit();
                Ok(())
            }
            Op::WgmmaWait(left) => {
                self.together(step)?;
                let (warp, now) = (self.number(), self.moment());
                self.multiplications.wait(left, warp, now, shared);
                Ok(())
            }
            Op::SetMaxNReg => self.together(step),
            Op::Bra(_) | Op::Ret | Op::Barrier | Op::NamedBarrier | Op::WarpBarrier => {
                unreachable!("the warp does these itself")
            }
        }
    }

    /// A result from up to three operands.
    fn each(&mut self, step: &Step, compute: impl Fn([u64; 3]) -> Result<u64, String>) -> Result<(), Fault> {
        let [to, from @ ..] = step.instruction.operands.as_slice() else {
            return Err((0, "an instruction without operands".into()));
        };
        for lane in lanes(step.active) {
            let mut values = [0; 3];
            for (value, operand) in values.iter_mut().zip(from) {
                *value = self.read(step, operand, lane)?;
            }
            let result = compute(values).map_err(|what| (lane, what))?;
            self.write(step, to, lane, result)?;
        }
        Ok(())
    }

    /// Also packs a vector into a register, the first part lowest, and unpacks one.
    fn mov(&mut self, step: &Step, kind: Type, to: &Operand, from: &Operand) -> Result<(), Fault> {
        for lane in lanes(step.active) {
            let bits = match from {
                Operand::Vector(parts) => {
                    let width = 8 * kind.bytes() / parts.len();
                    let mut bits = 0;
                    for (at, part) in parts.iter().enumerate() {
                        bits |= (self.read(step, part, lane)? & (u64::MAX >> (64 - width))) << (width * at);
                    }
                    bits
                }
                from => self.read(step, from, lane)?,
            };
            match to {
                Operand::Vector(parts) => {
                    let width = 8 * kind.bytes() / parts.len();
                    for (at, part) in parts.iter().enumerate() {
                        self.write(step, part, lane, bits >> (width * at) & (u64::MAX >> (64 - width)))?;
                    }
                }
                to => self.write(step, to, lane, bits)?,
            }
        }
        Ok(())
    }

    fn load(
        &mut self,
        step: &Step,
        shared: &mut Shared,
        space: Space,
        kind: Type,
        to: &Operand,
        from: &Operand,
    ) -> Result<(), Fault> {
        let targets = parts(to);
        let (bytes, block) = (kind.bytes(), step.block);
        for lane in lanes(step.active) {
            let thread = self.thread(lane);
            if space == Space::Param {
                let Operand::Param(at) = from else {
                    return Err((lane, "ld.param without a parameter".into()));
                };
                let content = block.parameters.get(*at..at + bytes * targets.len());
                let content = content.ok_or((lane, "reads past the parameters".to_owned()))?;
                for (target, value) in targets.iter().zip(content.chunks_exact(bytes)) {
                    let mut bits = [0; 8];
                    bits[..bytes].copy_from_slice(value);
                    self.write(step, target, lane, extended(kind, u64::from_le_bytes(bits)))?;
                }
                continue;
            }
            let address = self.read(step, from, lane)?;
            aligned(address, bytes * targets.len()).map_err(|what| (lane, what))?;
            for (at, target) in targets.iter().enumerate() {
                let address = address + (at * bytes) as u64;
                let bits = match space {
                    Space::Shared => shared.load(address, bytes, thread, self.now()),
                    _ => block.memory.load(address, bytes, self.in_grid(step, lane), block.threads),
                };
                self.write(step, target, lane, extended(kind, bits.map_err(|what| (lane, what))?))?;
            }
        }
        Ok(())
    }

    fn store(
        &mut self,
        step: &Step,
        shared: &mut Shared,
        space: Space,
        kind: Type,
        to: &Operand,
        from: &Operand,
    ) -> Result<(), Fault> {
        let sources = parts(from);
        let bytes = kind.bytes();
        for lane in lanes(step.active) {
            let address = self.read(step, to, lane)?;
            aligned(address, bytes * sources.len()).map_err(|what| (lane, what))?;
            for (at, source) in sources.iter().enumerate() {
                let (bits, address) = (self.read(step, source, lane)?, address + (at * bytes) as u64);
                let stored = match space {
                    Space::Shared => shared.store(address, bytes, bits, self.thread(lane), self.now()),
                    _ => step.block.memory.store(address, bytes, bits, self.in_grid(step, lane)),
                };
                stored.map_err(|what| (lane, what))?;
            }
        }
        Ok(())
    }

    /// The thread's number in the grid.
    fn in_grid(&self, step: &Step, lane: usize) -> u32 {
        step.block.number * step.block.threads + self.thread(lane)
    }

    /// `shfl.sync` over the whole warp: `dst, src, b, c, mask` (Data Movement: shfl.sync).
    fn shuffle(&mut self, step: &Step, kind: Shuffle, operands: &[Operand]) -> Result<(), Fault> {
        self.together(step)?;
        let [to, from, by, clamp, _] = operands else {
            return Err((0, "shfl.sync takes five operands".into()));
        };
        let mut values = [None; LANES];
        for lane in lanes(step.active) {
            values[lane] = Some(self.read(step, from, lane)?);
        }
        let mut results = [0; LANES];
        for lane in lanes(step.active) {
            let (by, clamp) =
                (self.read(step, by, lane)? as usize & 31, self.read(step, clamp, lane)? as usize);
            let segment = clamp >> 8 & 31;
            let (first, last) = (lane & segment, lane & segment | clamp & 31 & !segment);
            let source = match kind {
                Shuffle::Up if lane >= by && lane - by >= first => lane - by,
                Shuffle::Down if lane + by <= last => lane + by,
                Shuffle::Butterfly if lane ^ by <= last => lane ^ by,
                Shuffle::Index if first | by & !segment <= last => first | by & !segment,
                _ => lane,
            };
            let value =
                values[source].ok_or((lane, format!("takes the value of lane {source}, which is gone")))?;
            results[lane] = value;
        }
        lanes(step.active).try_for_each(|lane| self.write(step, to, lane, results[lane]))
    }

    /// `cp.async [dst], [src], bytes{, from memory}`: what does not come from memory is zero.
    fn copy(
        &mut self,
        step: &Step,
        shared: &mut Shared,
        bytes: usize,
        operands: &[Operand],
    ) -> Result<(), Fault> {
        let (to, from) = (&operands[0], &operands[1]);
        for lane in lanes(step.active) {
            let (target, source) = (self.read(step, to, lane)?, self.read(step, from, lane)?);
            let wanted =
                operands.get(3).map_or(Ok(bytes as u64), |wanted| self.read(step, wanted, lane))? as usize;
            if wanted > bytes {
                return Err((lane, format!("cp.async of {wanted} of {bytes} bytes")));
            }
            aligned(source, bytes).map_err(|what| (lane, what))?;
            let mut content = vec![0; bytes];
            for (at, byte) in content[..wanted].iter_mut().enumerate() {
                let (address, thread) = (source + at as u64, self.in_grid(step, lane));
                let read = step.block.memory.load(address, 1, thread, step.block.threads);
                *byte = read.map_err(|what| (lane, what))? as u8;
            }
            shared
                .begin_copy(target, &content, self.thread(lane), self.now())
                .map_err(|what| (lane, what))?;
            self.copies(lane, target, bytes);
        }
        Ok(())
    }

    fn atomic(
        &mut self,
        step: &Step,
        space: Space,
        op: Binary,
        kind: Type,
        returns: bool,
        operands: &[Operand],
    ) -> Result<(), Fault> {
        if space != Space::Global {
            return Err((0, "atomics are known on global memory only".into()));
        }
        let (to, rest) = if returns { operands.split_at(1) } else { (&[][..], operands) };
        let [at, by] = rest else { return Err((0, "an atomic takes an address and a value".into())) };
        for lane in lanes(step.active) {
            let (address, by) = (self.read(step, at, lane)?, self.read(step, by, lane)?);
            let change = |old| binary(op, kind, old, by, step.instruction.flush).unwrap_or(old);
            let old = step.block.memory.change(address, kind.bytes(), change).map_err(|what| (lane, what))?;
            if let [to] = to {
                self.write(step, to, lane, old)?;
            }
        }
        Ok(())
    }
}

fn parts(operand: &Operand) -> &[Operand] {
    match operand {
        Operand::Vector(parts) => parts,
        one => std::slice::from_ref(one),
    }
}

/// A signed value in a register that is wider than it.
fn extended(kind: Type, bits: u64) -> u64 {
    match kind {
        Type::Signed(width) => ((bits << (64 - width)) as i64 >> (64 - width)) as u64,
        _ => bits,
    }
}

/// A vector is aligned to all of it.
fn aligned(address: u64, bytes: usize) -> Result<(), String> {
    match address.is_multiple_of(bytes as u64) {
        true => Ok(()),
        false => Err(format!("a misaligned access of {bytes} bytes at {address:#x}")),
    }
}
