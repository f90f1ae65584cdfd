//! What prompts were encoded to: the same prompt again costs no encoding.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;
use reverie_kernels::Backend;

use super::{chunks::Chunks, encode::TextEmbedding};
use crate::clip::TextLayer;

/// Everything that an embedding of these text encoders depends on: the layer, and each encoder's tokens and the bits of their
/// weights, chunk by chunk. The encoders themselves are those of one pipeline, adapters included.
pub(super) type Key = Vec<u32>;

pub(super) fn key<'a>(layer: TextLayer, prompt: impl Iterator<Item = &'a Chunks>) -> Key {
    let (kind, clip_skip) = match layer {
        TextLayer::Normed { clip_skip } => (0, clip_skip),
        TextLayer::Penultimate { clip_skip } => (1, clip_skip),
    };
    let mut key = vec![kind, clip_skip as u32];
    for chunks in prompt {
        key.push(chunks.chunks.len() as u32);
        for chunk in &chunks.chunks {
            key.push(chunk.tokens.len() as u32);
            key.extend(&chunk.tokens);
            key.extend(chunk.weights.iter().map(|weight| weight.to_bits()));
        }
    }
    key
}

/// The embeddings that were last used, of so many bytes at most.
pub struct Encodings<B: Backend> {
    kept: Mutex<VecDeque<Kept<B>>>,
    limit: usize,
    encoded: AtomicU64,
}

struct Kept<B: Backend> {
    key: Key,
    embedding: TextEmbedding<B>,
    bytes: usize,
}

impl<B: Backend> Encodings<B> {
    /// At most `limit` bytes; 0 keeps none.
    pub fn new(limit: usize) -> Self {
        Self { kept: Mutex::default(), limit, encoded: AtomicU64::new(0) }
    }

    /// Bytes of the embeddings that are kept.
    pub fn bytes(&self) -> usize {
        self.kept.lock().iter().map(|kept| kept.bytes).sum()
    }

    /// How many prompts the text encoders have run for.
    pub fn encoded(&self) -> u64 {
        self.encoded.load(Ordering::Relaxed)
    }

    pub(super) fn get(&self, key: &Key) -> Option<TextEmbedding<B>> {
        let mut kept = self.kept.lock();
        let at = kept.iter().position(|kept| kept.key == *key)?;
        let found = kept.remove(at)?;
        let embedding = found.embedding.clone();
        kept.push_back(found);
        Some(embedding)
    }

    /// Keeps what the text encoders were run for.
    pub(super) fn put(&self, backend: &B, key: Key, embedding: &TextEmbedding<B>) {
        self.encoded.fetch_add(1, Ordering::Relaxed);
        let len = |x: &B::Tensor| backend.shape(x).iter().product::<usize>();
        let values = len(&embedding.hidden_states) + embedding.pooled.as_ref().map_or(0, len);
        // Of 4 bytes at most, as those of the key.
        let bytes = (values + key.len()) * 4;
        if bytes > self.limit {
            return;
        }
        let mut kept = self.kept.lock();
        kept.retain(|kept| kept.key != key);
        let mut sum = bytes + kept.iter().map(|kept| kept.bytes).sum::<usize>();
        while sum > self.limit
            && let Some(oldest) = kept.pop_front()
        {
            sum -= oldest.bytes;
        }
        kept.push_back(Kept { key, embedding: embedding.clone(), bytes });
    }
}
