//! Packed weights, in half precision where that loses nothing.
//!
//! Published models are mostly stored in half precision, so that every weight has a value of it. Such weights take half
//! of the memory, and half of the time to read; they are widened, a step of a multiplication at a time, into memory that
//! stays in the core's cache. The arithmetic is the same, and so is its result to the bit.

use super::buffer::{LANES, Lanes, Vector, zeroed};
use super::simd::{Simd, prefetch};
use crate::weight::{Format, Weight};
use half::{bf16, f16};
use rayon::prelude::*;

/// Sixteen values of neighbouring channels in half precision.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(crate) struct Halves([u16; LANES]);

impl Vector for Halves {
    type Value = u16;
    const ZERO: Self = Self([0; LANES]);

    fn values_mut(vectors: &mut [Self]) -> &mut [u16] {
        // SAFETY: `Halves` is `repr(C)` over sixteen halves and its alignment equals its size: no padding. Any halves are
        // valid.
        unsafe { std::slice::from_raw_parts_mut(vectors.as_mut_ptr().cast(), vectors.len() * LANES) }
    }
}

/// The order in which a layer keeps its weights.
pub(crate) trait Packer {
    /// All weights in that order; `value` gives each by its place in the layer's own order.
    fn pack<V: Vector>(&self, value: impl Fn(usize) -> V::Value + Sync) -> Vec<V>;
}

/// Weights of one layer, by vectors of [`LANES`].
pub(crate) enum Packed {
    /// As they were given.
    Single(Vec<Lanes>),
    /// In half precision.
    Half(Vec<Halves>),
}

/// Where a matrix lies: as it is, or in half precision.
#[derive(Clone, Copy)]
pub(crate) enum Matrix {
    /// As single precision.
    Single(*const f32),
    /// In half precision, with room for as many floats as are to be read at once.
    Half(*const u16, *mut f32),
}

impl From<*const f32> for Matrix {
    fn from(values: *const f32) -> Self {
        Self::Single(values)
    }
}

impl Packed {
    /// Packs a weight straight from where it lies: halves are not widened on the way.
    pub(crate) fn of(weight: Weight<'_>, packer: &impl Packer) -> Self {
        match weight {
            Weight::F32(values) => Self::new(packer.pack(|i| values[i])),
            Weight::Stored(Format::F32, bytes) => {
                let values = bytes.as_chunks().0;
                Self::new(packer.pack(|i| f32::from_le_bytes(values[i])))
            }
            Weight::Stored(Format::Bf16, bytes) => {
                let values = bytes.as_chunks().0;
                Self::new(packer.pack(|i| bf16::from_le_bytes(values[i]).to_f32()))
            }
            Weight::Stored(Format::F16, bytes) => {
                let values = bytes.as_chunks().0;
                let is_finite = |half: &[u8; 2]| u16::from_le_bytes(*half) & EXPONENT != EXPONENT;
                if values.par_iter().with_min_len(1 << 16).all(is_finite) {
                    Self::Half(packer.pack(|i| u16::from_le_bytes(values[i])))
                } else {
                    Self::new(packer.pack(|i| f16::from_le_bytes(values[i]).to_f32()))
                }
            }
        }
    }

    /// Keeps `lanes`, in half precision if all have such values.
    pub(crate) fn new(lanes: Vec<Lanes>) -> Self {
        if !lanes.par_iter().all(|lanes| lanes.0.iter().all(|x| narrow(*x).is_some())) {
            return Self::Single(lanes);
        }
        let mut halves: Vec<Halves> = zeroed(lanes.len());
        halves.par_iter_mut().zip(&lanes).for_each(|(halves, lanes)| {
            halves.0 = lanes.0.map(|x| narrow(x).unwrap_or_default());
        });
        Self::Half(halves)
    }

    /// How many of so many vectors of room a reader must have.
    pub(crate) fn room(&self, vectors: usize) -> usize {
        if matches!(self, Self::Half(_)) { vectors } else { 0 }
    }

    /// The weights, to be widened into `room`, of which the reader tells how much it needs.
    pub(crate) fn matrix(&self, room: *mut f32) -> Matrix {
        match self {
            Self::Single(lanes) => Matrix::Single(lanes.as_ptr().cast()),
            Self::Half(halves) => Matrix::Half(halves.as_ptr().cast(), room),
        }
    }

    /// Brings near a part of the `count` vectors from vector `first` on, which may not exist: this one of so many.
    #[inline(always)]
    pub(crate) fn prefetch_part(&self, first: usize, count: usize, [part, parts]: [usize; 2]) {
        let (start, size) = match self {
            Self::Single(lanes) => (lanes.as_ptr().wrapping_add(first).cast::<u8>(), size_of::<Lanes>()),
            Self::Half(halves) => (halves.as_ptr().wrapping_add(first).cast::<u8>(), size_of::<Halves>()),
        };
        let lines = count * size / size_of::<Lanes>();
        for i in lines * part / parts..lines * (part + 1) / parts {
            prefetch(start.wrapping_add(i * size_of::<Lanes>()));
        }
    }
}

impl Matrix {
    /// `count` vectors from vector `at` on, in single precision.
    ///
    /// # Safety
    /// The machine has the instructions of `S`; the vectors exist, and where the matrix has room it is for them.
    #[inline(always)]
    pub(crate) unsafe fn read<S: Simd>(self, at: usize, count: usize) -> *const f32 {
        // SAFETY: the caller's promises.
        unsafe {
            match self {
                Self::Single(values) => values.add(at * LANES),
                Self::Half(values, room) => {
                    for i in 0..count {
                        S::store(room.add(i * LANES), S::load_half(values.add((at + i) * LANES)));
                    }
                    room
                }
            }
        }
    }
}

/// A half's exponent: all of it is set in infinities and in what is no number.
const EXPONENT: u16 = 0x7c00;
/// The first exponents, as in `f32`'s bits, of normal halves and of what is too large for them.
const NORMAL: std::ops::Range<u32> = 113 << 23..143 << 23;
/// The bits of a mantissa that halves lack.
const LACKING: u32 = 13;
/// How far the exponents of both differ, as in `f32`'s bits.
const BIAS: u32 = 112 << 23;
/// Subnormal halves are whole multiples of this.
const UNIT: f32 = 1.0 / (1 << 24) as f32;

/// The half that has exactly the value `x`, if there is one.
#[inline(always)]
fn narrow(x: f32) -> Option<u16> {
    let (sign, magnitude) = ((x.to_bits() >> 16) as u16 & 0x8000, x.to_bits() & 0x7fff_ffff);
    if NORMAL.contains(&magnitude) && magnitude.is_multiple_of(1 << LACKING) {
        return Some(sign | ((magnitude - BIAS) >> LACKING) as u16);
    }
    let units = f32::from_bits(magnitude) / UNIT;
    (units < 1024.0 && units.fract() == 0.0).then_some(sign | units as u16)
}

/// The value of a finite half.
#[inline(always)]
pub(crate) fn widen(half: u16) -> f32 {
    let (sign, magnitude) = (u32::from(half & 0x8000) << 16, u32::from(half & 0x7fff));
    let normal = (magnitude << LACKING) + BIAS;
    let value = if magnitude < 1 << 10 { (magnitude as f32 * UNIT).to_bits() } else { normal };
    f32::from_bits(value | sign)
}

#[cfg(test)]
mod tests {
    use super::super::simd::{Level, Task};
    use super::*;

    /// Infinity, and what is no number after it.
    const INFINITY: u16 = 0x7c00;

    #[test]
    fn halves_come_back_at_every_level() {
        struct Read(Matrix, usize, Vec<u32>);
        impl Task for &mut Read {
            #[inline(always)]
            unsafe fn run<S: Simd>(self) {
                // SAFETY: the test's matrix has the vectors, and room for them.
                unsafe {
                    let values = self.0.read::<S>(1, self.1 - 1);
                    self.2.extend((0..(self.1 - 1) * LANES).map(|i| values.add(i).read().to_bits()));
                }
            }
        }
        let finite = (0..=u16::MAX).filter(|half| half & INFINITY != INFINITY);
        let values: Vec<f32> = finite.map(widen).collect();
        assert_eq!(values[1], UNIT);
        assert_eq!(values[0x3c00], 1.0);
        assert_eq!(values[0x7bff], 65504.0);
        let lanes: Vec<Lanes> = values.as_chunks().0.iter().map(|x| Lanes(*x)).collect();
        let packed = Packed::new(lanes.clone());
        assert!(matches!(packed, Packed::Half(_)));
        let expected: Vec<u32> = lanes[1..].iter().flat_map(|lanes| lanes.0).map(f32::to_bits).collect();
        for level in Level::available() {
            let mut room = vec![Lanes::ZERO; lanes.len()];
            let mut read = Read(packed.matrix(room.as_mut_ptr().cast()), lanes.len(), Vec::new());
            // SAFETY: the level is available.
            unsafe { level.run(&mut read) };
            assert!(read.2 == expected, "{level:?}");
        }
    }

    /// Each way of storing a weight, packed straight from there, against what it is as numbers.
    #[test]
    fn weights_are_packed_from_where_they_lie() {
        /// Backwards.
        struct Reversed(usize);
        impl Packer for Reversed {
            fn pack<V: Vector>(&self, value: impl Fn(usize) -> V::Value + Sync) -> Vec<V> {
                let mut vectors = zeroed(self.0 / LANES);
                let values = V::values_mut(&mut vectors).iter_mut().enumerate();
                values.for_each(|(i, target)| *target = value(self.0 - 1 - i));
                vectors
            }
        }
        let halves: Vec<u16> = (0..=u16::MAX).filter(|half| half & INFINITY != INFINITY).collect();
        let of_halves: Vec<u8> = halves.iter().flat_map(|half| half.to_le_bytes()).collect();
        let mut infinite = of_halves.clone();
        infinite[..2].copy_from_slice(&INFINITY.to_le_bytes());
        let of_floats: Vec<u8> = halves.iter().flat_map(|half| widen(*half).to_le_bytes()).collect();
        for (format, bytes, is_half) in [
            (Format::F16, &of_halves, true),
            (Format::F16, &infinite, false),
            (Format::F32, &of_floats, true),
            (Format::Bf16, &of_halves, false),
        ] {
            let weight = Weight::Stored(format, bytes);
            let expected: Vec<u32> = weight.to_f32().iter().rev().map(|x| x.to_bits()).collect();
            let actual: Vec<u32> = match Packed::of(weight, &Reversed(weight.len())) {
                Packed::Half(mut vectors) if is_half => {
                    Halves::values_mut(&mut vectors).iter().map(|half| widen(*half).to_bits()).collect()
                }
                Packed::Single(vectors) if !is_half => {
                    vectors.iter().flat_map(|lanes| lanes.0).map(f32::to_bits).collect()
                }
                _ => panic!("{format:?} is kept in another precision"),
            };
            assert!(actual == expected, "{format:?}");
        }
    }

    #[test]
    fn what_halves_lack_stays() {
        let lacking = [1.0 + f32::EPSILON, 65536.0, UNIT / 2.0, f32::INFINITY, f32::NAN, f32::MIN_POSITIVE];
        for value in lacking {
            let mut lanes = Lanes::ZERO;
            lanes.0[5] = value;
            let Packed::Single(kept) = Packed::new(vec![lanes]) else { panic!("{value} is no half") };
            assert_eq!(kept[0].0[5].to_bits(), value.to_bits());
        }
    }
}
