//! The values of a layer's weight, wherever they lie.

use std::borrow::Cow;

use half::{bf16, f16};

/// How a number is stored, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// IEEE half precision.
    F16,
    /// The upper half of single precision.
    Bf16,
    /// IEEE single precision.
    F32,
}

impl Format {
    /// Bytes of a value.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }
}

/// The values of a layer's weight in their order: numbers, or the bytes of a file, which a device takes as they are.
#[derive(Debug, Clone, Copy)]
pub enum Weight<'a> {
    /// Numbers.
    F32(&'a [f32]),
    /// Bytes, of which each [`Format::bytes`] are a value, at any address. A rest is not read.
    Stored(Format, &'a [u8]),
}

impl<'a> Weight<'a> {
    /// How many values there are.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::Stored(format, bytes) => bytes.len() / format.bytes(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them as numbers.
    pub fn to_f32(self) -> Cow<'a, [f32]> {
        match self {
            Self::F32(values) => Cow::Borrowed(values),
            Self::Stored(Format::F16, bytes) => Cow::Owned(
                bytes.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect(),
            ),
            Self::Stored(Format::Bf16, bytes) => Cow::Owned(
                bytes.as_chunks().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect(),
            ),
            Self::Stored(Format::F32, bytes) => {
                Cow::Owned(bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
            }
        }
    }
}

impl<'a> From<&'a [f32]> for Weight<'a> {
    fn from(values: &'a [f32]) -> Self {
        Self::F32(values)
    }
}

impl<'a> From<&'a Vec<f32>> for Weight<'a> {
    fn from(values: &'a Vec<f32>) -> Self {
        Self::F32(values)
    }
}

impl<'a, const N: usize> From<&'a [f32; N]> for Weight<'a> {
    fn from(values: &'a [f32; N]) -> Self {
        Self::F32(values)
    }
}
