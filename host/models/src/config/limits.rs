//! What a configuration's numbers may be, checked before anything is made of them: far beyond any model, and small enough that
//! nothing overflows and that what is missing is missed before memory is asked for.

use std::{fmt::Debug, ops::RangeInclusive};

use super::{
    AutoencoderKLConfig, AutoencoderTinyConfig, CLIPTextConfig, CLIPVisionConfig, OneOrMany,
    UNet2DConditionConfig,
};
use crate::error::{Error, Result};

/// Channels, features, groups and heads.
const FEATURES: RangeInclusive<usize> = 1..=1 << 16;
/// Layers of one kind that follow one another.
pub(crate) const LAYERS: RangeInclusive<usize> = 0..=512;
/// Levels of a network, between which pictures are halved or doubled.
pub(crate) const LEVELS: RangeInclusive<usize> = 1..=16;
/// Rows of a table, and features that are joined of others.
const ROWS: RangeInclusive<usize> = 1..=1 << 20;
/// Sides of pictures and latents.
const SIDES: RangeInclusive<usize> = 1..=1 << 14;
/// Sides of a convolution's kernel.
const KERNELS: RangeInclusive<usize> = 1..=15;
/// Sides of the pictures that a picture encoder takes.
pub(crate) const SEEN: RangeInclusive<usize> = 1..=1 << 12;
/// What variances get added.
const EPSILONS: RangeInclusive<f32> = 0.0..=1.0;
/// Means, factors and shifts.
const REALS: RangeInclusive<f32> = -1e6..=1e6;

/// A configuration whose values have limits.
pub(crate) trait Limited {
    /// Compares all of them.
    fn compare(&self, limits: &mut Limits);

    /// That they are within their limits. `file` is where they are from.
    ///
    /// # Errors
    /// [`Error::Unsupported`], naming the file, the key, its value and what is accepted.
    fn check_limits(&self, file: &str) -> Result<()> {
        let mut limits = Limits { refused: None };
        self.compare(&mut limits);
        limits.refused.map_or(Ok(()), |reason| Err(Error::Unsupported(format!("{file}: {reason}"))))
    }
}

/// What was found so far.
pub(crate) struct Limits {
    /// Of the first value that is beyond its limits.
    refused: Option<String>,
}

impl Limits {
    fn refuse(&mut self, key: &str, value: impl Debug, accepted: &str) {
        self.refused.get_or_insert_with(|| format!("'{key}' is {value:?}; accepted is {accepted}"));
    }

    fn number(&mut self, key: &str, value: usize, accepted: RangeInclusive<usize>) {
        if !accepted.contains(&value) {
            self.refuse(key, value, &format!("{} to {}", accepted.start(), accepted.end()));
        }
    }

    fn numbers<'a>(
        &mut self,
        key: &str,
        values: impl IntoIterator<Item = &'a usize>,
        accepted: RangeInclusive<usize>,
    ) {
        values.into_iter().for_each(|value| self.number(key, *value, accepted.clone()));
    }

    /// A list of as many values as there can be levels.
    fn levels(&mut self, key: &str, count: usize) {
        if !LEVELS.contains(&count) {
            let accepted = format!("{} to {} of them", LEVELS.start(), LEVELS.end());
            self.refuse(key, format_args!("a list of {count}"), &accepted);
        }
    }

    /// One for each level, or one for all.
    fn each(&mut self, key: &str, values: &OneOrMany<usize>, accepted: RangeInclusive<usize>) {
        self.levels(key, values.as_slice().len());
        self.numbers(key, values.as_slice(), accepted);
    }

    fn real(&mut self, key: &str, value: f32, accepted: RangeInclusive<f32>) {
        if !accepted.contains(&value) {
            self.refuse(key, value, &format!("a number from {} to {}", accepted.start(), accepted.end()));
        }
    }

    /// What something is divided by.
    fn divisor(&mut self, key: &str, value: f32) {
        self.real(key, value, REALS);
        if value.abs() < 1e-6 {
            self.refuse(key, value, "a number that is not 0");
        }
    }

    /// Heads that share features.
    fn heads(&mut self, key: &str, heads: usize, features: usize) {
        self.number(key, heads, FEATURES);
        if heads > 0 && !features.is_multiple_of(heads) {
            self.refuse(key, heads, &format!("a number that divides hidden_size, {features}"));
        }
    }
}

impl Limited for UNet2DConditionConfig {
    fn compare(&self, limits: &mut Limits) {
        let sizes = self.sample_size.iter().flat_map(OneOrMany::as_slice);
        limits.numbers("sample_size", sizes, SIDES);
        limits.number("in_channels", self.in_channels, FEATURES);
        limits.number("out_channels", self.out_channels, FEATURES);
        limits.levels("down_block_types", self.down_block_types.len());
        limits.levels("up_block_types", self.up_block_types.len());
        limits.levels("block_out_channels", self.block_out_channels.len());
        limits.numbers("block_out_channels", &self.block_out_channels, FEATURES);
        limits.each("layers_per_block", &self.layers_per_block, LAYERS);
        limits.numbers("norm_num_groups", &self.norm_num_groups, FEATURES);
        limits.real("norm_eps", self.norm_eps, EPSILONS);
        limits.real("freq_shift", self.freq_shift, REALS);
        limits.each("cross_attention_dim", &self.cross_attention_dim, FEATURES);
        let key = "transformer_layers_per_block";
        limits.levels(key, self.transformer_layers_per_block.as_slice().len());
        for layers in self.transformer_layers_per_block.as_slice() {
            limits.each(key, layers, LAYERS);
        }
        limits.each("attention_head_dim", &self.attention_head_dim, FEATURES);
        limits.number("conv_in_kernel", self.conv_in_kernel, KERNELS);
        limits.number("conv_out_kernel", self.conv_out_kernel, KERNELS);
        for (key, features) in [
            ("time_embedding_dim", self.time_embedding_dim),
            ("time_cond_proj_dim", self.time_cond_proj_dim),
            ("addition_time_embed_dim", self.addition_time_embed_dim),
            ("projection_class_embeddings_input_dim", self.projection_class_embeddings_input_dim),
        ] {
            limits.numbers(key, &features, ROWS);
        }
    }
}

impl Limited for AutoencoderKLConfig {
    fn compare(&self, limits: &mut Limits) {
        limits.number("in_channels", self.in_channels, FEATURES);
        limits.number("out_channels", self.out_channels, FEATURES);
        limits.levels("down_block_types", self.down_block_types.len());
        limits.levels("up_block_types", self.up_block_types.len());
        limits.levels("block_out_channels", self.block_out_channels.len());
        limits.numbers("block_out_channels", &self.block_out_channels, FEATURES);
        limits.number("layers_per_block", self.layers_per_block, LAYERS);
        limits.number("latent_channels", self.latent_channels, FEATURES);
        limits.number("norm_num_groups", self.norm_num_groups, FEATURES);
        limits.numbers("sample_size", self.sample_size.as_slice(), SIDES);
        limits.divisor("scaling_factor", self.scaling_factor);
        self.shift_factor.iter().for_each(|&shift| limits.real("shift_factor", shift, REALS));
        self.latents_mean.iter().flatten().for_each(|&mean| limits.real("latents_mean", mean, REALS));
        self.latents_std.iter().flatten().for_each(|&std| limits.divisor("latents_std", std));
    }
}

impl Limited for AutoencoderTinyConfig {
    fn compare(&self, limits: &mut Limits) {
        limits.number("in_channels", self.in_channels, FEATURES);
        limits.number("out_channels", self.out_channels, FEATURES);
        limits.number("latent_channels", self.latent_channels, FEATURES);
        for (key, values, accepted) in [
            ("encoder_block_out_channels", &self.encoder_block_out_channels, FEATURES),
            ("decoder_block_out_channels", &self.decoder_block_out_channels, FEATURES),
            ("num_encoder_blocks", &self.num_encoder_blocks, LAYERS),
            ("num_decoder_blocks", &self.num_decoder_blocks, LAYERS),
        ] {
            limits.levels(key, values.len());
            limits.numbers(key, values, accepted);
        }
        // A latent is as wide as the levels tell, which is 2 for each.
        limits.number("upsampling_scaling_factor", self.upsampling_scaling_factor, 2..=2);
        limits.divisor("latent_magnitude", self.latent_magnitude);
        limits.real("latent_shift", self.latent_shift, REALS);
        limits.divisor("scaling_factor", self.scaling_factor);
        limits.real("shift_factor", self.shift_factor, REALS);
    }
}

impl Limited for CLIPTextConfig {
    fn compare(&self, limits: &mut Limits) {
        limits.number("vocab_size", self.vocab_size, ROWS);
        limits.number("hidden_size", self.hidden_size, FEATURES);
        limits.number("intermediate_size", self.intermediate_size, FEATURES);
        limits.number("projection_dim", self.projection_dim, FEATURES);
        limits.number("num_hidden_layers", self.num_hidden_layers, LAYERS);
        limits.heads("num_attention_heads", self.num_attention_heads, self.hidden_size);
        limits.number("max_position_embeddings", self.max_position_embeddings, FEATURES);
        limits.real("layer_norm_eps", self.layer_norm_eps, EPSILONS);
    }
}

impl Limited for CLIPVisionConfig {
    fn compare(&self, limits: &mut Limits) {
        limits.number("hidden_size", self.hidden_size, FEATURES);
        limits.number("intermediate_size", self.intermediate_size, FEATURES);
        limits.number("projection_dim", self.projection_dim, FEATURES);
        limits.number("num_hidden_layers", self.num_hidden_layers, LAYERS);
        limits.heads("num_attention_heads", self.num_attention_heads, self.hidden_size);
        limits.number("image_size", self.image_size, SEEN);
        limits.number("patch_size", self.patch_size, SEEN);
        limits.real("layer_norm_eps", self.layer_norm_eps, EPSILONS);
    }
}
