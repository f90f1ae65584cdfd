//! The tokenizer against transformers' `CLIPTokenizer`.

use std::{collections::HashMap, fs, path::Path};

use reverie_models::Tokenizer;
use serde::Deserialize;

#[derive(Deserialize)]
struct Goldens {
    texts: Vec<String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    /// The JSON files of the tokenizer folder, by name.
    files: HashMap<String, serde_json::Value>,
    pad: u32,
    /// Of each text.
    ids: Vec<Vec<u32>>,
}

fn goldens() -> Goldens {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/diffusion/prompt/tokens.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn check(tokenizer: &Tokenizer, texts: &[String], case: &Case) {
    assert_eq!(tokenizer.pad, case.pad, "{}: pad", case.name);
    assert_eq!((tokenizer.bos, tokenizer.eos), (49406, 49407), "{}", case.name);
    for (text, ids) in texts.iter().zip(&case.ids) {
        assert_eq!(&tokenizer.encode(text), ids, "{}: {text:?}", case.name);
    }
}

/// A folder with the vocabulary of CLIP, built as the oracle builds it.
fn write_vocabulary(folder: &Path) -> (HashMap<String, u32>, Vec<String>) {
    let asset = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/clip_merges.txt.gz");
    let merges =
        std::io::read_to_string(flate2::read::GzDecoder::new(fs::File::open(asset).unwrap())).unwrap();
    let visible: Vec<u32> = (0x21..0x7f).chain(0xa1..0xad).chain(0xae..0x100).collect();
    let symbols = visible.iter().copied().chain(0x100..0x100 + 256 - visible.len() as u32);
    let symbols: Vec<String> = symbols.map(|code| char::from_u32(code).unwrap().to_string()).collect();
    let ends = symbols.iter().map(|symbol| format!("{symbol}</w>"));
    let merged = merges.lines().map(|line| line.replace(' ', ""));
    let special = ["<|startoftext|>", "<|endoftext|>"].map(str::to_owned);
    let vocab: HashMap<String, u32> =
        symbols.iter().cloned().chain(ends).chain(merged).chain(special).zip(0..).collect();
    fs::write(folder.join("vocab.json"), serde_json::to_string(&vocab).unwrap()).unwrap();
    fs::write(folder.join("merges.txt"), format!("#version: 0.2\n{merges}")).unwrap();
    (vocab, merges.lines().map(str::to_owned).collect())
}

#[test]
fn folders_give_transformers_ids() {
    let goldens = goldens();
    for case in &goldens.cases {
        let folder = tempfile::tempdir().unwrap();
        write_vocabulary(folder.path());
        for (name, content) in &case.files {
            fs::write(folder.path().join(name), content.to_string()).unwrap();
        }
        check(&Tokenizer::open(folder.path()).unwrap(), &goldens.texts, case);
    }
}

#[test]
fn tokenizer_json_serves_as_well() {
    let goldens = goldens();
    let folder = tempfile::tempdir().unwrap();
    let (vocab, merges) = write_vocabulary(folder.path());
    fs::remove_file(folder.path().join("vocab.json")).unwrap();
    fs::remove_file(folder.path().join("merges.txt")).unwrap();
    let pairs: Vec<Vec<&str>> = merges.iter().map(|merge| merge.split(' ').collect()).collect();
    for merges in [serde_json::json!(merges), serde_json::json!(pairs)] {
        let json = serde_json::json!({ "added_tokens": [], "model": { "vocab": vocab, "merges": merges } });
        fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
        let case = goldens.cases.iter().find(|case| case.name == "none").unwrap();
        check(&Tokenizer::open(folder.path()).unwrap(), &goldens.texts, case);
    }
}

#[test]
fn the_embedded_vocabulary_is_clips() {
    let goldens = goldens();
    for (name, pad) in [("none", "<|endoftext|>"), ("plain", "!")] {
        let case = goldens.cases.iter().find(|case| case.name == name).unwrap();
        check(&Tokenizer::clip(pad).unwrap(), &goldens.texts, case);
    }
    assert!(Tokenizer::clip("no such token").is_err());
}

#[test]
fn a_very_long_word_does_not_take_forever() {
    let ids = Tokenizer::clip("!").unwrap().encode(&"x".repeat(100_000));
    assert!(ids.len() > 100);
}

#[test]
fn broken_folders_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let message = |folder: &Path| Tokenizer::open(folder).err().unwrap().to_string();
    assert!(message(folder.path()).contains("neither vocab.json and merges.txt nor tokenizer.json"));
    fs::write(folder.path().join("vocab.json"), r#"{"a": 0}"#).unwrap();
    assert!(message(folder.path()).contains("merges.txt"));
    fs::write(folder.path().join("merges.txt"), "a b c\n").unwrap();
    assert!(message(folder.path()).contains("'a b c' is not a merge"));
    fs::write(folder.path().join("merges.txt"), "").unwrap();
    assert!(message(folder.path()).contains("lacks the token '<|"));
    fs::write(folder.path().join("vocab.json"), "[]").unwrap();
    assert!(message(folder.path()).contains("vocab.json"));
}

#[test]
fn the_map_of_special_tokens_wins_and_old_added_tokens_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let files = [
        (
            "vocab.json",
            r#"{"!": 0, "!</w>": 1, "a": 2, "a</w>": 3, "<|startoftext|>": 4, "<|endoftext|>": 5}"#,
        ),
        ("merges.txt", "#version: 0.2\n"),
        // As SD 2.x has them.
        ("tokenizer_config.json", r#"{"pad_token": "<|endoftext|>", "model_max_length": 77}"#),
        ("special_tokens_map.json", r#"{"pad_token": "!"}"#),
        ("added_tokens.json", r#"{"<style>": 6}"#),
    ];
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    let tokenizer = Tokenizer::open(folder.path()).unwrap();
    assert_eq!((tokenizer.bos, tokenizer.eos, tokenizer.pad), (4, 5, 0));
    assert_eq!(tokenizer.encode("a <style> a"), [3, 6, 3]);
}

/// A token of `make_inversion_goldens.py` stands for all vectors of its inversion.
#[test]
fn inversions_of_several_vectors_are_whole() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/diffusion");
    let text = fs::read_to_string(fixtures.join("prompt/inversions.json")).unwrap();
    let goldens: serde_json::Value = serde_json::from_str(&text).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixtures.join("pipelines/sd/tokenizer")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    fs::write(folder.path().join("added_tokens.json"), goldens["added_tokens"].to_string()).unwrap();
    let tokenizer = Tokenizer::open(folder.path()).unwrap();
    for case in goldens["cases"].as_array().unwrap() {
        let expected: Vec<u32> = serde_json::from_value(case["tokens"].clone()).unwrap();
        assert_eq!(tokenizer.encode(case["prompt"].as_str().unwrap()), expected, "{case}");
    }
}
