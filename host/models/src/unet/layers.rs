//! The small layers that UNet and VAE are made of.

use std::sync::Arc;

use reverie_kernels::{Activation, Backend, Conv2dDesc, Filter, Unary};

use crate::{error::Result, loader::Loader};

/// `torch.nn.GroupNorm`.
pub(crate) struct GroupNorm<B: Backend> {
    weight: B::Tensor,
    bias: B::Tensor,
    groups: usize,
    eps: f32,
}

impl<B: Backend> GroupNorm<B> {
    pub(crate) fn load(
        loader: &Loader<B>,
        name: &str,
        channels: usize,
        groups: usize,
        eps: f32,
    ) -> Result<Self> {
        let weight = loader.vector(&format!("{name}.weight"), channels)?;
        let bias = loader.vector(&format!("{name}.bias"), channels)?;
        Ok(Self { weight, bias, groups, eps })
    }

    /// The norm of `x`, then `act`.
    pub(crate) fn forward(
        &self,
        backend: &B,
        x: &B::Tensor,
        act: Unary,
    ) -> reverie_kernels::Result<B::Tensor> {
        backend.group_norm(x, self.groups, &self.weight, &self.bias, self.eps, act)
    }
}

/// `torch.nn.LayerNorm` over the features of a token, with PyTorch's epsilon.
pub(crate) struct LayerNorm<B: Backend> {
    weight: B::Tensor,
    bias: B::Tensor,
}

impl<B: Backend> LayerNorm<B> {
    const EPS: f32 = 1e-5;

    pub(crate) fn load(loader: &Loader<B>, name: &str, features: usize) -> Result<Self> {
        let weight = loader.vector(&format!("{name}.weight"), features)?;
        let bias = loader.vector(&format!("{name}.bias"), features)?;
        Ok(Self { weight, bias })
    }

    pub(crate) fn forward(&self, backend: &B, x: &B::Tensor) -> reverie_kernels::Result<B::Tensor> {
        backend.layer_norm(x, &self.weight, &self.bias, Self::EPS)
    }
}

/// A 3×3 convolution that keeps the size of the image.
pub(crate) fn conv3x3<B: Backend>(
    loader: &Loader<B>,
    name: &str,
    in_channels: usize,
    out_channels: usize,
) -> Result<Arc<B::Conv2d>> {
    loader.conv2d(name, Conv2dDesc::same(in_channels, out_channels, 3), Activation::None)
}

/// A 1×1 convolution.
pub(crate) fn conv1x1<B: Backend>(
    loader: &Loader<B>,
    name: &str,
    in_channels: usize,
    out_channels: usize,
) -> Result<Arc<B::Conv2d>> {
    loader.conv2d(name, Conv2dDesc::same(in_channels, out_channels, 1), Activation::None)
}

/// Which pixels of zeros a [`Downsample2D`] sees around the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Padding {
    /// One on each side: the UNet's.
    Around,
    /// One at the right and at the bottom: the VAE encoder's.
    RightBottom,
}

/// Halves the size (rounding up with [`Padding::Around`], down otherwise) by a 3×3 convolution of stride 2.
pub(crate) struct Downsample2D<B: Backend> {
    conv: Arc<B::Conv2d>,
    padding: Padding,
}

impl<B: Backend> Downsample2D<B> {
    pub(crate) fn load(loader: &Loader<B>, channels: usize, padding: Padding) -> Result<Self> {
        let zeros = if padding == Padding::Around { 1 } else { 0 };
        let desc = Conv2dDesc { stride: 2, padding: zeros, ..Conv2dDesc::same(channels, channels, 3) };
        Ok(Self { conv: loader.conv2d("conv", desc, Activation::None)?, padding })
    }

    pub(crate) fn forward(&self, backend: &B, x: &B::Tensor) -> reverie_kernels::Result<B::Tensor> {
        Ok(match self.padding {
            Padding::Around => backend.conv2d(x, &self.conv)?,
            Padding::RightBottom => backend.conv2d(&backend.pad(x, 1, 1)?, &self.conv)?,
        })
    }
}

/// Enlarges by repeating pixels, then a 3×3 convolution.
pub(crate) struct Upsample2D<B: Backend> {
    conv: Arc<B::Conv2d>,
}

impl<B: Backend> Upsample2D<B> {
    pub(crate) fn load(loader: &Loader<B>, channels: usize) -> Result<Self> {
        Ok(Self { conv: conv3x3(loader, "conv", channels, channels)? })
    }

    /// `x` at `size` rows and columns, or at twice its own.
    pub(crate) fn forward(
        &self,
        backend: &B,
        x: B::Tensor,
        size: Option<(usize, usize)>,
    ) -> reverie_kernels::Result<B::Tensor> {
        let [.., rows, columns] = backend.shape(&x);
        let (h, w) = size.unwrap_or((rows * 2, columns * 2));
        let enlarged = backend.resize(&x, h, w, Filter::Nearest)?;
        // The convolution runs at the larger size, where memory is short.
        drop(x);
        backend.conv2d(&enlarged, &self.conv)
    }
}
