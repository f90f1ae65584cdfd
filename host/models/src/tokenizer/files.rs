//! The files of a `tokenizer` folder.

use std::{collections::HashMap, path::Path};

use serde::{Deserialize, de::DeserializeOwned};

use super::{BOS, EOS, Tokenizer};
use crate::{
    error::{Error, Result},
    json,
};

/// `tokenizer_config.json` and `special_tokens_map.json`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Config {
    bos_token: Option<Token>,
    eos_token: Option<Token>,
    unk_token: Option<Token>,
    pad_token: Option<Token>,
    /// By id.
    added_tokens_decoder: HashMap<String, TokenFields>,
    model_max_length: Option<f64>,
}

/// A token by its text, or with how it is looked for.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Token {
    Text(String),
    Fields(TokenFields),
}

#[derive(Clone, Deserialize)]
struct TokenFields {
    content: String,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    id: Option<u32>,
}

/// `tokenizer.json`, as far as it is needed.
#[derive(Deserialize)]
struct TokenizerJson {
    model: BpeModel,
    #[serde(default)]
    added_tokens: Vec<TokenFields>,
}

#[derive(Deserialize)]
struct BpeModel {
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
}

/// Newer files have a list, older ones a text with a space.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Text(String),
}

pub(super) fn open(folder: &Path) -> Result<Tokenizer> {
    let config: Config = optional(&folder.join("tokenizer_config.json"))?;
    let map: Config = optional(&folder.join("special_tokens_map.json"))?;
    let (mut vocab, merges, mut added) = vocabulary(folder)?;

    for (id, token) in config.added_tokens_decoder {
        let file = folder.join("tokenizer_config.json");
        let number =
            id.parse().map_err(|_| failed(&file, format!("added_tokens_decoder: '{id}' is not a number")))?;
        vocab.entry(token.content.clone()).or_insert(number);
        added.insert(token.content, token.normalized);
    }
    // Textual inversions of older files.
    let further: HashMap<String, u32> = optional(&folder.join("added_tokens.json"))?;
    for (content, id) in further {
        vocab.entry(content.clone()).or_insert(id);
        added.entry(content).or_insert(false);
    }
    let mut plain = HashMap::new();
    let mut special = |configured: Option<Token>, mapped: Option<Token>, default: &str| {
        // As in transformers: SD 2.x names its padding in the map alone, and something else in the configuration.
        let token = mapped.or(configured).unwrap_or_else(|| Token::Text(default.to_owned()));
        let (content, normalized) = match token {
            Token::Text(content) => (content, false),
            Token::Fields(fields) => (fields.content, fields.normalized),
        };
        // One that is given twice, as EOS and as padding, is normalised only if both are.
        *plain.entry(content.clone()).or_insert(true) &= normalized;
        content
    };
    let bos = special(config.bos_token, map.bos_token, BOS);
    let eos = special(config.eos_token, map.eos_token, EOS);
    let unk = special(config.unk_token, map.unk_token, EOS);
    let pad = special(config.pad_token, map.pad_token, EOS);

    for (content, normalized) in plain {
        added.entry(content).or_insert(normalized);
    }

    // Files that give no length have 1e30.
    let length = config.model_max_length.filter(|&length| (3.0..1e6).contains(&length)).unwrap_or(77.0);
    Tokenizer::new(&vocab, &merges, &added, [&bos, &eos, &unk, &pad], length as usize)
        .map_err(|reason| failed(folder, reason))
}

type Vocabulary = (HashMap<String, u32>, Vec<(String, String)>, HashMap<String, bool>);

fn vocabulary(folder: &Path) -> Result<Vocabulary> {
    let (vocab, merges) = (folder.join("vocab.json"), folder.join("merges.txt"));
    if vocab.exists() || merges.exists() {
        let text = json::text(&merges, json::VOCABULARY)?;
        let pairs = parse_merges(&text).map_err(|reason| failed(&merges, reason))?;
        return Ok((json::read(&vocab, json::VOCABULARY)?, pairs, HashMap::new()));
    }
    let path = folder.join("tokenizer.json");
    if !path.exists() {
        return Err(failed(folder, "has neither vocab.json and merges.txt nor tokenizer.json".to_owned()));
    }
    let TokenizerJson { model: BpeModel { mut vocab, merges }, added_tokens } =
        json::read(&path, json::VOCABULARY)?;
    let pair = |merge| match merge {
        Merge::Pair(left, right) => Ok((left, right)),
        Merge::Text(text) => parse_merge(&text),
    };
    let merges =
        merges.into_iter().map(pair).collect::<Result<_, _>>().map_err(|reason| failed(&path, reason))?;
    for token in &added_tokens {
        if let Some(id) = token.id {
            vocab.entry(token.content.clone()).or_insert(id);
        }
    }
    let added = added_tokens.into_iter().map(|token| (token.content, token.normalized));
    Ok((vocab, merges, added.collect()))
}

/// The lines of a `merges.txt`.
pub(super) fn parse_merges(text: &str) -> Result<Vec<(String, String)>, String> {
    text.lines().filter(|line| !line.starts_with("#version") && !line.is_empty()).map(parse_merge).collect()
}

fn parse_merge(text: &str) -> Result<(String, String), String> {
    match text.split(' ').collect::<Vec<_>>()[..] {
        [left, right] => Ok((left.to_owned(), right.to_owned())),
        _ => Err(format!("'{text}' is not a merge: expected are two tokens and a space between them")),
    }
}

fn optional<T: Default + DeserializeOwned>(path: &Path) -> Result<T> {
    if path.exists() { json::read(path, json::VOCABULARY) } else { Ok(T::default()) }
}

fn failed(path: &Path, reason: String) -> Error {
    Error::File { file: path.display().to_string(), reason }
}
