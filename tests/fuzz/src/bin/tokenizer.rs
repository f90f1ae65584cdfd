//! The files of a tokenizer, and a text for what they describe: `vocab.json`, `merges.txt`, `tokenizer.json`,
//! `tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json`, the text. A file whose part is empty is left out.
#![no_main]

use libfuzzer_sys::fuzz_target;
use reverie_fuzz::{folder, parts, write};
use reverie_models::{
    Tokenizer,
    prompt::{Chunks, Prompt},
};

const FILES: [&str; 6] = [
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
];

fuzz_target!(|input: &[u8]| {
    let [files @ .., text] = parts::<7>(input);
    let folder = folder();
    for (name, content) in FILES.into_iter().zip(files).filter(|(_, content)| !content.is_empty()) {
        write(&folder.path().join(name), content);
    }
    let Ok(tokenizer) = Tokenizer::open(folder.path()) else { return };
    let text = String::from_utf8_lossy(text);
    tokenizer.encode(&text);
    for chunk in Chunks::new(&tokenizer, &Prompt::plain(&text)).chunks {
        assert_eq!(chunk.tokens.len(), tokenizer.model_max_length);
    }
});
