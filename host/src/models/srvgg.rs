//! SRVGGNetCompact: a plain stack of 3x3 convolutions with PReLU, then pixel shuffle, added to the enlarged input
//! (Wang et al. 2021, "Real-ESRGAN", the compact network of its video models).

use reverie_kernels::{Activation, Backend, Conv2dDesc, Filter};

use super::{Upscale, Weights, WeightsError};

/// The largest pixel shuffle that is looked for.
const MAX_UPSCALE: usize = 8;

/// Tensors: `body.{0,2,4,…}.{weight,bias}` are convolutions, `body.{1,3,…}.weight` the slopes of their PReLU.
pub struct SrvggNetCompact<B: Backend> {
    body: Vec<B::Conv2d>,
    /// The factor of the pixel shuffle.
    upscale: usize,
}

/// One convolution as the file has it.
struct Layer {
    index: usize,
    input: usize,
    output: usize,
    prelu: bool,
}

/// The convolutions, checked, and the factor of the pixel shuffle that the last one's channels tell.
fn layers(weights: &Weights) -> Result<(Vec<Layer>, usize), WeightsError> {
    let mut layers = Vec::new();
    let mut input = 3;
    for index in (0..).step_by(2) {
        let name = format!("body.{index}");
        if !weights.has(&format!("{name}.weight")) {
            break;
        }
        let (output, _) = weights.conv3x3(&name)?;
        weights.check(&format!("{name}.weight"), &[output, input, 3, 3])?;
        weights.check(&format!("{name}.bias"), &[output])?;
        let slopes = format!("body.{}.weight", index + 1);
        let prelu = weights.has(&slopes);
        if prelu {
            weights.check(&slopes, &[output])?;
        }
        layers.push(Layer { index, input, output, prelu });
        input = output;
    }
    let upscale = (1..=MAX_UPSCALE).find(|factor| 3 * factor * factor == input).ok_or_else(|| {
        weights.unknown(format!("the last convolution has {input} channels, which is not 3 times a square"))
    })?;
    // Between two convolutions there is always an activation; a missing one would make a wrong picture, not an error.
    if let Some(layer) = layers.iter().rev().skip(1).find(|layer| !layer.prelu) {
        weights.check(&format!("body.{}.weight", layer.index + 1), &[layer.output])?;
    }
    Ok((layers, upscale))
}

/// The factors that a checked file offers: that of its pixel shuffle, and the smaller ones of the metadata `scales`
/// ("2,3,4"), which are reached by reducing the network's output.
///
/// # Errors
/// The tensor that is missing or misshapen, or a list of scales that can't be.
pub fn scales(weights: &Weights) -> Result<Vec<u32>, WeightsError> {
    let (_, upscale) = layers(weights)?;
    let upscale = upscale as u32;
    let Some(listed) = weights.metadata("scales") else { return Ok(vec![upscale]) };
    let wrong =
        || weights.unknown(format!("metadata 'scales' = '{listed}' is no list of factors up to {upscale}"));
    let parsed: Result<Vec<u32>, _> = listed.split(',').map(|scale| scale.trim().parse()).collect();
    let mut scales = parsed.map_err(|_| wrong())?;
    scales.sort_unstable();
    scales.dedup();
    if scales.iter().all(|scale| (1..=upscale).contains(scale)) { Ok(scales) } else { Err(wrong()) }
}

impl<B: Backend> SrvggNetCompact<B> {
    /// Reads the network; its depth, width and factor come from the tensors.
    ///
    /// # Errors
    /// The tensor that is missing or misshapen.
    pub fn load(backend: &B, weights: &Weights) -> Result<Self, WeightsError> {
        let (layers, upscale) = layers(weights)?;
        let body = layers.iter().map(|&Layer { index, input, output, prelu }| {
            let kernel = weights.tensor(&format!("body.{index}.weight"), &[output, input, 3, 3])?;
            let bias = weights.tensor(&format!("body.{index}.bias"), &[output])?;
            let activation = match prelu {
                true => Activation::PRelu(weights.tensor(&format!("body.{}.weight", index + 1), &[output])?),
                false => Activation::None,
            };
            backend
                .prepare_conv2d(Conv2dDesc::same(input, output, 3), &kernel, Some(&bias), activation)
                .map_err(|e| weights.backend_error(e))
        });
        Ok(Self { body: body.collect::<Result<_, _>>()?, upscale })
    }
}

impl<B: Backend> Upscale<B> for SrvggNetCompact<B> {
    fn overlap(&self) -> usize {
        // One pixel for each 3x3 convolution, and one for the taps of a reduction: tiles are exact.
        self.body.len() + 1
    }

    fn forward(&self, backend: &B, picture: &B::Tensor, scale: usize) -> reverie_kernels::Result<B::Tensor> {
        let mut x = picture.clone();
        for conv in &self.body {
            x = backend.conv2d(&x, conv)?;
        }
        let x = backend.pixel_shuffle_add_nearest(&x, self.upscale, picture)?;
        if scale == self.upscale {
            return Ok(x);
        }
        // As in the official graphs of the x2 and x3 variants, which have the weights of x4.
        let [_, _, h, w] = backend.shape(picture);
        backend.resize(&x, h * scale, w * scale, Filter::Bicubic)
    }
}
