//! Whether what a model made is numbers. A value that is none spreads over everything after it, and ends as a picture of one colour.

use std::sync::Arc;

use reverie_kernels::{Activation, Backend, Conv2dDesc};

use crate::{
    error::{Error, Result},
    weights::Weights,
};

/// A part of a model, to be named where it made something else than numbers.
#[derive(Clone)]
pub(crate) struct Part {
    name: &'static str,
    file: Arc<str>,
}

impl Part {
    /// `name` is as `the UNet`.
    pub(crate) fn new(name: &'static str, weights: &Weights) -> Self {
        Self { name, file: weights.file().into() }
    }

    /// # Errors
    /// [`Error::NotFinite`].
    pub(crate) fn check(&self, values: &[f32]) -> Result<()> {
        if are_finite(values) { Ok(()) } else { Err(self.not_finite(String::new())) }
    }

    /// The same for few values on the device. Waits for it.
    ///
    /// # Errors
    /// [`Error::NotFinite`]; the device's.
    pub(crate) fn check_tensor<B: Backend>(&self, backend: &B, x: &B::Tensor) -> Result<()> {
        self.check(&backend.to_vec(x)?)
    }

    /// The same for a picture on the device: see [`is_picture_finite`].
    ///
    /// # Errors
    /// [`Error::NotFinite`]; the device's.
    pub(crate) fn check_picture<B: Backend>(&self, backend: &B, x: &B::Tensor) -> Result<()> {
        if is_picture_finite(backend, x)? { Ok(()) } else { Err(self.not_finite(String::new())) }
    }

    /// `when` begins with a space, or is empty.
    pub(crate) fn not_finite(&self, when: String) -> Error {
        Error::NotFinite { part: self.name, file: self.file.to_string(), when }
    }
}

/// Whether no value of a picture, (N, C, H, W), is infinite or NaN. Waits for the device, which takes the means of squares of
/// pixels: a mean of numbers is one, and any other is not. So little has to be brought to the host.
///
/// # Errors
/// The device's.
pub fn is_picture_finite<B: Backend>(backend: &B, x: &B::Tensor) -> reverie_kernels::Result<bool> {
    const SIDE: usize = 15;
    let [_, channels, ..] = backend.shape(x);
    // With so much around the picture, squares beside one another leave nothing of it out.
    let desc =
        Conv2dDesc { in_channels: channels, out_channels: 1, kernel: SIDE, stride: SIDE, padding: SIDE - 1 };
    let count = desc.weight_len();
    // Half of it, lest the largest numbers of all be rounded to infinity.
    let weights = vec![0.5 / count as f32; count];
    let mean = backend.prepare_conv2d(desc, &weights, None, Activation::None)?;
    Ok(are_finite(&backend.to_vec(&backend.conv2d(x, &mean)?)?))
}

/// Whether no value is infinite or NaN: these have all bits of the exponent set. Whole blocks are looked at before it is asked
/// whether one was found, so that the loop is one over vectors.
pub(crate) fn are_finite(values: &[f32]) -> bool {
    let block = |values: &[f32]| values.iter().fold(true, |all, value| all & value.is_finite());
    values.chunks(1024).all(block)
}

#[cfg(test)]
mod tests {
    use reverie_kernels::cpu::CpuBackend;

    use super::*;

    /// In every corner and at the seams between squares, and nowhere where all are numbers, however large.
    #[test]
    fn a_picture_with_one_value_that_is_no_number_is_found() {
        let backend = CpuBackend::new(1);
        for (height, width) in [(1, 1), (14, 15), (16, 29), (30, 31), (61, 44)] {
            let area = height * width;
            let is_finite = |values: &[f32]| {
                let picture = backend.tensor(values.to_vec(), [2, 3, height, width]).unwrap();
                is_picture_finite(&backend, &picture).unwrap()
            };
            let mut values = vec![f32::MAX; 6 * area];
            assert!(is_finite(&values), "{width}x{height}");
            let rows = [0, 1, 13, 14, 15, 16, 29, height - 1];
            let columns = [0, 1, 14, 15, 16, 30, width - 1];
            for (row, column) in rows.iter().flat_map(|row| columns.map(|column| (*row, column))) {
                if row >= height || column >= width {
                    continue;
                }
                for (plane, value) in [(0, f32::NAN), (2, f32::INFINITY), (5, f32::NEG_INFINITY)] {
                    let place = plane * area + row * width + column;
                    values[place] = value;
                    assert!(!is_finite(&values), "{width}x{height}: {value} at {column}, {row}");
                    values[place] = f32::MAX;
                }
            }
        }
    }
}
