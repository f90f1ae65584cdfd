//! CLIP's tokenizer: text to byte-pair tokens, as `transformers.CLIPTokenizer`.
//!
//! The text is composed (NFC), its white space is joined, and it is made lower-case; a pattern cuts it into words, whose
//! UTF-8 bytes are then merged pair by pair, the most frequent pair of the training text first (Sennrich et al. 2016,
//! "Neural Machine Translation of Rare Words with Subword Units"). The last byte of a word is another symbol than the same
//! byte within one: in the vocabulary it ends in `</w>`.

mod files;
mod merge;

use std::{cmp::Reverse, collections::HashMap, io::Read, path::Path, sync::LazyLock};

use flate2::read::GzDecoder;
use regex::Regex;
use unicode_normalization::UnicodeNormalization;

use self::merge::Merges;
use crate::error::{Error, Result};

/// What begins a text.
const BOS: &str = "<|startoftext|>";
/// What ends a text.
const EOS: &str = "<|endoftext|>";
/// The merges of `bpe_simple_vocab_16e6.txt`, one a line; see `assets/CLIP-LICENSE`.
const CLIP_MERGES: &[u8] = include_bytes!("../assets/clip_merges.txt.gz");

/// What a word is to CLIP.
static WORDS: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(&format!(r"<\|startoftext\|>|<\|endoftext\|>|{PARTS_PATTERN}")).expect("a constant pattern")
});
/// What a word is to the byte-level pass that transformers has after it. It cuts the two words in angle brackets, which
/// get here where they are written in capitals, into three.
static PARTS: LazyLock<Regex> = LazyLock::new(|| Regex::new(PARTS_PATTERN).expect("a constant pattern"));
const PARTS_PATTERN: &str = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+";
static SPACE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\s+").expect("a constant pattern"));

/// A vocabulary and how to cut text into it.
pub struct Tokenizer {
    merges: Merges,
    /// Looked for in the text as it is.
    raw: AddedTokens,
    /// Looked for in the text once it is normalised.
    normalized: AddedTokens,
    /// What begins every chunk of tokens.
    pub bos: u32,
    /// What ends every chunk of tokens.
    pub eos: u32,
    /// What fills a chunk up.
    pub pad: u32,
    /// How many tokens the text encoder takes, BOS and EOS included: 77.
    pub model_max_length: usize,
}

/// Tokens of the vocabulary that stand for themselves wherever a text has them.
struct AddedTokens {
    /// Any of them, the longer ones first.
    pattern: Regex,
    /// A textual inversion of several vectors has a token for each, of which the first stands for all: `<cat>`, `<cat>_1`.
    ids: HashMap<String, Vec<u32>>,
}

impl Tokenizer {
    /// Reads the `tokenizer` folder of a diffusers model: `vocab.json` and `merges.txt`, or `tokenizer.json`; the special
    /// tokens are those of `tokenizer_config.json` and `special_tokens_map.json`.
    ///
    /// # Errors
    /// [`Error::File`] where a file is missing or is not what it should be.
    pub fn open(folder: &Path) -> Result<Self> {
        files::open(folder)
    }

    /// The vocabulary of OpenAI's CLIP, which all Stable Diffusion models use; for checkpoints that carry none.
    /// `pad_token` is `<|endoftext|>` for SD 1.x and SDXL's first encoder, `!` for SD 2.x and SDXL's second.
    ///
    /// # Errors
    /// [`Error::Invalid`] where `pad_token` is not in the vocabulary.
    pub fn clip(pad_token: &str) -> Result<Self> {
        let mut text = String::new();
        GzDecoder::new(CLIP_MERGES).read_to_string(&mut text).expect("an embedded file");
        let merges = files::parse_merges(&text).expect("an embedded file");
        let bytes = byte_symbols();
        let words = bytes.iter().map(|&(_, symbol)| symbol.to_string());
        let ends = bytes.iter().map(|&(_, symbol)| format!("{symbol}</w>"));
        let merged = merges.iter().map(|(left, right)| format!("{left}{right}"));
        let special = [BOS, EOS].map(str::to_owned);
        let vocab: HashMap<String, u32> = words.chain(ends).chain(merged).chain(special).zip(0..).collect();
        let added = [BOS, EOS, pad_token].map(|content| (content.to_owned(), false));
        Self::new(&vocab, &merges, &added.into(), [BOS, EOS, EOS, pad_token], 77).map_err(Error::Invalid)
    }

    /// `added` says for each token whether it is `normalized`; `special` are BOS, EOS, the unknown token and the padding.
    fn new(
        vocab: &HashMap<String, u32>,
        merges: &[(String, String)],
        added: &HashMap<String, bool>,
        special: [&str; 4],
        model_max_length: usize,
    ) -> Result<Self, String> {
        let id = |token: &str| {
            vocab.get(token).copied().ok_or_else(|| format!("the vocabulary lacks the token '{token}'"))
        };
        let added_tokens = |normalized: bool| {
            let tokens = added.iter().filter(|&(content, &is)| is == normalized && !content.is_empty());
            let text = |content: &str| if normalized { normalize(content) } else { content.to_owned() };
            let ids = tokens
                .map(|(content, _)| Ok((text(content), id(content)?)))
                .collect::<Result<_, String>>()?;
            AddedTokens::new(ids)
        };
        let [bos, eos, unk, pad] = special;
        Ok(Self {
            merges: Merges::new(vocab, merges, id(unk)?)?,
            raw: added_tokens(false)?,
            normalized: added_tokens(true)?,
            bos: id(bos)?,
            eos: id(eos)?,
            pad: id(pad)?,
            model_max_length,
        })
    }

    /// The tokens of `text`, without BOS and EOS; of any length.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        self.raw.split(text, &mut ids, |text, ids| {
            self.normalized.split(&normalize(text), ids, |text, ids| {
                for word in WORDS.find_iter(text).flat_map(|word| PARTS.find_iter(word.as_str())) {
                    self.merges.encode(word.as_str(), ids);
                }
            });
        });
        ids
    }
}

impl AddedTokens {
    fn new(ids: HashMap<String, u32>) -> Result<Self, String> {
        let mut tokens: Vec<&String> = ids.keys().collect();
        tokens.sort_by_key(|token| Reverse(token.len()));
        let any = tokens.iter().map(|token| regex::escape(token)).collect::<Vec<_>>().join("|");
        // Where there are none, what matches nowhere.
        let pattern = if any.is_empty() { r"[^\s\S]" } else { &any };
        let pattern = Regex::new(pattern).map_err(|e| format!("too many added tokens: {e}"))?;
        let vectors = |token: &String| {
            let further = (1..).map_while(|i| ids.get(&format!("{token}_{i}")));
            ids.get(token).into_iter().chain(further).copied().collect()
        };
        let ids = ids.keys().map(|token| (token.clone(), vectors(token))).collect();
        Ok(Self { pattern, ids })
    }

    /// Appends the tokens that `text` has to `ids`, and calls `rest` for what lies between them.
    fn split(&self, text: &str, ids: &mut Vec<u32>, rest: impl Fn(&str, &mut Vec<u32>)) {
        let mut end = 0;
        for found in self.pattern.find_iter(text) {
            rest(&text[end..found.start()], ids);
            ids.extend(self.ids.get(found.as_str()).into_iter().flatten());
            end = found.end();
        }
        rest(&text[end..], ids);
    }
}

/// Composed, with single spaces, in lower case. Letter by letter, so that a final sigma is like any other.
fn normalize(text: &str) -> String {
    let composed: String = text.nfc().collect();
    SPACE.replace_all(&composed, " ").chars().flat_map(char::to_lowercase).collect()
}

/// The visible character that stands for each byte in a vocabulary, in the order in which CLIP numbers them: bytes that
/// are visible in Latin-1 stand for themselves, the others are numbered from U+0100 on.
fn byte_symbols() -> Vec<(u8, char)> {
    let visible = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let itself = (0..=255u8).filter(visible).map(|byte| (byte, char::from(byte)));
    let hidden = (0..=255u8).filter(|byte| !visible(byte)).zip('\u{100}'..);
    itself.chain(hidden).collect()
}
