//! The embeddings of prompts.

use reverie_kernels::Backend;

use super::{
    chunks::Chunks,
    encodings::{self, Encodings},
    parse::Prompt,
};
use crate::{
    clip::{CLIPTextModel, TextLayer},
    error::{Error, Result},
    finite::are_finite,
    tokenizer::Tokenizer,
};

/// A text encoder with what cuts a text into its tokens. SDXL has two of them.
pub struct TextEncoder<'a, B: Backend> {
    /// Of the same pipeline as the model: paddings differ.
    pub tokenizer: &'a Tokenizer,
    /// The text encoder itself.
    pub model: &'a CLIPTextModel<B>,
}

/// A prompt, and by which layer it is encoded.
#[derive(Clone, Copy)]
pub struct PromptInput<'a> {
    /// A text for each encoder; those without one of their own take the first.
    pub texts: &'a [Prompt],
    /// Of the text encoders.
    pub layer: TextLayer,
}

/// What a UNet is conditioned on.
pub struct TextEmbedding<B: Backend> {
    /// (1, 1, T, C): T is 77 for each chunk of the prompt, C the sum of all encoders' `hidden_size`.
    pub hidden_states: B::Tensor,
    /// SDXL's pooled embedding, (1, 1, 1, projection_dim): the last encoder's, of the first chunk. None where it has no
    /// projection.
    pub pooled: Option<B::Tensor>,
}

impl<B: Backend> Clone for TextEmbedding<B> {
    fn clone(&self) -> Self {
        Self { hidden_states: self.hidden_states.clone(), pooled: self.pooled.clone() }
    }
}

/// Encodes prompts, each by a layer of the text encoders, all at the length of the longest, so that they can be a batch.
///
/// A prompt of one chunk and without weights comes out as from diffusers. Otherwise it is as in A1111's web UI: each chunk
/// is encoded by itself and they are joined along the tokens; a token's state is multiplied by its weight, and the chunk
/// is then scaled to have the mean that it had before, so that weights shift attention between words without making the
/// prompt as a whole stronger. The pooled embedding has no weights.
///
/// What `encodings` has, which must be of these encoders alone, is taken from there, and it is given the rest.
///
/// # Errors
/// [`crate::Error::Invalid`] where a layer has too large a `clip_skip`, or a weight is too large; [`crate::Error::NotFinite`];
/// [`crate::Error::Backend`].
pub fn encode_prompts<B: Backend>(
    backend: &B,
    encoders: &[TextEncoder<B>],
    prompts: &[PromptInput],
    encodings: &Encodings<B>,
) -> Result<Vec<TextEmbedding<B>>> {
    let mut tokens: Vec<Vec<Chunks>> = Vec::new();
    for (i, encoder) in encoders.iter().enumerate() {
        let text = |prompt: &PromptInput| {
            let text = prompt.texts.get(i).or(prompt.texts.first());
            text.map(|text| Chunks::new(encoder.tokenizer, text))
        };
        let prompts: Option<Vec<Chunks>> = prompts.iter().map(text).collect();
        tokens.push(prompts.ok_or_else(|| Error::Invalid("a prompt without a text".into()))?);
    }
    let longest = tokens.iter().flatten().map(|prompt| prompt.chunks.len()).max().unwrap_or(0);
    tokens.iter_mut().flatten().for_each(|prompt| prompt.pad_to(longest));

    (0..prompts.len())
        .map(|prompt| {
            let layer = prompts[prompt].layer;
            let key = encodings::key(layer, tokens.iter().map(|encoder| &encoder[prompt]));
            if let Some(embedding) = encodings.get(&key) {
                return Ok(embedding);
            }
            let states = encoders.iter().zip(&tokens);
            let states =
                states.map(|(encoder, tokens)| encode(backend, encoder.model, &tokens[prompt], layer));
            let embedding = join(backend, states.collect::<Result<_>>()?)?;
            encodings.put(backend, key, &embedding);
            Ok(embedding)
        })
        .collect()
}

/// One encoder's part of a prompt's embedding.
struct States<B: Backend> {
    /// T rows.
    values: Vec<f32>,
    width: usize,
    pooled: Option<B::Tensor>,
}

fn encode<B: Backend>(
    backend: &B,
    model: &CLIPTextModel<B>,
    prompt: &Chunks,
    layer: TextLayer,
) -> Result<States<B>> {
    let sequences: Vec<&[u32]> = prompt.chunks.iter().map(|chunk| &*chunk.tokens).collect();
    let lens: Vec<usize> = prompt.chunks.iter().map(|chunk| chunk.len).collect();
    let output = match model.masks_padding() {
        true => model.forward_masked(backend, &sequences, &lens)?,
        false => model.forward(backend, &sequences)?,
    };
    let states = model.select(backend, &output, layer)?;
    let [_, _, tokens, width] = backend.shape(&states);
    let mut values = backend.to_vec(&states)?;
    model.part.check(&values)?;
    for (states, chunk) in values.chunks_exact_mut(tokens * width).zip(&prompt.chunks) {
        emphasize(states, width, &chunk.weights);
    }
    if !are_finite(&values) {
        return Err(Error::Invalid("prompt: its weights are too large".into()));
    }
    let first = |embeds: &B::Tensor| -> Result<B::Tensor> {
        let first = backend.images(embeds, 0, 1)?;
        model.part.check_tensor(backend, &first)?;
        Ok(first)
    };
    Ok(States { values, width, pooled: output.text_embeds.as_ref().map(first).transpose()? })
}

/// Multiplies the rows of a chunk by their weights and restores its mean.
fn emphasize(states: &mut [f32], width: usize, weights: &[f32]) {
    if weights.iter().all(|&weight| weight == 1.0) {
        return;
    }
    let sum = |states: &[f32]| states.iter().map(|&x| f64::from(x)).sum::<f64>();
    let before = sum(states);
    for (row, weight) in states.chunks_exact_mut(width).zip(weights) {
        row.iter_mut().for_each(|x| *x *= weight);
    }
    let scale = (before / sum(states)) as f32;
    // A mean of zero can't be restored.
    if scale.is_finite() {
        states.iter_mut().for_each(|x| *x *= scale);
    }
}

/// Joins the encoders' states along the features.
fn join<B: Backend>(backend: &B, encoders: Vec<States<B>>) -> Result<TextEmbedding<B>> {
    let width: usize = encoders.iter().map(|states| states.width).sum();
    let tokens = encoders.first().map_or(0, |states| states.values.len() / states.width);
    let mut values = Vec::with_capacity(tokens * width);
    for token in 0..tokens {
        for states in &encoders {
            values.extend_from_slice(&states.values[token * states.width..][..states.width]);
        }
    }
    let hidden_states = backend.tensor(values, [1, 1, tokens, width])?;
    let pooled = encoders.into_iter().next_back().and_then(|states| states.pooled);
    Ok(TextEmbedding { hidden_states, pooled })
}
