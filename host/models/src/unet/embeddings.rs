//! What tells the UNet where it is in the denoising.

use std::sync::Arc;

use reverie_kernels::{Backend, Unary};

use crate::{error::Result, loader::Loader};

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
