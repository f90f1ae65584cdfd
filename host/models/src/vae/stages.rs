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

/// A convolutional block without time embedding.
pub(super) fn resnet<B: Backend>(
    loader: &Loader<B>,
    config: &AutoencoderKLConfig,
    in_channels: usize,
    out_channels: usize,
) -> Result<ResnetBlock2D<B>> {
    let groups = config.norm_num_groups;
    let config = ResnetConfig { in_channels, out_channels, temb_channels: None, groups, eps: NORM_EPS };
    ResnetBlock2D::load(loader, &config)
}

/// `count` blocks, of which the first changes the number of channels.
pub(super) fn resnets<B: Backend>(
    loader: &Loader<B>,
    config: &AutoencoderKLConfig,
    count: usize,
    in_channels: usize,
    out_channels: usize,
) -> Result<Vec<ResnetBlock2D<B>>> {
    let input = |i| if i == 0 { in_channels } else { out_channels };
    (0..count).map(|i| resnet(&loader.sub(&format!("resnets.{i}")), config, input(i), out_channels)).collect()
}

/// `UNetMidBlock2D`: two convolutional blocks, with attention among the pixels between them where the model has it.
pub(super) struct MidBlock<B: Backend> {
    first: ResnetBlock2D<B>,
    attention: Option<PixelAttention<B>>,
    last: ResnetBlock2D<B>,
}

impl<B: Backend> MidBlock<B> {
    pub(super) fn load(loader: &Loader<B>, config: &AutoencoderKLConfig, channels: usize) -> Result<Self> {
        let attention = config
            .mid_block_add_attention
            .then(|| PixelAttention::load(&loader.sub("attentions.0"), channels, config.norm_num_groups));
        Ok(Self {
            first: resnet(&loader.sub("resnets.0"), config, channels, channels)?,
            attention: attention.transpose()?,
            last: resnet(&loader.sub("resnets.1"), config, channels, channels)?,
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
    fn load(loader: &Loader<B>, channels: usize, groups: usize) -> Result<Self> {
        Ok(Self {
            group_norm: GroupNorm::load(loader, "group_norm", channels, groups, NORM_EPS)?,
            attention: Attention::load(loader, channels, channels, 1)?,
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
