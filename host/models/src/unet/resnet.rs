//! The convolutional half of a block.

use std::sync::Arc;

use reverie_kernels::{Backend, Unary};

use super::layers::{GroupNorm, conv1x1, conv3x3};
use crate::{error::Result, loader::Loader};

/// The sizes of a [`ResnetBlock2D`].
#[derive(Debug, Clone, Copy)]
pub struct ResnetConfig {
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Features of the time embedding; none in a VAE.
    pub temb_channels: Option<usize>,
    /// Groups of the two norms.
    pub groups: usize,
    /// Epsilon of the two norms.
    pub eps: f32,
    /// What the input is already multiplied by, and the output is to be: a power of two, 1 where nothing is scaled.
    pub scale: f32,
}

/// Two 3×3 convolutions, each after GroupNorm and SiLU, around which the input is added back (by a 1×1 convolution where
/// the channels change); the time embedding is added between them.
pub struct ResnetBlock2D<B: Backend> {
    norm1: GroupNorm<B>,
    conv1: Arc<B::Conv2d>,
    time_emb_proj: Option<Arc<B::Linear>>,
    norm2: GroupNorm<B>,
    conv2: Arc<B::Conv2d>,
    conv_shortcut: Option<Arc<B::Conv2d>>,
}

impl<B: Backend> ResnetBlock2D<B> {
    /// The block whose tensors lie directly below `loader`.
    ///
    /// # Errors
    /// Tensors that are missing or of another shape.
    pub fn load(loader: &Loader<B>, config: &ResnetConfig) -> Result<Self> {
        let ResnetConfig { in_channels, out_channels, temb_channels, groups, eps, scale } = *config;
        // A norm of what is scaled is that of what is not, if its epsilon is scaled as variances are.
        let eps = eps * scale * scale;
        // From a norm to the image; and from the image to the image, whose scale is in the weights' input already.
        let (scaled, kept) = (loader.scaled(scale, scale), loader.scaled(1.0, scale));
        let time_emb_proj = temb_channels.map(|temb| scaled.linear("time_emb_proj", temb, out_channels));
        let conv_shortcut =
            (in_channels != out_channels).then(|| conv1x1(&kept, "conv_shortcut", in_channels, out_channels));
        Ok(Self {
            norm1: GroupNorm::load(loader, "norm1", in_channels, groups, eps)?,
            conv1: conv3x3(&scaled, "conv1", in_channels, out_channels)?,
            time_emb_proj: time_emb_proj.transpose()?,
            norm2: GroupNorm::load(loader, "norm2", out_channels, groups, eps)?,
            conv2: conv3x3(&scaled, "conv2", out_channels, out_channels)?,
            conv_shortcut: conv_shortcut.transpose()?,
        })
    }

    /// (N, in, H, W) to (N, out, H, W). `temb_act` is SiLU of the time embedding, (N, 1, 1, temb): all blocks of a model
    /// share it, so that the caller applies the SiLU.
    ///
    /// # Errors
    /// The backend's, for shapes that do not fit.
    pub fn forward(
        &self,
        backend: &B,
        x: B::Tensor,
        temb_act: Option<&B::Tensor>,
    ) -> reverie_kernels::Result<B::Tensor> {
        let mut h = self.norm1.forward(backend, &x, Unary::Silu)?;
        // The input is not needed from here on, and the widest ones are followed by a shortcut.
        let residual = match &self.conv_shortcut {
            Some(conv) => backend.conv2d(&x, conv)?,
            None => x.clone(),
        };
        drop(x);
        h = backend.conv2d(&h, &self.conv1)?;
        if let (Some(proj), Some(temb)) = (&self.time_emb_proj, temb_act) {
            h = backend.add_channels(&h, &backend.linear(temb, proj)?)?;
        }
        h = self.norm2.forward(backend, &h, Unary::Silu)?;
        backend.conv2d_residual(&h, &self.conv2, 1.0, &residual)
    }
}
