//! CLIP's text encoder (Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision"):
//! `transformers.CLIPTextModel`, and `CLIPTextModelWithProjection` where the checkpoint has a projection.

mod encoder;
mod model;
mod preprocess;
mod vision;

use std::sync::Arc;

use reverie_kernels::{Backend, Mask};

use crate::{
    config::CLIPTextConfig,
    error::{Error, Result},
    finite::Part,
    loader::Loader,
};
use encoder::{CLIPEncoderLayer, LayerNorm, Shape};
pub use model::{CLIPFiles, CLIPModel};
pub use preprocess::Preprocessor;
pub use vision::CLIPVisionModel;

/// A text encoder. The tensors' names begin with `text_model`, but for `text_projection.weight`.
pub struct CLIPTextModel<B: Backend> {
    config: CLIPTextConfig,
    token_embedding: Arc<B::Embedding>,
    /// (1, 1, max_position_embeddings, hidden_size).
    position_embedding: B::Tensor,
    layers: Vec<CLIPEncoderLayer<B>>,
    final_layer_norm: LayerNorm<B>,
    text_projection: Option<Arc<B::Linear>>,
    pub(crate) part: Part,
}

/// What the text encoder makes of a batch of N sequences of T tokens; C is `hidden_size`.
pub struct CLIPTextOutput<B: Backend> {
    /// The embedded tokens, then the output of each layer: (N, 1, T, C) each.
    pub hidden_states: Vec<B::Tensor>,
    /// The last of them after the final normalisation: (N, 1, T, C).
    pub last_hidden_state: B::Tensor,
    /// `last_hidden_state` at the end of each text: (N, 1, 1, C).
    pub pooler_output: B::Tensor,
    /// The same after the projection, where there is one: (N, 1, 1, projection_dim).
    pub text_embeds: Option<B::Tensor>,
}

/// Which of a text encoder's states a UNet is conditioned on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextLayer {
    /// Stable Diffusion 1.x and 2.x: the state `clip_skip` layers before the last, after the final normalisation.
    Normed {
        /// As diffusers counts: 0 is the last layer. (Where 1 is the last, as in A1111, it is one more.)
        clip_skip: usize,
    },
    /// SDXL: the state `clip_skip` layers before the penultimate, as it is.
    Penultimate {
        /// As diffusers counts: 0 is the penultimate layer.
        clip_skip: usize,
    },
}

impl<B: Backend> CLIPTextModel<B> {
    /// Prepares all layers.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a configuration that is not accepted; [`Error::Missing`], [`Error::Shape`] and
    /// [`Error::Dtype`] for a checkpoint that does not fit it.
    pub fn load(loader: &Loader<B>, config: &CLIPTextConfig) -> Result<Self> {
        let CLIPTextConfig { hidden_size, projection_dim, max_position_embeddings, .. } = *config;
        let shape = Shape {
            hidden_size,
            intermediate_size: config.intermediate_size,
            num_attention_heads: config.num_attention_heads,
            layer_norm_eps: config.layer_norm_eps,
            activation: encoder::activation("text encoder", &config.hidden_act)?,
            mask: Mask::Causal,
        };
        let model = loader.sub("text_model");
        let tokens = "embeddings.token_embedding.weight";
        let token_embedding = model.embedding(tokens, config.vocab_size, hidden_size)?;
        let positions = "embeddings.position_embedding.weight";
        let positions = model.weights.tensor(positions, &[max_position_embeddings, hidden_size])?;
        let position_embedding =
            loader.backend.tensor(positions, [1, 1, max_position_embeddings, hidden_size])?;
        let layer = |i: usize| CLIPEncoderLayer::load(&model.sub(&format!("encoder.layers.{i}")), &shape);
        let projection = || loader.linear("text_projection", hidden_size, projection_dim);
        Ok(Self {
            token_embedding,
            position_embedding,
            layers: (0..config.num_hidden_layers).map(layer).collect::<Result<_>>()?,
            final_layer_norm: LayerNorm::load(&model, "final_layer_norm", &shape)?,
            text_projection: loader.has("text_projection.weight").then(projection).transpose()?,
            part: Part::new("the text encoder", &loader.weights),
            config: config.clone(),
        })
    }

    /// The configuration that it was loaded with.
    pub fn config(&self) -> &CLIPTextConfig {
        &self.config
    }

    /// Runs the model over sequences of equal length, each at most `max_position_embeddings` tokens.
    ///
    /// # Errors
    /// [`Error::Invalid`] where there is no sequence, the lengths do not fit, or a token is not in the vocabulary;
    /// [`Error::Backend`].
    pub fn forward(&self, backend: &B, sequences: &[&[u32]]) -> Result<CLIPTextOutput<B>> {
        self.run(backend, sequences, None)
    }

    /// [`CLIPTextModel::forward`] where no token sees the padding: what lies behind the first `lens` tokens of each sequence,
    /// at least one.
    ///
    /// # Errors
    /// Those of [`CLIPTextModel::forward`].
    pub fn forward_masked(
        &self,
        backend: &B,
        sequences: &[&[u32]],
        lens: &[usize],
    ) -> Result<CLIPTextOutput<B>> {
        self.run(backend, sequences, Some(lens))
    }

    /// Whether its configuration asks for [`CLIPTextModel::forward_masked`].
    pub fn masks_padding(&self) -> bool {
        self.config.use_attention_mask
    }

    fn run(&self, backend: &B, sequences: &[&[u32]], lens: Option<&[usize]>) -> Result<CLIPTextOutput<B>> {
        let mut x = self.embed(backend, sequences)?;
        let mut hidden_states = vec![x.clone()];
        for layer in &self.layers {
            x = layer.forward(backend, &x, lens)?;
            hidden_states.push(x.clone());
        }
        let last_hidden_state = self.final_layer_norm.forward(backend, &x)?;
        let pooler_output = self.pool(backend, &last_hidden_state, sequences)?;
        let project = |projection: &Arc<B::Linear>| backend.linear(&pooler_output, projection);
        let text_embeds = self.text_projection.as_ref().map(project).transpose()?;
        Ok(CLIPTextOutput { hidden_states, last_hidden_state, pooler_output, text_embeds })
    }

    /// The state that `layer` names: (N, 1, T, C).
    ///
    /// # Errors
    /// [`Error::Invalid`] where `clip_skip` exceeds the number of layers.
    pub fn select(&self, backend: &B, output: &CLIPTextOutput<B>, layer: TextLayer) -> Result<B::Tensor> {
        let (first, clip_skip) = match layer {
            TextLayer::Normed { clip_skip: 0 } => return Ok(output.last_hidden_state.clone()),
            TextLayer::Normed { clip_skip } => (self.config.num_hidden_layers, clip_skip),
            TextLayer::Penultimate { clip_skip } => {
                (self.config.num_hidden_layers.saturating_sub(1), clip_skip)
            }
        };
        let Some(index) = first.checked_sub(clip_skip) else {
            return Err(Error::Invalid(format!("clip_skip is {clip_skip}; accepted are 0 to {first}")));
        };
        match layer {
            TextLayer::Normed { .. } => self.final_layer_norm.forward(backend, &output.hidden_states[index]),
            TextLayer::Penultimate { .. } => Ok(output.hidden_states[index].clone()),
        }
    }

    /// Each token's embedding plus that of its position: (N, 1, T, C).
    fn embed(&self, backend: &B, sequences: &[&[u32]]) -> Result<B::Tensor> {
        let CLIPTextConfig { max_position_embeddings, vocab_size, .. } = self.config;
        let tokens = sequences.first().map_or(0, |sequence| sequence.len());
        if tokens == 0 || tokens > max_position_embeddings || sequences.iter().any(|s| s.len() != tokens) {
            return Err(Error::Invalid(format!(
                "the text encoder takes sequences of equal length, 1 to {max_position_embeddings} tokens"
            )));
        }
        let unknown = sequences.iter().copied().flatten().find(|&&token| token as usize >= vocab_size);
        if let Some(token) = unknown {
            return Err(Error::Invalid(format!(
                "token {token} is not in the text encoder's vocabulary of {vocab_size}"
            )));
        }
        Ok(backend.embedding(sequences, &self.token_embedding, &self.position_embedding)?)
    }

    /// The state at the first end-of-text token of each sequence; where there is none at the first token, as transformers.
    fn pool(&self, backend: &B, states: &B::Tensor, sequences: &[&[u32]]) -> Result<B::Tensor> {
        let eos = self.config.eos_token_id;
        let width = self.config.hidden_size;
        let values = backend.to_vec(states)?;
        let mut pooled = Vec::with_capacity(sequences.len() * width);
        for (sequence, states) in sequences.iter().zip(values.chunks_exact(values.len() / sequences.len())) {
            // The id in files from before transformers 4.30 is wrong; the last token of the vocabulary is meant.
            let eos = if eos == 2 { sequence.iter().copied().max() } else { Some(eos) };
            let at = sequence.iter().position(|&token| Some(token) == eos).unwrap_or(0);
            pooled.extend_from_slice(&states[at * width..][..width]);
        }
        Ok(backend.tensor(pooled, [sequences.len(), 1, 1, width])?)
    }
}
