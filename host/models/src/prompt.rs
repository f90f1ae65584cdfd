//! From a prompt to what a UNet is conditioned on: weights in brackets, chunks of tokens, embeddings.

mod chunks;
mod encode;
mod encodings;
mod parse;

pub use self::{
    chunks::{Chunk, Chunks},
    encode::{PromptInput, TextEmbedding, TextEncoder, encode_prompts},
    encodings::Encodings,
    parse::{Prompt, Span},
};
