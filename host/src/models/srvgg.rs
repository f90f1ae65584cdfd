//! SRVGGNetCompact: a plain stack of 3x3 convolutions with PReLU, then pixel shuffle, added to the enlarged input
//! (Wang et al. 2021, "Real-ESRGAN", the compact network of its video models).

use reverie_kernels::{Activation, Backend, Conv2dDesc, Filter};

use super::{Upscale, Weights, WeightsError};

/// Tensors: `body.{0,2,4,…}.{weight,bias}` are convolutions, `body.{1,3,…}.weight` the slopes of their PReLU.
pub struct SrvggNetCompact<B: Backend> {
    body: Vec<B::Conv2d>,
    /// The factor of the pixel shuffle.
    upscale: usize,
    /// The factor of the network as a whole; lower than `upscale` when it ends with a bicubic reduction.
    scale: usize,
}

impl<B: Backend> SrvggNetCompact<B> {
    /// Reads the network; its depth and width come from the tensors, `upscale` from the last one.
    ///
    /// # Errors
    /// The tensor that is missing or misshapen.
    pub fn load(backend: &B, weights: &Weights) -> Result<Self, WeightsError> {
        let mut body = Vec::new();
        let mut channels = 3;
        let mut index = 0;
        while weights.has(&format!("body.{index}.weight")) {
            let name = format!("body.{index}");
            let (out, _) = weights.conv3x3(&name)?;
            let kernel = weights.tensor(&format!("{name}.weight"), &[out, channels, 3, 3])?;
            let bias = weights.tensor(&format!("{name}.bias"), &[out])?;
            let slopes = format!("body.{}.weight", index + 1);
            let activation = match weights.has(&slopes) {
                true => Activation::PRelu(weights.tensor(&slopes, &[out])?),
                false => Activation::None,
            };
            let conv = backend
                .prepare_conv2d(Conv2dDesc::same(channels, out, 3), &kernel, Some(&bias), activation)
                .map_err(|e| weights.backend_error(e))?;
            body.push(conv);
            (channels, index) = (out, index + 2);
        }
        let upscale = (1..=8).find(|factor| 3 * factor * factor == channels);
        let upscale = upscale.ok_or_else(|| {
            weights.unknown(format!(
                "the last convolution has {channels} channels, which is not 3 times a square"
            ))
        })?;
        let resize: f32 = weights.metadata("resize").and_then(|r| r.parse().ok()).unwrap_or(1.0);
        let scale = (upscale as f32 * resize).round() as usize;
        if !(1..=upscale).contains(&scale) {
            return Err(weights.unknown(format!("metadata 'resize' = {resize} is out of range")));
        }
        Ok(Self { body, upscale, scale })
    }
}

impl<B: Backend> Upscale<B> for SrvggNetCompact<B> {
    fn scale(&self) -> usize {
        self.scale
    }

    fn overlap(&self) -> usize {
        // One pixel for each 3x3 convolution, and one for the reduction's taps: tiles are exact.
        self.body.len() + 1
    }

    fn forward(&self, backend: &B, picture: &B::Tensor) -> reverie_kernels::Result<B::Tensor> {
        let mut x = picture.clone();
        for conv in &self.body {
            x = backend.conv2d(&x, conv)?;
        }
        let x = backend.pixel_shuffle_add_nearest(&x, self.upscale, picture)?;
        if self.scale == self.upscale {
            return Ok(x);
        }
        let [_, _, h, w] = backend.shape(picture);
        backend.resize(&x, h * self.scale, w * self.scale, Filter::Bicubic)
    }
}
