//! From pictures to the moments of their latents.

use std::sync::Arc;

use reverie_kernels::{Backend, Unary};

use super::stages::{MidBlock, NORM_EPS, resnets};
use crate::{
    config::AutoencoderKLConfig,
    error::Result,
    loader::Loader,
    unet::{
        ResnetBlock2D,
        layers::{Downsample2D, GroupNorm, Padding, conv3x3},
    },
};

pub(super) struct Encoder<B: Backend> {
    conv_in: Arc<B::Conv2d>,
    down_blocks: Vec<DownEncoderBlock2D<B>>,
    mid_block: MidBlock<B>,
    conv_norm_out: GroupNorm<B>,
    conv_out: Arc<B::Conv2d>,
}

struct DownEncoderBlock2D<B: Backend> {
    resnets: Vec<ResnetBlock2D<B>>,
    /// None in the last stage.
    downsampler: Option<Downsample2D<B>>,
}

impl<B: Backend> Encoder<B> {
    /// With activations that are multiplied by `scale`.
    pub(super) fn load(loader: &Loader<B>, config: &AutoencoderKLConfig, scale: f32) -> Result<Self> {
        let widths = &config.block_out_channels;
        let last = widths.len() - 1;
        let down_block = |i: usize| {
            let loader = loader.sub(&format!("down_blocks.{i}"));
            let (before, width) = (widths[i.saturating_sub(1)], widths[i]);
            let downsampler = (i < last).then(|| {
                let loader = loader.sub("downsamplers.0").scaled(1.0, scale);
                Downsample2D::load(&loader, width, Padding::RightBottom)
            });
            Ok(DownEncoderBlock2D {
                resnets: resnets(&loader, config, scale, config.layers_per_block, before, width)?,
                downsampler: downsampler.transpose()?,
            })
        };
        Ok(Self {
            conv_in: conv3x3(&loader.scaled(scale, scale), "conv_in", config.in_channels, widths[0])?,
            down_blocks: (0..=last).map(down_block).collect::<Result<_>>()?,
            mid_block: MidBlock::load(&loader.sub("mid_block"), config, scale, widths[last])?,
            conv_norm_out: GroupNorm::load(
                loader,
                "conv_norm_out",
                widths[last],
                config.norm_num_groups,
                NORM_EPS * scale * scale,
            )?,
            conv_out: conv3x3(loader, "conv_out", widths[last], 2 * config.latent_channels)?,
        })
    }

    /// (N, in_channels, H, W) to (N, 2 · latent_channels, H / f, W / f).
    pub(super) fn forward(&self, backend: &B, x: &B::Tensor) -> Result<B::Tensor> {
        let mut x = backend.conv2d(x, &self.conv_in)?;
        for block in &self.down_blocks {
            for resnet in &block.resnets {
                x = resnet.forward(backend, x, None)?;
            }
            if let Some(downsampler) = &block.downsampler {
                x = downsampler.forward(backend, &x)?;
            }
        }
        x = self.mid_block.forward(backend, x)?;
        x = self.conv_norm_out.forward(backend, &x, Unary::Silu)?;
        Ok(backend.conv2d(&x, &self.conv_out)?)
    }
}
