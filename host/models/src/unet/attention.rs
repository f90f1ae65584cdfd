//! The transformer half of a block.

use std::sync::Arc;

use reverie_kernels::{Backend, Mask, Unary};

use super::layers::{GroupNorm, LayerNorm, conv1x1};
use crate::{error::Result, loader::Loader};

/// The sizes of a [`Transformer2DModel`].
#[derive(Debug, Clone, Copy)]
pub struct TransformerConfig {
    /// Channels of the image, and features of its tokens.
    pub channels: usize,
    /// How many transformer blocks follow one another.
    pub num_layers: usize,
    /// Heads of every attention.
    pub num_attention_heads: usize,
    /// Features of the prompt's tokens.
    pub cross_attention_dim: usize,
    /// Groups of the norm at the entrance.
    pub norm_num_groups: usize,
}

/// Transformer blocks over the pixels of an image, around which the image is added back.
pub struct Transformer2DModel<B: Backend> {
    norm: GroupNorm<B>,
    proj_in: Arc<B::Linear>,
    transformer_blocks: Vec<BasicTransformerBlock<B>>,
    /// A convolution, whatever the checkpoint calls it: the residual is an image, and is added in the same pass.
    proj_out: Arc<B::Conv2d>,
}

impl<B: Backend> Transformer2DModel<B> {
    /// diffusers' constant, unlike the epsilon of the other norms.
    const NORM_EPS: f32 = 1e-6;

    /// The transformer whose tensors lie directly below `loader`. `proj_in` and `proj_out` may be linear layers or 1×1
    /// convolutions, which are the same thing (`use_linear_projection`).
    ///
    /// # Errors
    /// Tensors that are missing or of another shape.
    pub fn load(loader: &Loader<B>, config: &TransformerConfig) -> Result<Self> {
        let channels = config.channels;
        let block = |i| BasicTransformerBlock::load(&loader.sub(&format!("transformer_blocks.{i}")), config);
        Ok(Self {
            norm: GroupNorm::load(loader, "norm", channels, config.norm_num_groups, Self::NORM_EPS)?,
            proj_in: loader.linear("proj_in", channels, channels)?,
            transformer_blocks: (0..config.num_layers).map(block).collect::<Result<_>>()?,
            proj_out: conv1x1(loader, "proj_out", channels, channels)?,
        })
    }

    /// (N, C, H, W) to the same shape; `encoder_hidden_states` is (N, 1, S, cross_attention_dim).
    ///
    /// # Errors
    /// The backend's, for shapes that do not fit.
    pub fn forward(
        &self,
        backend: &B,
        x: B::Tensor,
        encoder_hidden_states: &B::Tensor,
    ) -> reverie_kernels::Result<B::Tensor> {
        let [.., rows, columns] = backend.shape(&x);
        let normed = self.norm.forward(backend, &x, Unary::Identity)?;
        let mut h = backend.linear(&backend.to_tokens(&normed)?, &self.proj_in)?;
        drop(normed);
        for block in &self.transformer_blocks {
            h = block.forward(backend, h, encoder_hidden_states)?;
        }
        let image = backend.from_tokens(&h, rows, columns)?;
        drop(h);
        backend.conv2d_residual(&image, &self.proj_out, 1.0, &x)
    }
}

/// Attention among the pixels, attention from the pixels to the prompt, and a feed-forward network; each after a
/// LayerNorm and around it its input added back.
struct BasicTransformerBlock<B: Backend> {
    norm1: LayerNorm<B>,
    attn1: Attention<B>,
    norm2: LayerNorm<B>,
    attn2: Attention<B>,
    norm3: LayerNorm<B>,
    ff: FeedForward<B>,
}

impl<B: Backend> BasicTransformerBlock<B> {
    fn load(loader: &Loader<B>, config: &TransformerConfig) -> Result<Self> {
        let TransformerConfig { channels, num_attention_heads, cross_attention_dim, .. } = *config;
        let attention =
            |name, context| Attention::load(&loader.sub(name), channels, context, num_attention_heads, 1.0);
        Ok(Self {
            norm1: LayerNorm::load(loader, "norm1", channels)?,
            attn1: attention("attn1", channels)?,
            norm2: LayerNorm::load(loader, "norm2", channels)?,
            attn2: attention("attn2", cross_attention_dim)?,
            norm3: LayerNorm::load(loader, "norm3", channels)?,
            ff: FeedForward::load(&loader.sub("ff"), channels)?,
        })
    }

    fn forward(
        &self,
        backend: &B,
        x: B::Tensor,
        encoder_hidden_states: &B::Tensor,
    ) -> reverie_kernels::Result<B::Tensor> {
        let normed = self.norm1.forward(backend, &x)?;
        let (k, v) = self.attn1.keys_values(backend, &normed)?;
        let x = self.attn1.forward(backend, &normed, &k, &v, &x)?;

        let normed = self.norm2.forward(backend, &x)?;
        let (k, v) = self.attn2.keys_values(backend, encoder_hidden_states)?;
        let x = self.attn2.forward(backend, &normed, &k, &v, &x)?;

        let normed = self.norm3.forward(backend, &x)?;
        self.ff.forward(backend, normed, &x)
    }
}

/// Multi-head attention (Vaswani et al. 2017, "Attention Is All You Need"). With biases on `to_q`, `to_k` and `to_v` it is
/// the VAE's, without them the UNet's.
pub(crate) struct Attention<B: Backend> {
    to_q: Arc<B::Linear>,
    to_k: Arc<B::Linear>,
    to_v: Arc<B::Linear>,
    to_out: Arc<B::Linear>,
    heads: usize,
}

impl<B: Backend> Attention<B> {
    /// `scale` is what the residual is multiplied by already, and the result is to be. Values and what is gathered of them have
    /// it too.
    pub(crate) fn load(
        loader: &Loader<B>,
        channels: usize,
        context: usize,
        heads: usize,
        scale: f32,
    ) -> Result<Self> {
        Ok(Self {
            to_q: loader.linear("to_q", channels, channels)?,
            to_k: loader.linear("to_k", context, channels)?,
            to_v: loader.scaled(scale, scale).linear("to_v", context, channels)?,
            to_out: loader.scaled(1.0, scale).linear("to_out.0", channels, channels)?,
            heads,
        })
    }

    /// Keys and values of (N, 1, S, context). Those of a prompt are the same at every step.
    pub(crate) fn keys_values(
        &self,
        backend: &B,
        context: &B::Tensor,
    ) -> reverie_kernels::Result<(B::Tensor, B::Tensor)> {
        Ok((backend.linear(context, &self.to_k)?, backend.linear(context, &self.to_v)?))
    }

    /// What the tokens `x`, (N, 1, T, channels), gather from `k` and `v`, added to `residual`.
    pub(crate) fn forward(
        &self,
        backend: &B,
        x: &B::Tensor,
        k: &B::Tensor,
        v: &B::Tensor,
        residual: &B::Tensor,
    ) -> reverie_kernels::Result<B::Tensor> {
        let q = backend.linear(x, &self.to_q)?;
        let gathered = backend.attention(&q, k, v, self.heads, Mask::None)?;
        drop(q);
        backend.linear_residual(&gathered, &self.to_out, residual)
    }
}

/// GEGLU, then a linear layer.
struct FeedForward<B: Backend> {
    proj: Arc<B::Linear>,
    out: Arc<B::Linear>,
}

impl<B: Backend> FeedForward<B> {
    /// The inner width, in multiples of the outer one.
    const WIDENING: usize = 4;

    fn load(loader: &Loader<B>, channels: usize) -> Result<Self> {
        let inner = Self::WIDENING * channels;
        let proj = loader.linear("net.0.proj", channels, 2 * inner)?;
        Ok(Self { proj, out: loader.linear("net.2", inner, channels)? })
    }

    fn forward(&self, backend: &B, x: B::Tensor, residual: &B::Tensor) -> reverie_kernels::Result<B::Tensor> {
        let wide = backend.linear(&x, &self.proj)?;
        drop(x);
        let inner = backend.geglu(&wide)?;
        drop(wide);
        backend.linear_residual(&inner, &self.out, residual)
    }
}
