//! A prompt's tokens in chunks that a text encoder takes.

use super::parse::Prompt;
use crate::tokenizer::Tokenizer;

/// As many tokens as a text encoder takes: BOS, the text, EOS, padding.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk {
    /// `model_max_length` of them.
    pub tokens: Vec<u32>,
    /// One for each token; 1 for BOS, EOS and padding.
    pub weights: Vec<f32>,
    /// How many tokens come before the padding.
    pub len: usize,
}

/// A prompt in chunks. A text of at most 75 tokens is one chunk; a longer one is cut after every 75th token, wherever that
/// is, and begins a new chunk at each BREAK.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunks {
    /// At least one.
    pub chunks: Vec<Chunk>,
    empty: Chunk,
}

impl Chunks {
    /// The tokens of `prompt`. Each piece of one weight is cut into words by itself.
    pub fn new(tokenizer: &Tokenizer, prompt: &Prompt) -> Self {
        let room = tokenizer.model_max_length - 2;
        let mut chunks = Vec::new();
        for part in &prompt.parts {
            let weighted = part
                .iter()
                .flat_map(|span| tokenizer.encode(&span.text).into_iter().map(|token| (token, span.weight)));
            let weighted: Vec<(u32, f32)> = weighted.collect();
            if weighted.is_empty() {
                chunks.push(Chunk::new(tokenizer, &[]));
            }
            chunks.extend(weighted.chunks(room).map(|tokens| Chunk::new(tokenizer, tokens)));
        }
        Self { chunks, empty: Chunk::new(tokenizer, &[]) }
    }

    /// Appends empty chunks: the positive and the negative prompt must be equally long.
    pub fn pad_to(&mut self, chunks: usize) {
        let chunks = chunks.max(self.chunks.len());
        self.chunks.resize(chunks, self.empty.clone());
    }
}

impl Chunk {
    fn new(tokenizer: &Tokenizer, text: &[(u32, f32)]) -> Self {
        let Tokenizer { bos, eos, pad, model_max_length, .. } = *tokenizer;
        let marked = [(bos, 1.0)].into_iter().chain(text.iter().copied()).chain([(eos, 1.0)]);
        let padded = marked.chain(std::iter::repeat((pad, 1.0))).take(model_max_length);
        let (tokens, weights) = padded.unzip();
        Self { tokens, weights, len: text.len() + 2 }
    }
}
