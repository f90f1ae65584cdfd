//! A pipeline's text encoders, one or two of them.

use reverie_kernels::Backend;

use crate::{
    clip::{CLIPTextModel, TextLayer},
    denoise::Conditioning,
    error::{Error, Result},
    prompt::{Encodings, Prompt, PromptInput, TextEncoder, encode_prompts},
    tokenizer::Tokenizer,
};

/// Each with the tokenizer that goes with it.
pub(super) struct TextEncoders<B: Backend> {
    pub(super) encoders: Vec<(Tokenizer, CLIPTextModel<B>)>,
    /// SDXL: the states before the last layer count, and the pooled embedding beside them.
    pub(super) sdxl: bool,
    pub(super) encodings: Encodings<B>,
}

/// Bytes of the embeddings that a pipeline keeps: of 50 prompts of SDXL, or 140 of Stable Diffusion 1.
pub(super) const KEPT_ENCODINGS: usize = 32 << 20;

impl<B: Backend> TextEncoders<B> {
    /// The conditioning of a prompt and of what stands against it, of equal length; the second text of each is for the second
    /// encoder. `clip_skip` is 1 for the last layer.
    pub(super) fn encode(
        &self,
        backend: &B,
        prompt: [&str; 2],
        negative: Option<[&str; 2]>,
        clip_skip: Option<usize>,
    ) -> Result<(Conditioning<B>, Option<Conditioning<B>>)> {
        let parse = |name: &str, texts: [&str; 2]| -> Result<Vec<Prompt>> {
            let parsed = texts.iter().map(|text| Prompt::parse(text));
            parsed.collect::<Result<_>>().map_err(|e| Error::Invalid(format!("{name}: {e}")))
        };
        let prompt = parse("prompt", prompt)?;
        let negative = negative.map(|texts| parse("negative_prompt", texts)).transpose()?;
        let layer = |skipped: usize| match self.sdxl {
            false => TextLayer::Normed { clip_skip: skipped },
            true => TextLayer::Penultimate { clip_skip: skipped },
        };
        // SDXL's own way is the layer before the last; from there on it is counted as with the others, as by diffusers.
        let skipped = clip_skip.unwrap_or(1).checked_sub(1).ok_or_else(|| {
            Error::Invalid("clip_skip: 0 is not accepted; 1 is the layer that the model takes".into())
        })?;
        let encoders: Vec<TextEncoder<B>> =
            self.encoders.iter().map(|(tokenizer, model)| TextEncoder { tokenizer, model }).collect();
        // As in diffusers, layers are left out for the prompt alone.
        let mut prompts = vec![PromptInput { texts: &prompt, layer: layer(skipped) }];
        prompts.extend(negative.iter().map(|texts| PromptInput { texts, layer: layer(0) }));
        let mut encoded = Vec::new();
        for embedding in encode_prompts(backend, &encoders, &prompts, &self.encodings)? {
            let [_, _, tokens, _] = backend.shape(&embedding.hidden_states);
            encoded.push(Conditioning {
                hidden_states: embedding.hidden_states,
                tokens,
                pooled: embedding.pooled.filter(|_| self.sdxl),
            });
        }
        let mut encoded = encoded.into_iter();
        let positive = encoded.next().ok_or_else(|| Error::Invalid("prompt: nothing to encode".into()))?;
        Ok((positive, encoded.next()))
    }
}
