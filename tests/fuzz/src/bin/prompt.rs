//! Prompts: weights in brackets, BREAK, and words in CLIP's vocabulary.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use reverie_models::{
    Tokenizer,
    prompt::{Chunks, Prompt},
};

static CLIP: LazyLock<Tokenizer> = LazyLock::new(|| Tokenizer::clip("!").expect("its own vocabulary"));

fuzz_target!(|text: &str| {
    let Ok(prompt) = Prompt::parse(text) else { return };
    assert!(!prompt.parts.is_empty());
    for span in prompt.parts.iter().inspect(|part| assert!(!part.is_empty())).flatten() {
        assert!(span.weight.is_finite());
    }
    let chunks = Chunks::new(&CLIP, &prompt);
    assert!(chunks.chunks.len() >= prompt.parts.len());
    for chunk in &chunks.chunks {
        assert_eq!((chunk.tokens.len(), chunk.weights.len()), (77, 77));
        assert!((2..=77).contains(&chunk.len) && chunk.tokens.iter().all(|&token| token < 49408));
    }
});
