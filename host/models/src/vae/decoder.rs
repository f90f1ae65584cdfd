//! From latents to pictures.

use std::sync::Arc;

use reverie_kernels::{Backend, Unary};

use super::stages::{MidBlock, NORM_EPS, resnets};
use crate::{
    config::AutoencoderKLConfig,
    error::Result,
    loader::Loader,
    unet::{
        ResnetBlock2D,
        layers::{GroupNorm, Upsample2D, conv3x3},
    },
};

pub(super) struct Decoder<B: Backend> {
    conv_in: Arc<B::Conv2d>,
    mid_block: MidBlock<B>,
    up_blocks: Vec<UpDecoderBlock2D<B>>,
    conv_norm_out: GroupNorm<B>,
    conv_out: Arc<B::Conv2d>,
}

struct UpDecoderBlock2D<B: Backend> {
    resnets: Vec<ResnetBlock2D<B>>,
    /// None in the last stage.
    upsampler: Option<Upsample2D<B>>,
}

impl<B: Backend> Decoder<B> {
    /// With activations that are multiplied by `scale`.
    pub(super) fn load(loader: &Loader<B>, config: &AutoencoderKLConfig, scale: f32) -> Result<Self> {
        let widths: Vec<usize> = config.block_out_channels.iter().rev().copied().collect();
        let last = widths.len() - 1;
        let up_block = |i: usize| {
            let loader = loader.sub(&format!("up_blocks.{i}"));
            let (before, width) = (widths[i.saturating_sub(1)], widths[i]);
            let upsampler =
                (i < last).then(|| Upsample2D::load(&loader.sub("upsamplers.0").scaled(1.0, scale), width));
            Ok(UpDecoderBlock2D {
                // diffusers gives the decoder's stages one block more than the encoder's.
                resnets: resnets(&loader, config, scale, config.layers_per_block + 1, before, width)?,
                upsampler: upsampler.transpose()?,
            })
        };
        Ok(Self {
            conv_in: conv3x3(&loader.scaled(scale, scale), "conv_in", config.latent_channels, widths[0])?,
            mid_block: MidBlock::load(&loader.sub("mid_block"), config, scale, widths[0])?,
            up_blocks: (0..=last).map(up_block).collect::<Result<_>>()?,
            conv_norm_out: GroupNorm::load(
                loader,
                "conv_norm_out",
                widths[last],
                config.norm_num_groups,
                NORM_EPS * scale * scale,
            )?,
            conv_out: conv3x3(loader, "conv_out", widths[last], config.out_channels)?,
        })
    }

    /// (N, latent_channels, H, W) to (N, out_channels, H · f, W · f).
    pub(super) fn forward(&self, backend: &B, z: &B::Tensor) -> Result<B::Tensor> {
        let mut x = backend.conv2d(z, &self.conv_in)?;
        x = self.mid_block.forward(backend, x)?;
        for block in &self.up_blocks {
            for resnet in &block.resnets {
                x = resnet.forward(backend, x, None)?;
            }
            if let Some(upsampler) = &block.upsampler {
                x = upsampler.forward(backend, x, None)?;
            }
        }
        x = self.conv_norm_out.forward(backend, &x, Unary::Silu)?;
        Ok(backend.conv2d(&x, &self.conv_out)?)
    }
}
