//! The names of the original UNet (CompVis' latent-diffusion, and Stability's generative-models after it) and diffusers'.

use crate::{
    config::{Limited, OneOrMany, UNet2DConditionConfig},
    error::{Error, Result},
    weights::Weights,
};

/// Outside of the blocks: (original, diffusers).
const MODULES: [(&str, &str); 9] = [
    ("time_embed.0", "time_embedding.linear_1"),
    ("time_embed.2", "time_embedding.linear_2"),
    ("time_embed.cond_proj", "time_embedding.cond_proj"),
    ("label_emb.0.0", "add_embedding.linear_1"),
    ("label_emb.0.2", "add_embedding.linear_2"),
    ("input_blocks.0.0", "conv_in"),
    ("out.0", "conv_norm_out"),
    ("out.2", "conv_out"),
    ("middle_block.1", "mid_block.attentions.0"),
];

/// Within a ResNet: (original, diffusers).
const RESNET: [(&str, &str); 6] = [
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("emb_layers.1", "time_emb_proj"),
    ("skip_connection", "conv_shortcut"),
];

/// The names of a UNet's modules, where the original numbers blocks through.
pub(crate) struct LdmUnet {
    /// (original, diffusers), the longer before those with which they begin.
    modules: Vec<(String, String)>,
}

impl LdmUnet {
    /// Of a UNet with so many levels of so many ResNets each; the way up has one more at each level.
    pub(crate) fn new(levels: usize, layers_per_block: usize) -> Self {
        let mut modules: Vec<(String, String)> =
            MODULES.iter().map(|&(ldm, diffusers)| (ldm.to_owned(), diffusers.to_owned())).collect();
        let mut resnet = |ldm: String, diffusers: String| {
            let inner = |(old, new): &(&str, &str)| (format!("{ldm}.{old}"), format!("{diffusers}.{new}"));
            modules.extend(RESNET.iter().map(inner));
        };
        resnet("middle_block.0".into(), "mid_block.resnets.0".into());
        resnet("middle_block.2".into(), "mid_block.resnets.1".into());
        // A level of the way down ends with a block that halves.
        let blocks = |level, layers| (0..layers).map(move |layer| (level * layers + layer, level, layer));
        let down = || (0..levels).flat_map(|level| blocks(level, layers_per_block + 1));
        let up = || (0..levels).flat_map(|level| blocks(level, layers_per_block + 1));
        for (i, level, layer) in down().filter(|&(_, _, layer)| layer < layers_per_block) {
            resnet(format!("input_blocks.{}.0", i + 1), format!("down_blocks.{level}.resnets.{layer}"));
        }
        for (i, level, layer) in up() {
            resnet(format!("output_blocks.{i}.0"), format!("up_blocks.{level}.resnets.{layer}"));
        }
        for (i, level, layer) in down() {
            modules.push(if layer < layers_per_block {
                (format!("input_blocks.{}.1", i + 1), format!("down_blocks.{level}.attentions.{layer}"))
            } else {
                (format!("input_blocks.{}.0.op", i + 1), format!("down_blocks.{level}.downsamplers.0.conv"))
            });
        }
        for (i, level, layer) in up() {
            if layer == layers_per_block {
                // After the ResNet, or after the attention.
                for place in [1, 2] {
                    let upsampler = format!("up_blocks.{level}.upsamplers.0.conv");
                    modules.push((format!("output_blocks.{i}.{place}.conv"), upsampler));
                }
            }
            modules.push((format!("output_blocks.{i}.1"), format!("up_blocks.{level}.attentions.{layer}")));
        }
        Self { modules }
    }

    /// diffusers' name of a tensor; none for what is not a part of the UNet.
    pub(crate) fn to_diffusers(&self, name: &str) -> Option<String> {
        self.modules.iter().find_map(|(ldm, diffusers)| replaced(name, ldm, diffusers))
    }

    /// The original names of diffusers' module `name`: two where the original depends on other modules.
    pub(crate) fn to_ldm<'a>(&'a self, name: &'a str) -> impl Iterator<Item = String> + 'a {
        self.modules.iter().filter_map(move |(ldm, diffusers)| replaced(name, diffusers, ldm))
    }
}

/// `name` with `new` in place of the modules `old` at its beginning.
fn replaced(name: &str, old: &str, new: &str) -> Option<String> {
    let rest = name.strip_prefix(old)?;
    (rest.is_empty() || rest.starts_with('.')).then(|| format!("{new}{rest}"))
}

/// The UNet under diffusers' names, and its configuration as far as the tensors show it; `weights` has the original names.
///
/// Heads are not to be seen: with convolutions around the attention there are 8, with linear layers one for 64 channels.
///
/// # Errors
/// [`Error::Missing`]; [`Error::Unsupported`] for UNets that are not made of equal blocks.
pub(super) fn convert(weights: &Weights) -> Result<(UNet2DConditionConfig, Weights)> {
    let levels = levels(weights)?;
    let layers_per_block = levels[0].layers.len();
    let has_middle = weights.has("middle_block.0.in_layers.0.weight");
    let depths = depths(weights, &levels, has_middle)?;

    let attended = levels.iter().find(|level| level.attends());
    let attention =
        attended.map_or("middle_block.1".to_owned(), |level| format!("input_blocks.{}.1", level.first));
    let to_k = format!("{attention}.transformer_blocks.0.attn2.to_k.weight");
    let linear = weights.shape(&format!("{attention}.proj_in.weight"))?.len() == 2;
    let block_out_channels: Vec<usize> = levels.iter().map(|level| level.channels).collect();
    let types = |with: &str, without: &str| -> Vec<String> {
        levels.iter().map(|level| if level.attends() { with } else { without }.to_owned()).collect()
    };
    let mut up_block_types = types("CrossAttnUpBlock2D", "UpBlock2D");
    up_block_types.reverse();
    let cond_proj = "time_embed.cond_proj.weight";
    let config = UNet2DConditionConfig {
        in_channels: weights.side("input_blocks.0.0.weight", 1, 4)?,
        out_channels: weights.side("out.2.weight", 0, 4)?,
        down_block_types: types("CrossAttnDownBlock2D", "DownBlock2D"),
        mid_block_type: has_middle.then(|| "UNetMidBlock2DCrossAttn".to_owned()),
        up_block_types,
        layers_per_block: OneOrMany::One(layers_per_block),
        cross_attention_dim: OneOrMany::One(weights.side(&to_k, 1, 2)?),
        transformer_layers_per_block: OneOrMany::One(match depths.iter().all(|&depth| depth == depths[0]) {
            true => OneOrMany::One(depths[0]),
            false => OneOrMany::Many(depths),
        }),
        attention_head_dim: match linear {
            true => {
                OneOrMany::Many(block_out_channels.iter().map(|channels| (channels / 64).max(1)).collect())
            }
            false => OneOrMany::One(8),
        },
        use_linear_projection: linear,
        time_cond_proj_dim: if weights.has(cond_proj) { Some(weights.side(cond_proj, 1, 2)?) } else { None },
        block_out_channels,
        ..UNet2DConditionConfig::default()
    };
    config.check_limits(weights.file())?;
    let names = LdmUnet::new(levels.len(), layers_per_block);
    Ok((config, weights.renamed(|name| names.to_diffusers(name))))
}

/// A level on the way down.
struct Level {
    /// The number of its first block.
    first: usize,
    channels: usize,
    /// Transformer blocks after each ResNet.
    layers: Vec<usize>,
}

impl Level {
    fn attends(&self) -> bool {
        self.layers[0] > 0
    }
}

/// From the largest picture to the smallest; there is one at least, and none is without ResNets.
fn levels(weights: &Weights) -> Result<Vec<Level>> {
    let mut levels: Vec<Level> = Vec::new();
    let new = |first| Level { first, channels: 0, layers: Vec::new() };
    let mut level = new(1);
    for i in 1.. {
        let resnet = format!("input_blocks.{i}.0.out_layers.3.weight");
        // Where a level begins with anything else, the error names what is missing.
        if weights.has(&resnet) || level.layers.is_empty() {
            level.channels = weights.side(&resnet, 0, 4)?;
            level.layers.push(transformer_layers(weights, &format!("input_blocks.{i}.1")));
        } else if weights.has(&format!("input_blocks.{i}.0.op.weight")) {
            levels.push(std::mem::replace(&mut level, new(i + 1)));
        } else {
            levels.push(level);
            break;
        }
    }
    Ok(levels)
}

/// How many transformer blocks the attentions of each level have. A level without attention has a number all the same: the
/// last one's is that of the middle.
fn depths(weights: &Weights, levels: &[Level], has_middle: bool) -> Result<Vec<usize>> {
    let irregular = |what: &str| Err(Error::Unsupported(format!("{}: the UNet's {what}", weights.file())));
    if levels.iter().any(|level| level.layers.len() != levels[0].layers.len()) {
        return irregular("levels have different numbers of ResNets");
    }
    if levels.iter().any(|level| level.layers.windows(2).any(|pair| pair[0] != pair[1])) {
        return irregular("attentions have different numbers of transformer blocks within a level");
    }
    let mut depths: Vec<usize> = levels.iter().map(|level| level.layers[0].max(1)).collect();
    if has_middle {
        let middle = transformer_layers(weights, "middle_block.1");
        let last = levels.len() - 1;
        if levels[last].attends() && depths[last] != middle {
            return irregular("middle has another number of transformer blocks than its last level");
        }
        depths[last] = middle;
    }
    Ok(depths)
}

fn transformer_layers(weights: &Weights, attention: &str) -> usize {
    (0..).take_while(|i| weights.has(&format!("{attention}.transformer_blocks.{i}.norm1.weight"))).count()
}
