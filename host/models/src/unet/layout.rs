//! From the configuration to the sizes of all blocks.

use super::{attention::TransformerConfig, blocks::BlockConfig, resnet::ResnetConfig};
use crate::{
    config::{OneOrMany, UNet2DConditionConfig},
    error::{Error, Result},
};

/// The stages of a UNet.
pub(super) struct Layout {
    /// From the largest image to the smallest.
    pub(super) down_blocks: Vec<BlockConfig>,
    pub(super) mid_block: Option<(ResnetConfig, TransformerConfig)>,
    /// From the smallest image to the largest.
    pub(super) up_blocks: Vec<BlockConfig>,
    /// Channels of the first and the last convolution.
    pub(super) first_channels: usize,
    pub(super) groups: usize,
    /// Features of the time embedding.
    pub(super) time_embed_dim: usize,
    pub(super) cross_attention_dim: usize,
}

/// One level of the UNet, as the configuration gives it for its down block; the up block mirrors it.
struct Level {
    channels: usize,
    layers: usize,
    transformer: TransformerConfig,
}

impl Layout {
    /// # Errors
    /// [`Error::Unsupported`] for values that would give another model than the configuration describes.
    pub(super) fn new(config: &UNet2DConditionConfig) -> Result<Self> {
        config.validate()?;
        check_scalars(config)?;
        let groups = config.norm_num_groups.unwrap_or(32);
        let levels = levels(config, groups)?;
        let (first, last) = (&levels[0], &levels[levels.len() - 1]);
        let time_embed_dim = config.time_embedding_dim.unwrap_or(4 * first.channels);
        let like = ResnetConfig {
            in_channels: last.channels,
            out_channels: last.channels,
            temb_channels: Some(time_embed_dim),
            groups,
            eps: config.norm_eps,
            scale: 1.0,
        };
        let mid_block = match config.mid_block_type.as_deref() {
            None => None,
            Some("UNetMidBlock2DCrossAttn") => Some((like, last.transformer)),
            Some(other) => {
                return Err(unsupported("mid_block_type", &other, "UNetMidBlock2DCrossAttn or null"));
            }
        };
        Ok(Self {
            down_blocks: down_blocks(config, &levels, like)?,
            mid_block,
            up_blocks: up_blocks(config, &levels, like)?,
            first_channels: first.channels,
            groups,
            time_embed_dim,
            cross_attention_dim: last.transformer.cross_attention_dim,
        })
    }
}

/// `like` gives what all convolutional blocks have in common.
fn down_blocks(
    config: &UNet2DConditionConfig,
    levels: &[Level],
    like: ResnetConfig,
) -> Result<Vec<BlockConfig>> {
    let accepted = ["DownBlock2D", "CrossAttnDownBlock2D"];
    let block = |(i, level): (usize, &Level)| {
        let attends = attends(&config.down_block_types[i], "down_block_types", accepted)?;
        // The first layer widens the image from what the level before has made of it.
        let before = levels[i.saturating_sub(1)].channels;
        let input = |layer| if layer == 0 { before } else { level.channels };
        let resnet = |layer| ResnetConfig { in_channels: input(layer), out_channels: level.channels, ..like };
        Ok(BlockConfig {
            resnets: (0..level.layers).map(resnet).collect(),
            transformer: attends.then_some(level.transformer),
            resample: i + 1 < levels.len(),
        })
    };
    levels.iter().enumerate().map(block).collect()
}

/// The down blocks mirrored, with a layer more, each of which takes a skip besides.
fn up_blocks(
    config: &UNet2DConditionConfig,
    levels: &[Level],
    like: ResnetConfig,
) -> Result<Vec<BlockConfig>> {
    let accepted = ["UpBlock2D", "CrossAttnUpBlock2D"];
    let mirrored: Vec<&Level> = levels.iter().rev().collect();
    let block = |(i, level): (usize, &&Level)| {
        let attends = attends(&config.up_block_types[i], "up_block_types", accepted)?;
        let before = mirrored[i.saturating_sub(1)].channels;
        let input = |layer| if layer == 0 { before } else { level.channels };
        // The last skip is what the level's down block was given.
        let given = mirrored.get(i + 1).unwrap_or(level).channels;
        let skip = |layer| if layer == level.layers { given } else { level.channels };
        let resnet = |layer| ResnetConfig {
            in_channels: input(layer) + skip(layer),
            out_channels: level.channels,
            ..like
        };
        Ok(BlockConfig {
            resnets: (0..=level.layers).map(resnet).collect(),
            transformer: attends.then_some(level.transformer),
            resample: i + 1 < levels.len(),
        })
    };
    mirrored.iter().enumerate().map(block).collect()
}

/// Single values of which only one is implemented, beyond those that `validate` knows.
fn check_scalars(config: &UNet2DConditionConfig) -> Result<()> {
    if !matches!(config.act_fn.as_str(), "silu" | "swish") {
        return Err(unsupported("act_fn", &config.act_fn, "silu"));
    }
    if config.center_input_sample {
        return Err(unsupported("center_input_sample", &true, "false"));
    }
    if config.downsample_padding != 1 {
        return Err(unsupported("downsample_padding", &config.downsample_padding, "1"));
    }
    for (key, value) in [
        ("mid_block_scale_factor", config.mid_block_scale_factor),
        ("resnet_out_scale_factor", config.resnet_out_scale_factor),
    ] {
        if value != 1.0 {
            return Err(unsupported(key, &value, "1"));
        }
    }
    for (key, side) in
        [("conv_in_kernel", config.conv_in_kernel), ("conv_out_kernel", config.conv_out_kernel)]
    {
        if side % 2 == 0 {
            return Err(unsupported(key, &side, "an odd number"));
        }
    }
    Ok(())
}

fn levels(config: &UNet2DConditionConfig, groups: usize) -> Result<Vec<Level>> {
    let level = |(i, &channels): (usize, &usize)| {
        let heads = number(&config.attention_head_dim, i, "attention_head_dim")?;
        if groups == 0 || channels == 0 || channels % groups != 0 {
            return Err(unsupported(
                "norm_num_groups",
                &groups,
                "a number that divides all of block_out_channels",
            ));
        }
        if channels % heads != 0 {
            return Err(unsupported(
                "attention_head_dim",
                &heads,
                "a number of heads that divides its level's block_out_channels",
            ));
        }
        let num_layers = transformer_layers(config, i)?;
        let transformer = TransformerConfig {
            channels,
            num_layers,
            num_attention_heads: heads,
            cross_attention_dim: number(&config.cross_attention_dim, i, "cross_attention_dim")?,
            norm_num_groups: groups,
        };
        let layers = number(&config.layers_per_block, i, "layers_per_block")?;
        Ok(Level { channels, layers, transformer })
    };
    let levels: Vec<Level> =
        config.block_out_channels.iter().enumerate().map(level).collect::<Result<_>>()?;
    // One prompt serves all levels.
    let dim = |level: &Level| level.transformer.cross_attention_dim;
    if levels.is_empty() || levels.windows(2).any(|pair| dim(&pair[0]) != dim(&pair[1])) {
        return Err(unsupported(
            "cross_attention_dim",
            &config.cross_attention_dim,
            "the same number for all levels",
        ));
    }
    Ok(levels)
}

/// How many transformer blocks follow one another at the level numbered `level`.
fn transformer_layers(config: &UNet2DConditionConfig, level: usize) -> Result<usize> {
    use OneOrMany::{Many, One};
    let values = &config.transformer_layers_per_block;
    let found = match values {
        One(One(layers)) => Some(layers),
        // A plain list can be read in two ways.
        One(Many(layers)) => layers.get(level),
        Many(levels) => match levels.get(level) {
            Some(One(layers)) => Some(layers),
            _ => None,
        },
    };
    let accepted = "a number, or one for each of block_out_channels";
    found.copied().ok_or_else(|| unsupported("transformer_layers_per_block", values, accepted))
}

/// The positive value for the level numbered `level`.
fn number(values: &OneOrMany<usize>, level: usize, key: &str) -> Result<usize> {
    match values.get(level) {
        Some(&value) if value > 0 => Ok(value),
        other => Err(unsupported(key, &other, "a positive number, or one for each of block_out_channels")),
    }
}

/// Whether a block of this type has cross-attention; `accepted` are the types without and with it.
fn attends(name: &str, key: &str, accepted: [&str; 2]) -> Result<bool> {
    match accepted.iter().position(|&known| known == name) {
        Some(index) => Ok(index == 1),
        None => Err(unsupported(key, &name, &format!("{} and {}", accepted[0], accepted[1]))),
    }
}

pub(super) fn unsupported(key: &str, value: &dyn std::fmt::Debug, accepted: &str) -> Error {
    Error::Unsupported(format!("UNet config: '{key}' is {value:?}; accepted is {accepted}"))
}
