//! What a warp does together with matrices (PTX ISA: Warp-level Matrix Instructions).

use half::f16;

use super::{
    shared::Shared,
    warp::{Fault, LANES, Step, Warp},
};
use crate::instruction::Operand;

impl Warp {
    /// `mma.m16n8k16`: D = A B + C, A of 16 x 16 and B of 16 x 8 in fp16, C and D of 16 x 8 in fp32. Products are exact; they
    /// are added up in double precision and rounded once, where a device rounds in an order that is not specified.
    pub fn mma(&mut self, step: &Step, operands: &[Operand]) -> Result<(), Fault> {
        self.together(step)?;
        let [Operand::Vector(d), Operand::Vector(a), Operand::Vector(b), Operand::Vector(c)] = operands
        else {
            return Err((0, "mma takes four vectors".into()));
        };
        if (d.len(), a.len(), b.len(), c.len()) != (4, 4, 2, 4) {
            return Err((0, "mma.m16n8k16 takes vectors of 4, 4, 2 and 4 registers".into()));
        }
        if step.active != u32::MAX {
            return Err((0, "mma without a whole warp".into()));
        }
        let (mut first, mut second) = ([[0f64; 16]; 16], [[0f64; 8]; 16]);
        let mut sum = [[0f64; 8]; 16];
        for lane in 0..LANES {
            let (group, pair) = (lane / 4, 2 * (lane % 4));
            for (register, operand) in a.iter().enumerate() {
                let values = halves(self.read(step, operand, lane)?);
                let (row, column) = (group + 8 * (register % 2), pair + 8 * (register / 2));
                first[row][column..column + 2].copy_from_slice(&values);
            }
            for (register, operand) in b.iter().enumerate() {
                let values = halves(self.read(step, operand, lane)?);
                (second[pair + 8 * register][group], second[pair + 8 * register + 1][group]) =
                    (values[0], values[1]);
            }
            for (register, operand) in c.iter().enumerate() {
                let value = f32::from_bits(self.read(step, operand, lane)? as u32);
                sum[group + 8 * (register / 2)][pair + register % 2] = value.into();
            }
        }
        for (row, sums) in first.iter().zip(&mut sum) {
            for (column, total) in sums.iter_mut().enumerate() {
                *total += row.iter().zip(&second).map(|(x, line)| x * line[column]).sum::<f64>();
            }
        }
        for lane in 0..LANES {
            let (group, pair) = (lane / 4, 2 * (lane % 4));
            for (register, operand) in d.iter().enumerate() {
                let value = sum[group + 8 * (register / 2)][pair + register % 2] as f32;
                self.write(step, operand, lane, value.to_bits().into())?;
            }
        }
        Ok(())
    }

    /// `ldmatrix`: 8 x 8 matrices of 16 bits, of which lanes 8 i to 8 i + 7 give the rows' addresses. Each lane gets two
    /// neighbours of a row, or of a column where they are transposed.
    pub fn load_matrices(
        &mut self,
        step: &Step,
        shared: &mut Shared,
        count: usize,
        transposed: bool,
        to: &Operand,
        from: &Operand,
    ) -> Result<(), Fault> {
        self.together(step)?;
        if step.active != u32::MAX {
            return Err((0, "ldmatrix without a whole warp".into()));
        }
        let targets = match to {
            Operand::Vector(parts) => parts.as_slice(),
            one => std::slice::from_ref(one),
        };
        if targets.len() != count {
            return Err((0, format!("ldmatrix of {count} matrices into {} registers", targets.len())));
        }
        for (matrix, target) in targets.iter().enumerate() {
            let mut rows = [[0u64; 8]; 8];
            for (row, values) in rows.iter_mut().enumerate() {
                let lane = 8 * matrix + row;
                let address = self.read(step, from, lane)?;
                if !address.is_multiple_of(16) {
                    return Err((lane, format!("ldmatrix of a row at {address}: not a multiple of 16")));
                }
                for (column, value) in values.iter_mut().enumerate() {
                    let address = address + 2 * column as u64;
                    // The element's readers are in the whole warp; this one stands for them.
                    let read = shared.load(address, 2, self.thread(lane), self.now());
                    *value = read.map_err(|what| (lane, what))?;
                }
            }
            for lane in 0..LANES {
                let (row, pair) = (lane / 4, 2 * (lane % 4));
                let [low, high] = match transposed {
                    false => [rows[row][pair], rows[row][pair + 1]],
                    true => [rows[pair][row], rows[pair + 1][row]],
                };
                self.write(step, target, lane, low | high << 16)?;
            }
        }
        Ok(())
    }
}

fn halves(bits: u64) -> [f64; 2] {
    [bits as u16, (bits >> 16) as u16].map(|half| f16::from_bits(half).to_f64())
}
