//! What encoder and decoder have in common.

use reverie_kernels::{Backend, Unary};

use crate::{
    config::AutoencoderKLConfig,
    error::{Error, Result},
    loader::Loader,
    unet::{ResnetBlock2D, ResnetConfig, attention::Attention, layers::GroupNorm},
};

/// diffusers' epsilon of all norms of the VAE.
pub(super) const NORM_EPS: f32 = 1e-6;

/// Refuses configurations that would give another model than they describe.
pub(super) fn check(config: &AutoencoderKLConfig) -> Result<()> {
    let unsupported = |key: &str, value: &dyn std::fmt::Debug, accepted: &str| {
        Err(Error::Unsupported(format!("VAE config: {key} is {value:?}; accepted is {accepted}")))
    };
    let stages = config.block_out_channels.len();
    for (key, types, accepted) in [
        ("down_block_types", &config.down_block_types, "DownEncoderBlock2D"),
        ("up_block_types", &config.up_block_types, "UpDecoderBlock2D"),
    ] {
        if types.iter().any(|name| name != accepted) || types.len() != stages {
            return unsupported(key, types, &format!("{accepted}, once for each of block_out_channels"));
        }
    }
    // Sixteen halvings are far beyond any model, and keep sizes from overflowing.
    if stages == 0 || stages > 16 {
        return unsupported("block_out_channels", &config.block_out_channels, "a list of 1 to 16 numbers");
    }
    let groups = config.norm_num_groups;
    if groups == 0
        || config.block_out_channels.iter().any(|&channels| channels == 0 || channels % groups != 0)
    {
        return unsupported("norm_num_groups", &groups, "a number that divides all of block_out_channels");
    }
    if !matches!(config.act_fn.as_str(), "silu" | "swish") {
        return unsupported("act_fn", &config.act_fn, "silu");
    }
    Ok(())
}

/// A convolutional block without time embedding, of images that are multiplied by `scale`.
pub(super) fn resnet<B: Backend>(
    loader: &Loader<B>,
    config: &AutoencoderKLConfig,
    scale: f32,
    in_channels: usize,
    out_channels: usize,
) -> Result<ResnetBlock2D<B>> {
    let (groups, eps) = (config.norm_num_groups, NORM_EPS);
    let config = ResnetConfig { in_channels, out_channels, temb_channels: None, groups, eps, scale };
    ResnetBlock2D::load(loader, &config)
}

/// `count` blocks, of which the first changes the number of channels.
pub(super) fn resnets<B: Backend>(
    loader: &Loader<B>,
    config: &AutoencoderKLConfig,
    scale: f32,
    count: usize,
    in_channels: usize,
    out_channels: usize,
) -> Result<Vec<ResnetBlock2D<B>>> {
    let input = |i| if i == 0 { in_channels } else { out_channels };
    let block = |i| resnet(&loader.sub(&format!("resnets.{i}")), config, scale, input(i), out_channels);
    (0..count).map(block).collect()
}

/// `UNetMidBlock2D`: two convolutional blocks, with attention among the pixels between them where the model has it.
pub(super) struct MidBlock<B: Backend> {
    first: ResnetBlock2D<B>,
    attention: Option<PixelAttention<B>>,
    last: ResnetBlock2D<B>,
}

impl<B: Backend> MidBlock<B> {
    pub(super) fn load(
        loader: &Loader<B>,
        config: &AutoencoderKLConfig,
        scale: f32,
        channels: usize,
    ) -> Result<Self> {
        let groups = config.norm_num_groups;
        let attention = config
            .mid_block_add_attention
            .then(|| PixelAttention::load(&loader.sub("attentions.0"), channels, groups, scale));
        let resnet = |name| resnet(&loader.sub(name), config, scale, channels, channels);
        Ok(Self {
            first: resnet("resnets.0")?,
            attention: attention.transpose()?,
            last: resnet("resnets.1")?,
        })
    }

    pub(super) fn forward(&self, backend: &B, x: B::Tensor) -> Result<B::Tensor> {
        let mut x = self.first.forward(backend, x, None)?;
        if let Some(attention) = &self.attention {
            x = attention.forward(backend, &x)?;
        }
        Ok(self.last.forward(backend, x, None)?)
    }
}

/// Attention with a single head, around which the image is added back.
struct PixelAttention<B: Backend> {
    group_norm: GroupNorm<B>,
    attention: Attention<B>,
}

impl<B: Backend> PixelAttention<B> {
    fn load(loader: &Loader<B>, channels: usize, groups: usize, scale: f32) -> Result<Self> {
        let eps = NORM_EPS * scale * scale;
        Ok(Self {
            group_norm: GroupNorm::load(loader, "group_norm", channels, groups, eps)?,
            attention: Attention::load(loader, channels, channels, 1, scale)?,
        })
    }

    fn forward(&self, backend: &B, x: &B::Tensor) -> Result<B::Tensor> {
        let [.., rows, columns] = backend.shape(x);
        let normed = backend.to_tokens(&self.group_norm.forward(backend, x, Unary::Identity)?)?;
        let (k, v) = self.attention.keys_values(backend, &normed)?;
        let out = self.attention.forward(backend, &normed, &k, &v, &backend.to_tokens(x)?)?;
        Ok(backend.from_tokens(&out, rows, columns)?)
    }
}
