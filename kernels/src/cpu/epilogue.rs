//! What happens to a convolution's sums before they are stored: bias, activation, residual.

use super::buffer::{LANES, Lanes};
use super::simd::Simd;
use crate::backend::Activation;

/// Bias and slope of each output channel, padded with zeros and ones to whole vectors.
pub(crate) struct Parameters {
    bias: Vec<f32>,
    /// A slope of 1 is no activation.
    slope: Vec<f32>,
}

impl Parameters {
    pub(crate) fn new(channels: usize, bias: Option<&[f32]>, act: &Activation) -> Self {
        let padded = channels.next_multiple_of(LANES);
        let slope = match act {
            Activation::None => vec![1.0; channels],
            Activation::LeakyRelu(slope) => vec![*slope; channels],
            Activation::PRelu(slope) if slope.len() == 1 => vec![slope[0]; channels],
            Activation::PRelu(slope) => slope.clone(),
        };
        let pad = |mut values: Vec<f32>, with| {
            values.resize(padded, with);
            values
        };
        Self { bias: pad(bias.unwrap_or_default().to_vec(), 0.0), slope: pad(slope, 1.0) }
    }
}

/// Where the sums go. Tasks on several threads write to different pixels of the same planes, which safe
/// slices cannot express: so this holds a pointer, and the promise is in [`Output::new`].
pub(crate) struct Output<'a> {
    parameters: &'a Parameters,
    planes: *mut Lanes,
    area: usize,
    /// A factor and what is added after it, of the output's shape.
    residual: Option<(f32, &'a [&'a [Lanes]])>,
}

// SAFETY: the pointer is used only by `finish`, whose callers promise that no pixel is written twice.
#[allow(unsafe_code)]
unsafe impl Send for Output<'_> {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Output<'_> {}

impl<'a> Output<'a> {
    /// `planes` are all planes of all images, each of `area` pixels; so are those of `residual`.
    pub(crate) fn new(
        parameters: &'a Parameters,
        planes: &'a mut [Lanes],
        area: usize,
        residual: Option<(f32, &'a [&'a [Lanes]])>,
    ) -> Self {
        Self { parameters, planes: planes.as_mut_ptr(), area, residual }
    }

    /// Where a plane begins, to prefetch by.
    pub(crate) fn address(&self, image: usize, block: usize, blocks: usize) -> *const Lanes {
        self.planes.wrapping_add((image * blocks + block) * self.area)
    }

    /// The epilogue of one channel block of one image.
    ///
    /// # Safety
    /// The machine has the instructions of `S`; `block` is one of `blocks` an image and `image` exists.
    #[inline(always)]
    #[allow(unsafe_code)]
    pub(crate) unsafe fn plane<S: Simd>(&self, image: usize, block: usize, blocks: usize) -> Epilogue<S> {
        let plane = image * blocks + block;
        // SAFETY: parameters are padded to whole vectors; the plane exists.
        unsafe {
            Epilogue {
                bias: S::load(self.parameters.bias.as_ptr().add(block * LANES)),
                slope: S::load(self.parameters.slope.as_ptr().add(block * LANES)),
                alpha: S::splat(self.residual.map_or(1.0, |(alpha, _)| alpha)),
                residual: self.residual.map(|(_, planes)| planes[plane].as_ptr()),
                plane: self.planes.add(plane * self.area),
            }
        }
    }
}

/// Ready to finish pixels of one plane.
#[derive(Clone, Copy)]
pub(crate) struct Epilogue<S: Simd> {
    bias: S::V,
    slope: S::V,
    alpha: S::V,
    residual: Option<*const Lanes>,
    plane: *mut Lanes,
}

impl<S: Simd> Epilogue<S> {
    /// Stores `act(sum + bias) * alpha + residual` at `pixel`.
    ///
    /// # Safety
    /// The machine has the instructions of `S`; `pixel` is inside of the plane, and nobody else writes it.
    #[inline(always)]
    #[allow(unsafe_code)]
    pub(crate) unsafe fn finish(&self, pixel: usize, sum: S::V) {
        // SAFETY: the caller's promises.
        unsafe {
            let mut value = S::leaky(S::add(sum, self.bias), self.slope);
            if let Some(residual) = self.residual {
                value = S::fma(value, self.alpha, S::load(residual.add(pixel).cast()));
            }
            S::store(self.plane.add(pixel).cast(), value);
        }
    }
}
