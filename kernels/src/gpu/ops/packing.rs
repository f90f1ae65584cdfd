//! Weights as the kernels read them: fp16, row by row of the outputs, by taps, with the channels filled up to whole vectors.

use std::{sync::OnceLock, thread};

use half::{bf16, f16, slice::HalfFloatSliceExt};

use crate::weight::{Format, Weight};

/// Bytes that a thread of its own is worth: a tenth of a millisecond.
const PIECE: usize = 256 << 10;

/// Values that are narrowed at a time.
const BLOCK: usize = 256;

/// A weight in out, in, tap order.
pub struct Packing<'a> {
    pub weight: Weight<'a>,
    /// Of the input.
    pub channels: usize,
    pub taps: usize,
    /// The channels with what fills them up.
    pub padded: usize,
}

/// Threads that fill at the same time.
fn cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| thread::available_parallelism().map_or(1, usize::from))
}

impl Packing<'_> {
    /// Writes what belongs from byte `first` on, which begins a value, as much as `out` has room for: on all cores, where it is much.
    /// (Threads of their own, as whoever holds a lane's pinned memory must not wait for a pool in which others wait for that.)
    pub fn write(&self, first: usize, out: &mut [u8]) {
        self.write_on(cores(), first, out);
    }

    fn write_on(&self, threads: usize, first: usize, out: &mut [u8]) {
        let parts = (out.len() / PIECE).clamp(1, threads);
        let piece = out.len().div_ceil(parts).next_multiple_of(2).max(2);
        thread::scope(|scope| {
            let mut pieces = out.chunks_mut(piece).enumerate();
            let own = pieces.next();
            for (i, out) in pieces {
                scope.spawn(move || self.pack(first / 2 + i * piece / 2, out));
            }
            if let Some((_, out)) = own {
                self.pack(first / 2, out);
            }
        });
    }

    /// The same from value `first` on.
    fn pack(&self, first: usize, out: &mut [u8]) {
        let Self { channels, taps, padded, .. } = *self;
        let (mut rest, _) = out.as_chunks_mut::<2>();
        let mut position = first;
        while !rest.is_empty() {
            // The run of one tap's channels.
            let (row, tap, channel) =
                (position / (taps * padded), position / padded % taps, position % padded);
            let (run, after) = rest.split_at_mut((padded - channel).min(rest.len()));
            let (values, filling) = run.split_at_mut(channels.saturating_sub(channel).min(run.len()));
            position += values.len() + filling.len();
            if !values.is_empty() {
                self.gather((row * channels + channel) * taps + tap, values);
            }
            filling.fill([0; 2]);
            rest = after;
        }
    }

    /// The values of neighbouring channels, the first of which is at `from`.
    fn gather(&self, from: usize, to: &mut [[u8; 2]]) {
        match self.weight {
            Weight::Stored(Format::F16, bytes) => {
                let halves = &bytes.as_chunks().0[from..];
                match self.taps {
                    1 => to.copy_from_slice(&halves[..to.len()]),
                    taps => to.iter_mut().zip(halves.iter().step_by(taps)).for_each(|(to, half)| *to = *half),
                }
            }
            Weight::Stored(Format::Bf16, bytes) => {
                narrow(&bytes.as_chunks().0[from..], self.taps, to, |bytes| {
                    bf16::from_le_bytes(bytes).to_f32()
                });
            }
            Weight::Stored(Format::F32, bytes) => {
                narrow(&bytes.as_chunks().0[from..], self.taps, to, f32::from_le_bytes);
            }
            Weight::F32(values) => narrow(&values[from..], self.taps, to, |value| value),
        }
    }
}

/// Rounds every `step`th value to fp16.
fn narrow<T: Copy>(from: &[T], step: usize, to: &mut [[u8; 2]], value: impl Fn(T) -> f32) {
    let (mut floats, mut halves) = ([0f32; BLOCK], [f16::ZERO; BLOCK]);
    for (i, to) in to.chunks_mut(BLOCK).enumerate() {
        let (floats, halves) = (&mut floats[..to.len()], &mut halves[..to.len()]);
        let from = &from[i * BLOCK * step..];
        match step {
            1 => floats.iter_mut().zip(from).for_each(|(float, from)| *float = value(*from)),
            _ => floats
                .iter_mut()
                .zip(from.iter().step_by(step))
                .for_each(|(float, from)| *float = value(*from)),
        }
        halves.convert_from_f32_slice(floats);
        to.iter_mut().zip(halves).for_each(|(to, half)| *to = half.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A value by value reckoning.
    fn plain(weight: &[f32], outputs: usize, [channels, taps, padded]: [usize; 3]) -> Vec<u8> {
        let depth = taps * padded;
        let value = |at: usize| {
            let (output, tap, channel) = (at / depth, at % depth / padded, at % padded);
            if channel < channels { weight[(output * channels + channel) * taps + tap] } else { 0.0 }
        };
        (0..outputs * depth).flat_map(|at| f16::from_f32(value(at)).to_le_bytes()).collect()
    }

    #[test]
    fn weights_are_packed_to_the_bit_from_each_format() {
        // With ties, subnormal numbers of fp16, what it rounds to zero or to infinity, and signs.
        let special =
            [0.0, -0.0, 6e-8, 3e-8, -2e-5, 65504.0, 65519.0, 65520.0, 1e9, f32::INFINITY, 1.0 + 1.0 / 2048.0];
        for (outputs, channels, taps) in
            [(5, 8usize, 1), (3, 13, 1), (2, 3, 9), (7, 40, 9), (1, 1, 1), (3, 700, 1), (2, 300, 25)]
        {
            let padded = channels.next_multiple_of(8);
            let values: Vec<f32> =
                (0..outputs * channels * taps)
                    .map(|i| {
                        if i % 5 == 0 {
                            special[i / 5 % special.len()]
                        } else {
                            (i as f32 * 0.37).sin() * 2.0
                        }
                    })
                    .collect();
            let f16s: Vec<u8> = values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect();
            let bf16s: Vec<u8> =
                values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect();
            let f32s: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            // At an odd address, as a file may have it.
            let odd = |bytes: &[u8]| [&[0], bytes].concat();
            let (f16s, bf16s, f32s) = (odd(&f16s), odd(&bf16s), odd(&f32s));
            for weight in [
                Weight::F32(&values),
                Weight::Stored(Format::F16, &f16s[1..]),
                Weight::Stored(Format::Bf16, &bf16s[1..]),
                Weight::Stored(Format::F32, &f32s[1..]),
            ] {
                let expected = plain(&weight.to_f32(), outputs, [channels, taps, padded]);
                let packing = Packing { weight, channels, taps, padded };
                // In one piece, and in pieces that end anywhere.
                for size in [expected.len(), 2, 46] {
                    let mut out = vec![1; expected.len()];
                    out.chunks_mut(size).enumerate().for_each(|(i, out)| packing.write(i * size, out));
                    assert!(out == expected, "{outputs}, {channels}, {taps} by {size}: {weight:?}");
                }
            }
        }
    }

    #[test]
    fn threads_share_what_is_much() {
        let (outputs, channels) = (1024, 1021usize);
        let values: Vec<f32> = (0..outputs * channels).map(|i| (i as f32 * 0.37).sin()).collect();
        let padded = channels.next_multiple_of(8);
        let expected = plain(&values, outputs, [channels, 1, padded]);
        let packing = Packing { weight: Weight::F32(&values), channels, taps: 1, padded };
        for threads in [1, 3, 64] {
            let mut out = vec![1; expected.len()];
            packing.write_on(threads, 0, &mut out);
            assert!(out == expected, "{threads}");
        }
    }
}
