//! Matrix products of a warp group, four warps, on operands in shared memory (PTX ISA: Asynchronous Warpgroup Level Matrix
//! Instructions). They run while the warps go on: until they have been waited for, their results may not be read, nor what they read
//! be written.

use std::collections::VecDeque;

use half::f16;

use super::{
    shared::{Moment, Shared},
    tensor::swizzled,
    warp::{Fault, LANES, Step, Stop, Warp, lanes},
};
use crate::instruction::{Operand, Reg};

/// What those of a group read and write.
#[derive(Default)]
struct Group {
    results: Vec<Reg>,
    operands: Vec<Reg>,
    /// Addresses of 2 bytes.
    shared: Vec<u64>,
}

/// The products of a warp that are under way.
pub struct Multiplications {
    open: Group,
    groups: VecDeque<Group>,
    /// By register, products in flight that write and read it.
    writing: Vec<u32>,
    reading: Vec<u32>,
    /// By register, the instruction that wrote it last otherwise; and the last `wgmma.fence`.
    written: Vec<u64>,
    fenced: u64,
    /// Which ones there were: all warps of a group must do the same.
    done: Vec<usize>,
}

impl Multiplications {
    pub fn new(registers: usize) -> Self {
        Self {
            open: Group::default(),
            groups: VecDeque::new(),
            writing: vec![0; registers],
            reading: vec![0; registers],
            written: vec![0; registers],
            fenced: 0,
            done: Vec::new(),
        }
    }

    pub fn check_read(&self, register: Reg) -> Result<(), String> {
        match self.writing[register as usize] {
            0 => Ok(()),
            _ => Err("reads a register that a wgmma may still write: wgmma.wait_group is missing".into()),
        }
    }

    pub fn note_write(&mut self, register: Reg, instruction: u64) -> Result<(), String> {
        if self.writing[register as usize] + self.reading[register as usize] > 0 {
            return Err("writes a register that a wgmma may still use: wgmma.wait_group is missing".into());
        }
        self.written[register as usize] = instruction;
        Ok(())
    }

    pub fn fence(&mut self, instruction: u64) {
        self.fenced = instruction;
    }

    pub fn commit(&mut self) {
        self.groups.push_back(std::mem::take(&mut self.open));
    }

    /// Waits until at most `left` groups are in flight.
    pub fn wait(&mut self, left: usize, warp: u32, now: Moment, shared: &mut Shared) {
        while self.groups.len() > left {
            let group = self.groups.pop_front().expect("there are more than none");
            group.results.iter().for_each(|register| self.writing[*register as usize] -= 1);
            group.operands.iter().for_each(|register| self.reading[*register as usize] -= 1);
            group.shared.iter().for_each(|address| shared.end_multiply(*address, warp, now));
        }
    }

    /// Puts registers in use for a product of the open group.
    fn begin(&mut self, results: &[Reg], operands: &[Reg]) -> Result<(), String> {
        let late = |register: &Reg| self.written[*register as usize] > self.fenced;
        if results.iter().chain(operands).any(late) {
            return Err("a register of a wgmma was written after the last wgmma.fence".into());
        }
        results.iter().for_each(|register| self.writing[*register as usize] += 1);
        operands.iter().for_each(|register| self.reading[*register as usize] += 1);
        self.open.results.extend(results);
        self.open.operands.extend(operands);
        Ok(())
    }
}

/// Whether all warps of each group did the same products.
pub fn check(warps: &[Warp]) -> Result<(), Stop> {
    for group in warps.chunks(4) {
        for warp in group {
            let (first, own) = (&group[0].multiplications.done, &warp.multiplications.done);
            if first != own {
                let at =
                    own.iter().zip(first).position(|(a, b)| a != b).unwrap_or(own.len().min(first.len()));
                let at = own.get(at).or(first.get(at)).copied().unwrap_or(0);
                let what = "the warps of a warp group do not do the same wgmmas".into();
                return Err(Stop { at, thread: warp.thread(0), what });
            }
            if !warp.multiplications.groups.is_empty() || !warp.multiplications.open.results.is_empty() {
                let at = own.last().copied().unwrap_or(0);
                return Err(Stop {
                    at,
                    thread: warp.thread(0),
                    what: "returns before its wgmmas are done".into(),
                });
            }
        }
    }
    Ok(())
}

/// An operand in shared memory, as its descriptor has it: 128-byte swizzled, its rows or its columns in memory one after
/// another.
struct Matrix {
    start: u64,
    leading: u64,
    stride: u64,
}

impl Matrix {
    fn decode(bits: u64) -> Result<Self, String> {
        let field = |from: u32| (bits >> from & 0x3FFF) << 4;
        if bits >> 62 != 1 || bits >> 49 & 7 != 0 {
            return Err(format!(
                "descriptor {bits:#018x}: only 128-byte swizzling without a base offset is known"
            ));
        }
        Ok(Self { start: field(0), leading: field(16), stride: field(32) })
    }

    /// Where the value of `row` of the outer dimension (M or N) and `k` lies. In memory the values of one k follow each other
    /// where `outer_first`, else those of one row.
    fn address(&self, row: u64, k: u64, outer_first: bool) -> u64 {
        let plain = match outer_first {
            // 8 rows of 128 bytes, and so on after `stride`.
            false => row % 8 * 128 + row / 8 * self.stride + 2 * k,
            // 64 values of each k, and so on after `leading`; 8 of k, and so on after `stride`.
            true => row % 64 * 2 + row / 64 * self.leading + k % 8 * 128 + k / 8 * self.stride,
        };
        swizzled(self.start + plain)
    }
}

impl Warp {
    /// `wgmma.mma_async.m64nNk16`: D = A B (+ D), of which a warp has 16 rows. A is in registers as `mma.m16n8k16` has it, or in shared
    /// memory, as B is. Sums are in double precision and rounded once.
    pub fn wgmma(
        &mut self,
        step: &Step,
        shared: &mut Shared,
        n: usize,
        from_registers: bool,
        operands: &[Operand],
    ) -> Result<(), Fault> {
        self.together(step)?;
        let form = || {
            (
                0,
                "wgmma takes {d}, a, b, predicate, 1, 1 and whether operands in shared memory are transposed"
                    .to_owned(),
            )
        };
        let [Operand::Vector(d), a, b, add, Operand::Immediate(1), Operand::Immediate(1), transposed @ ..] =
            operands
        else {
            return Err(form());
        };
        let transposed: Vec<bool> = transposed.iter().map(|flag| *flag == Operand::Immediate(1)).collect();
        let (a_transposed, b_transposed) = match transposed[..] {
            [a, b] if !from_registers => (a, b),
            [b] if from_registers => (false, b),
            _ => return Err(form()),
        };
        if step.active != u32::MAX || d.len() != n / 2 {
            return Err((
                0,
                format!("a wgmma of {n} columns into {} registers by lanes {:#x}", d.len(), step.active),
            ));
        }
        let thread = self.thread(0);
        let mut read = Vec::new();
        let mut matrix = |warp: &Self,
                          operand: &Operand,
                          rows: usize,
                          outer_first: bool|
         -> Result<Vec<[f64; 16]>, Fault> {
            let bits = warp.read(step, operand, 0)?;
            for lane in 1..LANES {
                if warp.read(step, operand, lane)? != bits {
                    return Err((lane, "the descriptor of a wgmma differs between lanes".into()));
                }
            }
            let place = Matrix::decode(bits).map_err(|what| (0, what))?;
            let mut values = vec![[0.0; 16]; rows];
            for (row, values) in values.iter_mut().enumerate() {
                for (k, value) in values.iter_mut().enumerate() {
                    let address = place.address(row as u64, k as u64, outer_first);
                    let bits =
                        shared.begin_multiply(address, thread, warp.now()).map_err(|what| (0, what))?;
                    read.push(address);
                    *value = f16::from_bits(bits).to_f64();
                }
            }
            Ok(values)
        };
        let second = matrix(self, b, n, b_transposed)?;
        let (first, sources) = match a {
            Operand::Vector(parts) if parts.len() == 4 => {
                let mut first = vec![[0.0; 16]; 16];
                for (lane, (part, operand)) in
                    (0..LANES).flat_map(|lane| parts.iter().enumerate().map(move |part| (lane, part)))
                {
                    let (row, column) = (lane / 4 + 8 * (part % 2), 2 * (lane % 4) + 8 * (part / 2));
                    let bits = self.read(step, operand, lane)?;
                    let values = [bits as u16, (bits >> 16) as u16].map(|half| f16::from_bits(half).to_f64());
                    first[row][column..column + 2].copy_from_slice(&values);
                }
                (first, registers(parts)?)
            }
            // All of its rows count as read by each warp, as no document says which one reads which.
            _ => (
                matrix(self, a, 64, a_transposed)?.split_off(16 * (self.number() as usize % 4))[..16]
                    .to_vec(),
                Vec::new(),
            ),
        };
        let results = registers(d)?;
        for lane in lanes(step.active) {
            for (at, register) in results.iter().enumerate() {
                let (row, column) = (lane / 4 + 8 * (at / 2 % 2), 8 * (at / 4) + 2 * (lane % 4) + at % 2);
                let before = match self.read(step, add, lane)? & 1 {
                    1 => f32::from_bits(self.accumulated(*register, lane)? as u32),
                    _ => 0.0,
                };
                let product: f64 = first[row].iter().zip(&second[column]).map(|(x, y)| x * y).sum();
                self.accumulate(*register, lane, ((product + f64::from(before)) as f32).to_bits().into());
            }
        }
        self.multiplications.begin(&results, &sources).map_err(|what| (0, what))?;
        self.multiplications.open.shared.append(&mut read);
        self.multiplications.done.push(self.place());
        Ok(())
    }
}

fn registers(operands: &[Operand]) -> Result<Vec<Reg>, Fault> {
    let register = |operand: &Operand| match operand {
        Operand::Reg(register) => Ok(*register),
        _ => Err((0, "a wgmma takes registers".to_owned())),
    };
    operands.iter().map(register).collect()
}
