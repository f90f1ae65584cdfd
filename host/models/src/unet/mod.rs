//! `UNet2DConditionModel`: the network that denoises (Rombach et al. 2022, "High-Resolution Image Synthesis with Latent
//! Diffusion Models").

pub(crate) mod attention;
mod blocks;
mod embeddings;
pub(crate) mod layers;
mod layout;
mod resnet;

use std::sync::Arc;

use reverie_kernels::{Activation, Backend, Conv2dDesc, Timesteps, Unary};

pub use attention::{Transformer2DModel, TransformerConfig};
pub use blocks::{BlockConfig, Context, DownBlock2D, UNetMidBlock2DCrossAttn, UpBlock2D};
pub use resnet::{ResnetBlock2D, ResnetConfig};

use crate::{
    config::UNet2DConditionConfig,
    error::{Error, Result},
    finite::Part,
    loader::Loader,
};
use embeddings::TimestepEmbedding;
use layers::GroupNorm;
use layout::Layout;

/// The UNet of Stable Diffusion 1.x, 2.x and XL, of their inpainting variants and of latent consistency models.
///
/// Entries of a batch do not see each other, and each may be at a step of its own.
pub struct UNet2DConditionModel<B: Backend> {
    time_proj: Timesteps,
    time_embedding: TimestepEmbedding<B>,
    /// The features of `timestep_cond`, where the model takes it.
    time_cond_proj_dim: Option<usize>,
    add_embedding: Option<AddEmbedding<B>>,
    conv_in: Arc<B::Conv2d>,
    down_blocks: Vec<DownBlock2D<B>>,
    mid_block: Option<UNetMidBlock2DCrossAttn<B>>,
    up_blocks: Vec<UpBlock2D<B>>,
    conv_norm_out: GroupNorm<B>,
    conv_out: Arc<B::Conv2d>,
    in_channels: usize,
    cross_attention_dim: usize,
    steps: B::Repeated,
    pub(crate) part: Part,
}

/// What some models are given beside the latents, the step and the prompt.
pub struct Conditions<'a, B: Backend> {
    /// LCM: the embedding of the guidance scale, (N, 1, 1, time_cond_proj_dim). Without it such a model is taken to have no
    /// guidance, as in diffusers.
    pub timestep_cond: Option<&'a B::Tensor>,
    /// SDXL: the pooled prompt, (N, 1, 1, features).
    pub text_embeds: Option<&'a B::Tensor>,
    /// SDXL: for each entry of the batch, one after the other, its original size, crop and target size, each as rows then
    /// columns.
    pub time_ids: Option<&'a [f32]>,
}

impl<B: Backend> Default for Conditions<'_, B> {
    fn default() -> Self {
        Self { timestep_cond: None, text_embeds: None, time_ids: None }
    }
}

/// `addition_embed_type` "text_time": pooled prompt and sizes, as a part of the time embedding.
struct AddEmbedding<B: Backend> {
    add_time_proj: Timesteps,
    add_embedding: TimestepEmbedding<B>,
    /// `projection_class_embeddings_input_dim`.
    inputs: usize,
}

impl<B: Backend> UNet2DConditionModel<B> {
    /// Prepares the model whose tensors lie directly below `loader`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a configuration that is not supported; tensors that are missing or of another shape.
    pub fn load(loader: &Loader<B>, config: &UNet2DConditionConfig) -> Result<Self> {
        let layout = Layout::new(config)?;
        let first = layout.first_channels;
        let time_proj = Timesteps {
            num_channels: first,
            flip_sin_to_cos: config.flip_sin_to_cos,
            downscale_freq_shift: config.freq_shift,
        };
        let down_block = |(i, block)| DownBlock2D::load(&loader.sub(&format!("down_blocks.{i}")), block);
        let up_block = |(i, block)| UpBlock2D::load(&loader.sub(&format!("up_blocks.{i}")), block);
        let mid_block = layout.mid_block.map(|(resnet, transformer)| {
            UNetMidBlock2DCrossAttn::load(&loader.sub("mid_block"), &resnet, &transformer)
        });
        Ok(Self {
            time_proj,
            time_embedding: TimestepEmbedding::load(
                &loader.sub("time_embedding"),
                first,
                layout.time_embed_dim,
                config.time_cond_proj_dim,
            )?,
            time_cond_proj_dim: config.time_cond_proj_dim,
            add_embedding: AddEmbedding::load(loader, config, layout.time_embed_dim)?,
            conv_in: loader.conv2d(
                "conv_in",
                Conv2dDesc::same(config.in_channels, first, config.conv_in_kernel),
                Activation::None,
            )?,
            down_blocks: layout.down_blocks.iter().enumerate().map(down_block).collect::<Result<_>>()?,
            mid_block: mid_block.transpose()?,
            up_blocks: layout.up_blocks.iter().enumerate().map(up_block).collect::<Result<_>>()?,
            conv_norm_out: GroupNorm::load(loader, "conv_norm_out", first, layout.groups, config.norm_eps)?,
            conv_out: loader.conv2d(
                "conv_out",
                Conv2dDesc::same(first, config.out_channels, config.conv_out_kernel),
                Activation::None,
            )?,
            in_channels: config.in_channels,
            cross_attention_dim: layout.cross_attention_dim,
            steps: loader.backend.repeated(),
            part: Part::new("the UNet", &loader.weights),
        })
    }

    /// What the model makes of the noisy latents `sample`, (N, in_channels, H, W), at `timesteps`, one for each entry of the
    /// batch, and for prompts of S tokens, `encoder_hidden_states` (N, 1, S, cross_attention_dim): (N, out_channels, H, W).
    /// H and W may be any number of latents.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the inputs do not fit the model or each other.
    pub fn forward(
        &self,
        backend: &B,
        sample: &B::Tensor,
        timesteps: &[f32],
        encoder_hidden_states: &B::Tensor,
        conditions: &Conditions<B>,
    ) -> Result<B::Tensor> {
        self.check(backend, sample, timesteps, encoder_hidden_states, conditions)?;
        let emb = self.embed(backend, timesteps, conditions)?;
        let temb_act = backend.unary(&emb, Unary::Silu)?;
        let inputs = [sample, &temb_act, encoder_hidden_states];
        let mut made =
            backend.repeat(&self.steps, &inputs, &mut |inputs| Ok(vec![self.run(backend, inputs)?]))?;
        Ok(made.pop().expect("as many as were made"))
    }

    /// All but the time embedding: what is the same at every step. `inputs` are the sample, the embedding with its activation,
    /// and the prompts.
    fn run(&self, backend: &B, inputs: &[B::Tensor]) -> reverie_kernels::Result<B::Tensor> {
        let [sample, temb_act, encoder_hidden_states] = inputs else { unreachable!("three inputs") };
        let context = Context { backend, temb_act, encoder_hidden_states };
        let mut x = backend.conv2d(sample, &self.conv_in)?;
        // A stack: each up block takes off what it needs, so that the memory is free as soon as it can be.
        let mut skips = vec![x.clone()];
        for block in &self.down_blocks {
            x = block.forward(&context, x, &mut skips)?;
        }
        if let Some(block) = &self.mid_block {
            x = block.forward(&context, x)?;
        }
        for block in &self.up_blocks {
            x = block.forward(&context, x, &mut skips)?;
        }
        x = self.conv_norm_out.forward(backend, &x, Unary::Silu)?;
        backend.conv2d(&x, &self.conv_out)
    }

    /// The time embedding with all that is added to it, (N, 1, 1, time_embed_dim).
    fn embed(&self, backend: &B, timesteps: &[f32], conditions: &Conditions<B>) -> Result<B::Tensor> {
        let sinusoids = backend.timestep_embedding(timesteps, timesteps.len(), self.time_proj)?;
        let emb = self.time_embedding.forward(backend, &sinusoids, conditions.timestep_cond)?;
        match &self.add_embedding {
            Some(add) => Ok(backend.add(&emb, &add.forward(backend, timesteps.len(), conditions)?)?),
            None => Ok(emb),
        }
    }

    fn check(
        &self,
        backend: &B,
        sample: &B::Tensor,
        timesteps: &[f32],
        encoder_hidden_states: &B::Tensor,
        conditions: &Conditions<B>,
    ) -> Result<()> {
        let [n, channels, ..] = backend.shape(sample);
        if channels != self.in_channels {
            return invalid(format!("sample has {channels} channels; the UNet takes {}", self.in_channels));
        }
        if timesteps.len() != n {
            return invalid(format!(
                "{} timesteps for a batch of {n}; accepted is one for each",
                timesteps.len()
            ));
        }
        let prompt = backend.shape(encoder_hidden_states);
        if [prompt[0], prompt[1], prompt[3]] != [n, 1, self.cross_attention_dim] {
            let expected = format!("({n}, 1, tokens, {})", self.cross_attention_dim);
            return invalid(format!("encoder_hidden_states is {prompt:?}; accepted is {expected}"));
        }
        if let Some(condition) = conditions.timestep_cond {
            let Some(features) = self.time_cond_proj_dim else {
                return invalid("timestep_cond is given to a UNet without time_cond_proj_dim".into());
            };
            let (actual, expected) = (backend.shape(condition), [n, 1, 1, features]);
            if actual != expected {
                return invalid(format!("timestep_cond is {actual:?}; accepted is {expected:?}"));
            }
        }
        Ok(())
    }
}

impl<B: Backend> AddEmbedding<B> {
    fn load(
        loader: &Loader<B>,
        config: &UNet2DConditionConfig,
        time_embed_dim: usize,
    ) -> Result<Option<Self>> {
        match config.addition_embed_type.as_deref() {
            None => return Ok(None),
            Some("text_time") => {}
            Some(other) => {
                return Err(layout::unsupported("addition_embed_type", &other, "text_time or null"));
            }
        }
        let required = |key: &str, value: Option<usize>| {
            value.ok_or_else(|| {
                layout::unsupported(key, &value, "a number, with addition_embed_type text_time")
            })
        };
        let add_time_proj = Timesteps {
            num_channels: required("addition_time_embed_dim", config.addition_time_embed_dim)?,
            flip_sin_to_cos: config.flip_sin_to_cos,
            downscale_freq_shift: config.freq_shift,
        };
        let key = "projection_class_embeddings_input_dim";
        let inputs = required(key, config.projection_class_embeddings_input_dim)?;
        let add_embedding =
            TimestepEmbedding::load(&loader.sub("add_embedding"), inputs, time_embed_dim, None)?;
        Ok(Some(Self { add_time_proj, add_embedding, inputs }))
    }

    fn forward(&self, backend: &B, batch: usize, conditions: &Conditions<B>) -> Result<B::Tensor> {
        let (Some(text_embeds), Some(time_ids)) = (conditions.text_embeds, conditions.time_ids) else {
            return invalid(
                "this UNet needs text_embeds and time_ids (addition_embed_type text_time)".into(),
            );
        };
        let [n, one, row, features] = backend.shape(text_embeds);
        let times = time_ids.len() / batch * self.add_time_proj.num_channels;
        if [n, one, row] != [batch, 1, 1] || features + times != self.inputs || time_ids.len() % batch != 0 {
            return invalid(format!(
                "text_embeds {:?} and {} time_ids for a batch of {batch}; accepted are ({batch}, 1, 1, features) and as \
                 many time_ids for each entry that features + {} * time_ids = {}",
                backend.shape(text_embeds),
                time_ids.len(),
                self.add_time_proj.num_channels,
                self.inputs
            ));
        }
        // Features are joined as channels of an image of one pixel.
        let pooled = backend.from_tokens(text_embeds, 1, 1)?;
        let sinusoids = backend.timestep_embedding(time_ids, batch, self.add_time_proj)?;
        let sinusoids = backend.from_tokens(&sinusoids, 1, 1)?;
        let joined = backend.to_tokens(&backend.concat(&[&pooled, &sinusoids])?)?;
        self.add_embedding.forward(backend, &joined, None)
    }
}

fn invalid<T>(message: String) -> Result<T> {
    Err(Error::Invalid(message))
}
