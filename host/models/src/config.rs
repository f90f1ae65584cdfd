//! The `config.json` of a model's components, with diffusers' field names and defaults.
//!
//! A field that a file lacks has the default of diffusers' constructor, as there. Fields that no supported model uses are
//! read all the same, so that `validate` can refuse a model which would otherwise come out wrong.

mod limits;

use serde::{Deserialize, Serialize};

pub(crate) use self::limits::{LAYERS, LEVELS, Limited, SEEN};

use crate::error::{Error, Result};

/// A value for all blocks, or one for each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany<T> {
    /// The same everywhere.
    One(T),
    /// By block, from the first on.
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    /// The value for the block numbered `index`; none beyond the end of a list.
    pub fn get(&self, index: usize) -> Option<&T> {
        match self {
            Self::One(value) => Some(value),
            Self::Many(values) => values.get(index),
        }
    }

    /// All values: one, or as many as there are blocks.
    pub fn as_slice(&self) -> &[T] {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::Many(values) => values,
        }
    }

    /// Whether it can serve `blocks` blocks.
    fn fits(&self, blocks: usize) -> bool {
        match self {
            Self::One(_) => true,
            Self::Many(values) => values.len() == blocks,
        }
    }
}

/// `UNet2DConditionModel`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UNet2DConditionConfig {
    /// Side of the latents that it was trained at; rows and columns where it is a list.
    pub sample_size: Option<OneOrMany<usize>>,
    /// 4; 9 for inpainting (latents, mask, masked image), 8 for instruct-pix2pix.
    pub in_channels: usize,
    /// 4.
    pub out_channels: usize,
    /// Whether the input is mapped from 0..1 to -1..1 first.
    pub center_input_sample: bool,
    /// Whether the cosines precede the sines in the time embedding.
    pub flip_sin_to_cos: bool,
    /// Subtracted from the number of frequencies in the time embedding's exponent.
    pub freq_shift: f32,
    /// `DownBlock2D` or `CrossAttnDownBlock2D`.
    pub down_block_types: Vec<String>,
    /// `UNetMidBlock2DCrossAttn`, `UNetMidBlock2D`, or none.
    pub mid_block_type: Option<String>,
    /// `UpBlock2D` or `CrossAttnUpBlock2D`.
    pub up_block_types: Vec<String>,
    /// Whether the first attention of each transformer block is to the prompt as well.
    pub only_cross_attention: OneOrMany<bool>,
    /// By level, from the largest picture to the smallest.
    pub block_out_channels: Vec<usize>,
    /// ResNets in a down block; an up block has one more.
    pub layers_per_block: OneOrMany<usize>,
    /// Zeros around a picture before it is halved.
    pub downsample_padding: usize,
    /// Divides the output of the mid block's ResNets.
    pub mid_block_scale_factor: f32,
    /// Between convolutions.
    pub act_fn: String,
    /// Groups of the group normalisations.
    pub norm_num_groups: Option<usize>,
    /// Epsilon of the ResNets' normalisations.
    pub norm_eps: f32,
    /// Features of a prompt's token.
    pub cross_attention_dim: OneOrMany<usize>,
    /// Transformer blocks in each attention, by level.
    pub transformer_layers_per_block: OneOrMany<OneOrMany<usize>>,
    /// The same for the up blocks, where these differ.
    pub reverse_transformer_layers_per_block: Option<OneOrMany<OneOrMany<usize>>>,
    /// Features of what is projected to `cross_attention_dim` first.
    pub encoder_hid_dim: Option<usize>,
    /// How it is projected.
    pub encoder_hid_dim_type: Option<String>,
    /// In spite of its name the *number* of heads, by level (diffusers issue 2011).
    pub attention_head_dim: OneOrMany<usize>,
    /// Not used by diffusers; null.
    pub num_attention_heads: Option<OneOrMany<usize>>,
    /// Two cross attentions instead of one.
    pub dual_cross_attention: bool,
    /// Whether a transformer's `proj_in` and `proj_out` are linear layers and not 1x1 convolutions.
    pub use_linear_projection: bool,
    /// An embedding of a class that is added to the time embedding.
    pub class_embed_type: Option<String>,
    /// `text_time` in SDXL: the pooled prompt and the picture's size are added to the time embedding.
    pub addition_embed_type: Option<String>,
    /// Features for each of SDXL's six size values.
    pub addition_time_embed_dim: Option<usize>,
    /// Classes of the embedding that `class_embed_type` describes.
    pub num_class_embeds: Option<usize>,
    /// Whether attention is computed in f32 even where the model is f16. Its scores and its sums are so
    /// on every device.
    pub upcast_attention: bool,
    /// `default`, or `scale_shift`.
    pub resnet_time_scale_shift: String,
    /// Whether ResNets leave out the activation before the time embedding's projection.
    pub resnet_skip_time_act: bool,
    /// Divides the output of each ResNet.
    pub resnet_out_scale_factor: f32,
    /// `positional`, or `fourier`.
    pub time_embedding_type: String,
    /// Features of the time embedding; four times the first level's channels where it is not given.
    pub time_embedding_dim: Option<usize>,
    /// Applied to the time embedding.
    pub time_embedding_act_fn: Option<String>,
    /// Applied to the time embedding after its last layer.
    pub timestep_post_act: Option<String>,
    /// Features of the guidance scale's embedding in latent consistency models.
    pub time_cond_proj_dim: Option<usize>,
    /// Side of the first convolution's kernel.
    pub conv_in_kernel: usize,
    /// Side of the last convolution's kernel.
    pub conv_out_kernel: usize,
    /// Inputs of `add_embedding`: pooled features and six times `addition_time_embed_dim`.
    pub projection_class_embeddings_input_dim: Option<usize>,
    /// `default`, or `gated`.
    pub attention_type: String,
    /// Whether the class embedding is appended and not added.
    pub class_embeddings_concat: bool,
    /// Like `only_cross_attention`, for the mid block.
    pub mid_block_only_cross_attention: Option<bool>,
    /// A normalisation of the prompt.
    pub cross_attention_norm: Option<String>,
}

impl Default for UNet2DConditionConfig {
    fn default() -> Self {
        let cross = "CrossAttnDownBlock2D";
        let up = "CrossAttnUpBlock2D";
        Self {
            sample_size: None,
            in_channels: 4,
            out_channels: 4,
            center_input_sample: false,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            down_block_types: [cross, cross, cross, "DownBlock2D"].map(str::to_owned).to_vec(),
            mid_block_type: Some("UNetMidBlock2DCrossAttn".to_owned()),
            up_block_types: ["UpBlock2D", up, up, up].map(str::to_owned).to_vec(),
            only_cross_attention: OneOrMany::One(false),
            block_out_channels: vec![320, 640, 1280, 1280],
            layers_per_block: OneOrMany::One(2),
            downsample_padding: 1,
            mid_block_scale_factor: 1.0,
            act_fn: "silu".to_owned(),
            norm_num_groups: Some(32),
            norm_eps: 1e-5,
            cross_attention_dim: OneOrMany::One(1280),
            transformer_layers_per_block: OneOrMany::One(OneOrMany::One(1)),
            reverse_transformer_layers_per_block: None,
            encoder_hid_dim: None,
            encoder_hid_dim_type: None,
            attention_head_dim: OneOrMany::One(8),
            num_attention_heads: None,
            dual_cross_attention: false,
            use_linear_projection: false,
            class_embed_type: None,
            addition_embed_type: None,
            addition_time_embed_dim: None,
            num_class_embeds: None,
            upcast_attention: false,
            resnet_time_scale_shift: "default".to_owned(),
            resnet_skip_time_act: false,
            resnet_out_scale_factor: 1.0,
            time_embedding_type: "positional".to_owned(),
            time_embedding_dim: None,
            time_embedding_act_fn: None,
            timestep_post_act: None,
            time_cond_proj_dim: None,
            conv_in_kernel: 3,
            conv_out_kernel: 3,
            projection_class_embeddings_input_dim: None,
            attention_type: "default".to_owned(),
            class_embeddings_concat: false,
            mid_block_only_cross_attention: None,
            cross_attention_norm: None,
        }
    }
}

impl UNet2DConditionConfig {
    /// Refuses what the UNet does not implement, and lists of another length than there are blocks.
    ///
    /// # Errors
    /// [`Error::Unsupported`], naming the field and what is accepted.
    pub fn validate(&self) -> Result<()> {
        let Self { only_cross_attention, resnet_time_scale_shift, .. } = self;
        let none = "null";
        accept("only_cross_attention", none_or_false(only_cross_attention.as_slice()), "false")?;
        accept("mid_block_only_cross_attention", self.mid_block_only_cross_attention != Some(true), "false")?;
        accept(
            "reverse_transformer_layers_per_block",
            self.reverse_transformer_layers_per_block.is_none(),
            none,
        )?;
        accept("encoder_hid_dim", self.encoder_hid_dim.is_none(), none)?;
        accept("encoder_hid_dim_type", self.encoder_hid_dim_type.is_none(), none)?;
        accept("num_attention_heads", self.num_attention_heads.is_none(), none)?;
        accept("dual_cross_attention", !self.dual_cross_attention, "false")?;
        accept("class_embed_type", self.class_embed_type.is_none(), none)?;
        accept("num_class_embeds", self.num_class_embeds.is_none(), none)?;
        accept("class_embeddings_concat", !self.class_embeddings_concat, "false")?;
        accept("resnet_time_scale_shift", resnet_time_scale_shift == "default", "\"default\"")?;
        accept("resnet_skip_time_act", !self.resnet_skip_time_act, "false")?;
        accept("time_embedding_type", self.time_embedding_type == "positional", "\"positional\"")?;
        accept("time_embedding_act_fn", self.time_embedding_act_fn.is_none(), none)?;
        accept("timestep_post_act", self.timestep_post_act.is_none(), none)?;
        accept("attention_type", self.attention_type == "default", "\"default\"")?;
        accept("cross_attention_norm", self.cross_attention_norm.is_none(), none)?;
        accept("norm_num_groups", self.norm_num_groups.is_some(), "a number")?;

        let blocks = self.block_out_channels.len();
        let each = "one value for each of block_out_channels";
        accept("block_out_channels", blocks > 0, "a list that is not empty")?;
        accept("down_block_types", self.down_block_types.len() == blocks, each)?;
        accept("up_block_types", self.up_block_types.len() == blocks, each)?;
        accept("layers_per_block", self.layers_per_block.fits(blocks), each)?;
        accept("cross_attention_dim", self.cross_attention_dim.fits(blocks), each)?;
        accept("transformer_layers_per_block", self.transformer_layers_per_block.fits(blocks), each)?;
        accept("attention_head_dim", self.attention_head_dim.fits(blocks), each)
    }
}

/// `AutoencoderKL`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AutoencoderKLConfig {
    /// Of the picture: 3.
    pub in_channels: usize,
    /// Of the picture: 3.
    pub out_channels: usize,
    /// `DownEncoderBlock2D`.
    pub down_block_types: Vec<String>,
    /// `UpDecoderBlock2D`.
    pub up_block_types: Vec<String>,
    /// By level, from the largest picture to the smallest.
    pub block_out_channels: Vec<usize>,
    /// ResNets in a block of the encoder; the decoder's have one more.
    pub layers_per_block: usize,
    /// Between convolutions.
    pub act_fn: String,
    /// Of the latents: 4.
    pub latent_channels: usize,
    /// Groups of the group normalisations.
    pub norm_num_groups: usize,
    /// Side of the pictures that it was trained at.
    pub sample_size: OneOrMany<usize>,
    /// Multiplies latents to give them a variance of 1.
    pub scaling_factor: f32,
    /// Subtracted from latents before they are scaled.
    pub shift_factor: Option<f32>,
    /// By channel, in place of `shift_factor`.
    pub latents_mean: Option<Vec<f32>>,
    /// By channel.
    pub latents_std: Option<Vec<f32>>,
    /// Whether f16 can't hold its activations: where it is all that a device has, they are scaled.
    pub force_upcast: bool,
    /// Whether there is a convolution after the encoder.
    pub use_quant_conv: bool,
    /// Whether there is a convolution before the decoder.
    pub use_post_quant_conv: bool,
    /// Whether the middle of encoder and decoder has an attention.
    pub mid_block_add_attention: bool,
}

impl Default for AutoencoderKLConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            down_block_types: vec!["DownEncoderBlock2D".to_owned()],
            up_block_types: vec!["UpDecoderBlock2D".to_owned()],
            block_out_channels: vec![64],
            layers_per_block: 1,
            act_fn: "silu".to_owned(),
            latent_channels: 4,
            norm_num_groups: 32,
            sample_size: OneOrMany::One(32),
            scaling_factor: 0.18215,
            shift_factor: None,
            latents_mean: None,
            latents_std: None,
            force_upcast: true,
            use_quant_conv: true,
            use_post_quant_conv: true,
            mid_block_add_attention: true,
        }
    }
}

/// `AutoencoderTiny`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AutoencoderTinyConfig {
    /// Of the picture: 3.
    pub in_channels: usize,
    /// Of the picture: 3.
    pub out_channels: usize,
    /// By level of the encoder.
    pub encoder_block_out_channels: Vec<usize>,
    /// By level of the decoder.
    pub decoder_block_out_channels: Vec<usize>,
    /// Between convolutions.
    pub act_fn: String,
    /// How the decoder enlarges.
    pub upsample_fn: String,
    /// Of the latents: 4.
    pub latent_channels: usize,
    /// By how much each of the decoder's levels enlarges.
    pub upsampling_scaling_factor: usize,
    /// Blocks in each level of the encoder.
    pub num_encoder_blocks: Vec<usize>,
    /// Blocks in each level of the decoder.
    pub num_decoder_blocks: Vec<usize>,
    /// The decoder takes `3 tanh(latents / 3)`; diffusers' decoder has the 3 built in.
    pub latent_magnitude: f32,
    /// The mean of latents that are scaled to 0..1.
    pub latent_shift: f32,
    /// Whether it must not run in f16. Not used: it is false in those that are published.
    pub force_upcast: bool,
    /// Multiplies latents: 1.
    pub scaling_factor: f32,
    /// Subtracted from latents before they are scaled: 0.
    pub shift_factor: f32,
}

impl Default for AutoencoderTinyConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            encoder_block_out_channels: vec![64; 4],
            decoder_block_out_channels: vec![64; 4],
            act_fn: "relu".to_owned(),
            upsample_fn: "nearest".to_owned(),
            latent_channels: 4,
            upsampling_scaling_factor: 2,
            num_encoder_blocks: vec![1, 3, 3, 3],
            num_decoder_blocks: vec![3, 3, 3, 1],
            latent_magnitude: 3.0,
            latent_shift: 0.5,
            force_upcast: false,
            scaling_factor: 1.0,
            shift_factor: 0.0,
        }
    }
}

/// `CLIPTextModel` and `CLIPTextModelWithProjection`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CLIPTextConfig {
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// Features of a token.
    pub hidden_size: usize,
    /// Features between the two layers of an MLP.
    pub intermediate_size: usize,
    /// Features of the projected embedding.
    pub projection_dim: usize,
    /// Transformer layers.
    pub num_hidden_layers: usize,
    /// Heads of an attention.
    pub num_attention_heads: usize,
    /// The longest prompt in tokens, BOS and EOS included.
    pub max_position_embeddings: usize,
    /// `quick_gelu` or `gelu`.
    pub hidden_act: String,
    /// Epsilon of the normalisations.
    pub layer_norm_eps: f32,
    /// The token whose state is the pooled output. 2, in files from before transformers 4.30, stands for the token with
    /// the greatest id.
    pub eos_token_id: u32,
    /// Whether tokens do not see the padding before them. Stable Diffusion's pipelines act on it, SDXL's do not.
    pub use_attention_mask: bool,
}

impl Default for CLIPTextConfig {
    fn default() -> Self {
        Self {
            vocab_size: 49408,
            hidden_size: 512,
            intermediate_size: 2048,
            projection_dim: 512,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: "quick_gelu".to_owned(),
            layer_norm_eps: 1e-5,
            eos_token_id: 49407,
            use_attention_mask: false,
        }
    }
}

/// `CLIPVisionModel`, with transformers' field names and defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CLIPVisionConfig {
    /// Features of a patch.
    pub hidden_size: usize,
    /// Features between the two layers of an MLP.
    pub intermediate_size: usize,
    /// Features of the projected embedding.
    pub projection_dim: usize,
    /// Transformer layers.
    pub num_hidden_layers: usize,
    /// Heads of an attention.
    pub num_attention_heads: usize,
    /// Channels of a picture.
    pub num_channels: usize,
    /// Rows and columns of a picture.
    pub image_size: usize,
    /// Rows and columns of a patch.
    pub patch_size: usize,
    /// `quick_gelu` or `gelu`.
    pub hidden_act: String,
    /// Epsilon of the normalisations.
    pub layer_norm_eps: f32,
}

impl CLIPVisionConfig {
    /// Patches in a row of a picture; what is left over at its end is not seen.
    pub fn patches(&self) -> usize {
        self.image_size / self.patch_size
    }
}

impl Default for CLIPVisionConfig {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            projection_dim: 512,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: 224,
            patch_size: 32,
            hidden_act: "quick_gelu".to_owned(),
            layer_norm_eps: 1e-5,
        }
    }
}

fn none_or_false(values: &[bool]) -> bool {
    values.iter().all(|&value| !value)
}

fn accept(field: &str, accepted: bool, what: &str) -> Result<()> {
    if accepted {
        return Ok(());
    }
    Err(Error::Unsupported(format!(
        "config.json: '{field}' has a value that is not supported; accepted is {what}"
    )))
}
