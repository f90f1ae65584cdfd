//! What an encoder says of a picture.

use reverie_kernels::{Backend, Shape};

use crate::error::{Error, Result};

/// A normal distribution for each latent value, all of them independent.
///
/// Its values are on the host: they are few, and so is the noise to draw from them with.
#[derive(Debug, Clone)]
pub struct DiagonalGaussianDistribution {
    mean: Vec<f32>,
    logvar: Vec<f32>,
    shape: Shape,
}

impl DiagonalGaussianDistribution {
    /// diffusers' limits of the logarithm of the variance.
    const LOGVAR: std::ops::RangeInclusive<f32> = -30.0..=20.0;

    /// From the means and, in as many channels after them, the logarithms of the variances: (N, 2C, H, W).
    ///
    /// # Errors
    /// [`Error::Invalid`] for an odd number of channels; the device's.
    pub fn new<B: Backend>(backend: &B, moments: &B::Tensor) -> Result<Self> {
        let [n, channels, h, w] = backend.shape(moments);
        if !channels.is_multiple_of(2) {
            return Err(Error::Invalid(format!(
                "{channels} channels can't be split into means and variances: an even number is needed"
            )));
        }
        let shape = [n, channels / 2, h, w];
        let image = channels / 2 * h * w;
        let (mut mean, mut logvar) = (Vec::with_capacity(n * image), Vec::with_capacity(n * image));
        for both in backend.to_vec(moments)?.chunks_exact(2 * image) {
            mean.extend_from_slice(&both[..image]);
            logvar.extend(both[image..].iter().map(|x| x.clamp(*Self::LOGVAR.start(), *Self::LOGVAR.end())));
        }
        Ok(Self { mean, logvar, shape })
    }

    /// (N, C, H, W) of the latents.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The likeliest latents, in N, C, H, W order.
    pub fn mode(&self) -> &[f32] {
        &self.mean
    }

    /// The logarithms of the variances, in the same order.
    pub fn logvar(&self) -> &[f32] {
        &self.logvar
    }

    /// `mean + std * noise`, with standard normal noise in the same order.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the noise has another length.
    pub fn sample(&self, noise: &[f32]) -> Result<Vec<f32>> {
        if noise.len() != self.mean.len() {
            let (actual, expected) = (noise.len(), self.mean.len());
            return Err(Error::Invalid(format!(
                "noise for latents of {:?} has {actual} values, expected {expected}",
                self.shape
            )));
        }
        let draw = |((mean, logvar), noise): ((&f32, &f32), &f32)| mean + (0.5 * logvar).exp() * noise;
        Ok(self.mean.iter().zip(&self.logvar).zip(noise).map(draw).collect())
    }
}
