//! One tensor of a file, or a part of one.

use std::sync::Arc;

use reverie_kernels::{Format, Weight};
use safetensors::Dtype;

use super::{finite, source::Source};
use crate::error::Result;

/// Values are looked at while they are in a core's cache.
const BLOCK: usize = 256 << 10;
/// Bytes of the largest tensor that is read: the largest of any model have a tenth of it.
const LARGEST: usize = 16 << 30;

/// Where a tensor lies.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(super) source: Arc<Source>,
    /// The name in the file, for messages.
    pub(super) origin: Arc<str>,
    pub(super) dtype: Dtype,
    /// As it is read: after the transposition, where there is one.
    pub(super) shape: Vec<usize>,
    /// In the file, in bytes.
    pub(super) start: u64,
    /// In bytes.
    pub(super) len: usize,
    /// Whether the file has columns for rows.
    pub(super) transposed: bool,
}

/// What was found where a tensor's values lie.
pub(super) enum Found<T> {
    Values(T),
    /// A type that is not read.
    OtherType,
    /// NaN or an infinite one.
    NotFinite,
    /// More than can be allocated.
    TooLarge,
}

impl<T> Found<T> {
    fn map<U>(self, change: impl FnOnce(T) -> U) -> Found<U> {
        match self {
            Self::Values(values) => Found::Values(change(values)),
            Self::OtherType => Found::OtherType,
            Self::NotFinite => Found::NotFinite,
            Self::TooLarge => Found::TooLarge,
        }
    }
}

impl Entry {
    /// The one numbered `index` of `parts` equal parts along the first axis; none where that can't be divided so.
    pub(crate) fn part(&self, index: usize, parts: usize) -> Option<Self> {
        let rows = *self.shape.first()?;
        if parts == 0 || index >= parts || rows % parts != 0 || self.transposed {
            return None;
        }
        let len = self.len / parts;
        let shape = [&[rows / parts], &self.shape[1..]].concat();
        Some(Self { start: self.start + (index * len) as u64, len, shape, ..self.clone() })
    }

    /// Rows for columns; none for what is not a matrix.
    pub(crate) fn transposed(&self) -> Option<Self> {
        let [rows, columns] = self.shape[..] else { return None };
        Some(Self { shape: vec![columns, rows], transposed: !self.transposed, ..self.clone() })
    }

    /// A 1x1 convolution's (out, in, 1, 1) as a linear layer's (out, in); anything else as it is.
    pub(crate) fn linear(&self) -> Self {
        match self.shape[..] {
            [outputs, inputs, 1, 1] => Self { shape: vec![outputs, inputs], ..self.clone() },
            _ => self.clone(),
        }
    }

    pub(super) fn format(&self) -> Option<Format> {
        match self.dtype {
            Dtype::F32 => Some(Format::F32),
            Dtype::F16 => Some(Format::F16),
            Dtype::BF16 => Some(Format::Bf16),
            _ => None,
        }
    }

    /// Its bytes as the file has them.
    ///
    /// # Errors
    /// [`crate::Error::Changed`], [`crate::Error::File`].
    pub(super) fn bytes(&self) -> Result<Found<(Format, Vec<u8>)>> {
        let Some(format) = self.format() else { return Ok(Found::OtherType) };
        // A tensor that memory does not hold is an error, where an allocation that fails ends the process.
        if self.len > LARGEST || Vec::<u8>::new().try_reserve_exact(self.len).is_err() {
            return Ok(Found::TooLarge);
        }
        let mut bytes = vec![0; self.len];
        let mut finite = true;
        for (block, at) in bytes.chunks_mut(BLOCK).zip((self.start..).step_by(BLOCK)) {
            self.source.read(block, at)?;
            finite &= finite::are_finite(format, block);
        }
        self.source.check_unchanged()?;
        Ok(if finite { Found::Values((format, bytes)) } else { Found::NotFinite })
    }

    /// Whether its values can be had, without keeping them.
    ///
    /// # Errors
    /// Those of [`Entry::bytes`].
    pub(super) fn look(&self) -> Result<Found<()>> {
        let Some(format) = self.format() else { return Ok(Found::OtherType) };
        let mut block = vec![0; self.len.min(BLOCK)];
        let mut finite = true;
        for at in (0..self.len).step_by(BLOCK) {
            let block = &mut block[..BLOCK.min(self.len - at)];
            self.source.read(block, self.start + at as u64)?;
            finite &= finite::are_finite(format, block);
        }
        self.source.check_unchanged()?;
        Ok(if finite { Found::Values(()) } else { Found::NotFinite })
    }

    /// Its values in the order of its shape.
    ///
    /// # Errors
    /// Those of [`Entry::bytes`].
    pub(super) fn values(&self) -> Result<Found<Vec<f32>>> {
        Ok(self.bytes()?.map(|(format, bytes)| {
            let values = Weight::Stored(format, &bytes).to_f32().into_owned();
            if self.transposed { transpose(&values, &self.shape) } else { values }
        }))
    }
}

/// `values` are in column order of a matrix of this shape; the result is in row order.
fn transpose(values: &[f32], shape: &[usize]) -> Vec<f32> {
    let (rows, columns) = (shape[0], shape[1]);
    (0..rows).flat_map(|row| (0..columns).map(move |column| values[column * rows + row])).collect()
}
