//! What tells the UNet where it is in the denoising.

use std::{f32::consts::LN_10, sync::Arc};

use reverie_kernels::{Backend, Unary};

use crate::{error::Result, loader::Loader};

/// Sinusoids of numbers (Ho et al. 2020, "Denoising Diffusion Probabilistic Models", after Vaswani et al. 2017).
#[derive(Debug, Clone, Copy)]
pub struct Timesteps {
    /// Features of each number's embedding.
    pub num_channels: usize,
    /// Whether the cosines come first.
    pub flip_sin_to_cos: bool,
    /// What is taken off the number of frequencies where they are spaced.
    pub downscale_freq_shift: f32,
}

impl Timesteps {
    /// The embeddings of `values`, one after the other. In `f32` throughout, as in diffusers.
    pub fn embed(&self, values: &[f32]) -> Vec<f32> {
        // ln 10000, the longest period.
        const LN_MAX_PERIOD: f32 = 4.0 * LN_10;
        let half = self.num_channels / 2;
        let step = |i| -LN_MAX_PERIOD * i as f32 / (half as f32 - self.downscale_freq_shift);
        let frequencies: Vec<f32> = (0..half).map(|i| step(i).exp()).collect();
        let mut out = Vec::with_capacity(values.len() * self.num_channels);
        for value in values {
            let sines = frequencies.iter().map(|frequency| (value * frequency).sin());
            let cosines = frequencies.iter().map(|frequency| (value * frequency).cos());
            if self.flip_sin_to_cos {
                out.extend(cosines.chain(sines));
            } else {
                out.extend(sines.chain(cosines));
            }
            // An odd number of channels ends in a zero.
            out.extend(std::iter::repeat_n(0.0, self.num_channels % 2));
        }
        out
    }
}

/// Two linear layers with SiLU between them.
pub(crate) struct TimestepEmbedding<B: Backend> {
    cond_proj: Option<Arc<B::Linear>>,
    linear_1: Arc<B::Linear>,
    linear_2: Arc<B::Linear>,
}

impl<B: Backend> TimestepEmbedding<B> {
    /// `cond_proj_dim`: the features of a condition that is added to the input (the guidance scale of LCM).
    pub(crate) fn load(
        loader: &Loader<B>,
        in_channels: usize,
        time_embed_dim: usize,
        cond_proj_dim: Option<usize>,
    ) -> Result<Self> {
        Ok(Self {
            cond_proj: cond_proj_dim.map(|dim| loader.linear("cond_proj", dim, in_channels)).transpose()?,
            linear_1: loader.linear("linear_1", in_channels, time_embed_dim)?,
            linear_2: loader.linear("linear_2", time_embed_dim, time_embed_dim)?,
        })
    }

    /// (N, 1, 1, in) to (N, 1, 1, time_embed_dim).
    pub(crate) fn forward(
        &self,
        backend: &B,
        sample: &B::Tensor,
        condition: Option<&B::Tensor>,
    ) -> Result<B::Tensor> {
        let hidden = match (&self.cond_proj, condition) {
            (Some(proj), Some(condition)) => {
                backend.linear(&backend.linear_residual(condition, proj, sample)?, &self.linear_1)?
            }
            _ => backend.linear(sample, &self.linear_1)?,
        };
        Ok(backend.linear(&backend.unary(&hidden, Unary::Silu)?, &self.linear_2)?)
    }
}
