//! The names of the original autoencoder and diffusers'.

use crate::{
    config::{AutoencoderKLConfig, Limited, OneOrMany},
    error::Result,
    weights::Weights,
};

/// The autoencoder under diffusers' names and its configuration, but for `sample_size` and `scaling_factor`; `weights` has
/// the original names.
///
/// # Errors
/// [`crate::Error::Missing`]; [`crate::Error::Unsupported`] for sizes beyond all limits.
pub(super) fn convert(weights: &Weights) -> Result<(AutoencoderKLConfig, Weights)> {
    let channels = |level: usize| format!("encoder.down.{level}.block.0.conv1.weight");
    let count = (0..).take_while(|&level| weights.has(&channels(level))).count().max(1);
    let side = |name: &str, axis: usize| weights.side(name, axis, 4);
    // The first is read in any case, to name what is missing.
    let block_out_channels =
        (0..count).map(|level| side(&channels(level), 0)).collect::<Result<Vec<usize>>>()?;
    let layers = |i: &usize| weights.has(&format!("encoder.down.0.block.{i}.conv1.weight"));
    let config = AutoencoderKLConfig {
        in_channels: side("encoder.conv_in.weight", 1)?,
        out_channels: side("decoder.conv_out.weight", 0)?,
        down_block_types: vec!["DownEncoderBlock2D".to_owned(); count],
        up_block_types: vec!["UpDecoderBlock2D".to_owned(); count],
        block_out_channels,
        layers_per_block: (0..).take_while(layers).count(),
        latent_channels: side("decoder.conv_in.weight", 1)?,
        sample_size: OneOrMany::One(512),
        use_quant_conv: weights.has("quant_conv.weight"),
        use_post_quant_conv: weights.has("post_quant_conv.weight"),
        mid_block_add_attention: weights.has("encoder.mid.attn_1.q.weight"),
        ..AutoencoderKLConfig::default()
    };
    config.check_limits(weights.file())?;
    let converted = weights.mapped(|name, entry| {
        let name = to_diffusers(name, count)?;
        // The original attention is made of 1x1 convolutions.
        let entry = if name.contains(".attentions.") { entry.linear() } else { entry.clone() };
        Some((name, entry))
    });
    Ok((config, converted))
}

/// diffusers' name of a tensor; none for what is not a part of the autoencoder, as its loss.
fn to_diffusers(name: &str, levels: usize) -> Option<String> {
    let (half, rest) = name.split_once('.')?;
    if matches!(half, "quant_conv" | "post_quant_conv") {
        return Some(name.to_owned());
    }
    if !matches!(half, "encoder" | "decoder") {
        return None;
    }
    let parts: Vec<&str> = rest.split('.').collect();
    let renamed = match parts[..] {
        [conv @ ("conv_in" | "conv_out"), last] => format!("{conv}.{last}"),
        ["norm_out", last] => format!("conv_norm_out.{last}"),
        ["mid", block @ ("block_1" | "block_2"), module, last] => {
            let index = if block == "block_1" { 0 } else { 1 };
            format!("mid_block.resnets.{index}.{}.{last}", resnet(module))
        }
        ["mid", "attn_1", module, last] => format!("mid_block.attentions.0.{}.{last}", attention(module)?),
        ["down", level, "block", i, module, last] => {
            format!("down_blocks.{level}.resnets.{i}.{}.{last}", resnet(module))
        }
        ["down", level, "downsample", "conv", last] => {
            format!("down_blocks.{level}.downsamplers.0.conv.{last}")
        }
        // The original numbers the decoder's levels from the largest picture to the smallest too.
        ["up", level, ref rest @ ..] => {
            let level = (levels - 1).checked_sub(level.parse().ok()?)?;
            match *rest {
                ["block", i, module, last] => {
                    format!("up_blocks.{level}.resnets.{i}.{}.{last}", resnet(module))
                }
                ["upsample", "conv", last] => format!("up_blocks.{level}.upsamplers.0.conv.{last}"),
                _ => return None,
            }
        }
        _ => return None,
    };
    Some(format!("{half}.{renamed}"))
}

fn resnet(module: &str) -> &str {
    if module == "nin_shortcut" { "conv_shortcut" } else { module }
}

fn attention(module: &str) -> Option<&'static str> {
    Some(match module {
        "norm" => "group_norm",
        "q" => "to_q",
        "k" => "to_k",
        "v" => "to_v",
        "proj_out" => "to_out.0",
        _ => return None,
    })
}
