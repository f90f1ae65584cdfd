//! Pictures and masks between bytes and the values that models take.

use reverie_kernels::{Backend, PixelRange};

use crate::error::{Error, Result};

/// 8-bit RGB pixels, row by row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// In pixels.
    pub width: usize,
    /// In pixels.
    pub height: usize,
    /// `width * height * 3` bytes.
    pub rgb: Vec<u8>,
}

/// Which pixels are made anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    /// In pixels.
    pub width: usize,
    /// In pixels.
    pub height: usize,
    /// `width * height` bytes, row by row: 128 and above is made anew.
    pub grey: Vec<u8>,
}

impl Picture {
    /// (1, 3, H, W) in -1..1.
    pub(crate) fn tensor<B: Backend>(&self, backend: &B) -> Result<B::Tensor> {
        Ok(backend.from_pixels(&self.rgb, [1, 3, self.height, self.width], PixelRange::Signed)?)
    }

    /// The picture of a tensor of (1, 3, H, W) in -1..1.
    pub(crate) fn from_tensor<B: Backend>(backend: &B, x: &B::Tensor) -> Result<Self> {
        let [_, channels, height, width] = backend.shape(x);
        if channels != 3 {
            return Err(Error::Unsupported(format!("the VAE makes {channels} channels; accepted are 3")));
        }
        Ok(Self { width, height, rgb: backend.to_pixels(x, PixelRange::Signed)? })
    }
}

impl Mask {
    fn is_set(&self, index: usize) -> bool {
        self.grey[index] >= 128
    }

    /// At the size of the latents, 0 or 1: the nearest pixel, as diffusers takes it.
    pub(crate) fn at_latents(&self, h: usize, w: usize) -> Vec<f32> {
        let source = |y: usize, x: usize| (y * self.height / h) * self.width + x * self.width / w;
        (0..h * w).map(|i| f32::from(self.is_set(source(i / w, i % w)))).collect()
    }

    /// `picture` as [`Picture::tensor`] has it, with 0 where it is made anew: a middle grey, between two pixels' values.
    pub(crate) fn cut_out<B: Backend>(&self, backend: &B, picture: &Picture) -> Result<B::Tensor> {
        let (mut kept, mut made) = (picture.clone(), picture.clone());
        for (i, (kept, made)) in kept.rgb.iter_mut().zip(&mut made.rgb).enumerate() {
            *made = if self.is_set(i / 3) { u8::MAX } else { 0 };
            *kept &= !*made;
        }
        // Black, which is -1, plus 1; elsewhere plus 0: exact.
        let shape = [1, 3, self.height, self.width];
        let made = backend.from_pixels(&made.rgb, shape, PixelRange::Unit)?;
        Ok(backend.add(&kept.tensor(backend)?, &made)?)
    }
}

/// How much of each latent channel goes into red, green and blue: a least-squares fit of pictures to their latents, as
/// previews have used them since the Stable Diffusion forums found them.
pub(crate) const SD_RGB: [[f32; 3]; 4] =
    [[0.298, 0.207, 0.208], [0.187, 0.286, 0.173], [-0.158, 0.189, 0.264], [-0.184, -0.271, -0.473]];

/// The same for SDXL's autoencoder.
pub(crate) const SDXL_RGB: [[f32; 3]; 4] =
    [[0.392, 0.405, 0.455], [-0.263, -0.020, 0.065], [0.057, 0.169, -0.076], [-0.311, -0.236, -0.208]];

/// Latents of 4 channels of `area` values as RGB pixels.
pub(crate) fn project(latents: &[f32], area: usize, factors: &[[f32; 3]; 4]) -> Vec<u8> {
    let value = |i: usize, c: usize| (0..4).map(|k| latents[k * area + i] * factors[k][c]).sum::<f32>();
    (0..area).flat_map(|i| [0, 1, 2].map(|c| byte(value(i, c)))).collect()
}

/// A value of -1..1.
fn byte(x: f32) -> u8 {
    ((x / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8
}
