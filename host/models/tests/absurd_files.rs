//! Files whose numbers are beyond all models: refused by file, key and what is accepted, before memory is asked for.

use std::{fs, path::Path};

use reverie_kernels::cpu::CpuBackend;
use reverie_models::{
    Adapters, Error, LayerCache, ModelFiles, Tokenizer, Weights,
    clip::{CLIPFiles, Preprocessor},
    pipeline::{Picture, Pipeline},
};
use serde_json::{Value, json};

mod fixtures;

const UNET: &str = "unet/config.json";
const VAE: &str = "vae/config.json";
const TEXT: &str = "text_encoder/config.json";

/// A file of JSON again, with one field changed.
fn set(path: &Path, key: &str, value: Value) {
    let mut fields: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    fields[key] = value;
    fs::write(path, fields.to_string()).unwrap();
}

fn load(folder: &Path) -> Result<Pipeline<CpuBackend>, Error> {
    let files = ModelFiles::open(folder)?;
    files.scheduler_config()?;
    Pipeline::load(&CpuBackend::new(1), &files, &LayerCache::default(), &Adapters::default())
}

fn refused<T>(result: Result<T, Error>, parts: &[&str]) {
    let message = result.err().expect("is refused").to_string();
    for part in parts {
        assert!(message.contains(part), "'{part}' is not in: {message}");
    }
}

#[test]
fn numbers_beyond_all_models_are_refused() {
    let huge = json!(1u64 << 40);
    let number = [json!(-1), json!("many"), json!(1.5), json!(1e300), json!({}), json!(null), huge.clone()];
    let list = [json!([320, "a"]), json!("many"), json!([huge]), json!([]), json!(vec![32; 17]), json!([0])];
    let real = [json!("small"), json!(1e300), json!(-1e300), json!([])];
    let cases: [(&str, &str, &[Value]); 20] = [
        (UNET, "layers_per_block", &number),
        (UNET, "attention_head_dim", &[&number[..], &[json!(0)]].concat()),
        (UNET, "cross_attention_dim", &[&number[..], &[json!(0)]].concat()),
        (UNET, "transformer_layers_per_block", &number),
        (UNET, "conv_in_kernel", &[&number[..], &[json!(0)]].concat()),
        (UNET, "norm_eps", &real),
        (UNET, "freq_shift", &real),
        (UNET, "block_out_channels", &list),
        (UNET, "time_embedding_dim", &number[..5]),
        (VAE, "layers_per_block", &number),
        (VAE, "latent_channels", &[&number[..], &[json!(0)]].concat()),
        (VAE, "norm_num_groups", &[&number[..], &[json!(0)]].concat()),
        (VAE, "block_out_channels", &list),
        (VAE, "scaling_factor", &[&real[..], &[json!(0)]].concat()),
        (VAE, "sample_size", &number),
        (TEXT, "num_hidden_layers", &number),
        (TEXT, "num_attention_heads", &[&number[..], &[json!(0), json!(5)]].concat()),
        (TEXT, "hidden_size", &[&number[..], &[json!(0)]].concat()),
        (TEXT, "vocab_size", &[&number[..], &[json!(0)]].concat()),
        (TEXT, "layer_norm_eps", &real),
    ];
    let folder = fixtures::copy("pipelines/sd");
    load(folder.path()).unwrap();
    for (file, key, values) in cases {
        let path = folder.path().join(file);
        let before = fs::read(&path).unwrap();
        for value in values {
            set(&path, key, value.clone());
            refused(load(folder.path()), &[file, &format!("'{key}'"), "accepted is"]);
        }
        fs::write(&path, before).unwrap();
    }
    load(folder.path()).unwrap();
}

#[test]
fn what_is_no_json_of_a_sensible_size_is_refused() {
    let folder = fixtures::copy("pipelines/sd");
    for file in ["model_index.json", UNET, VAE, TEXT, "scheduler/scheduler_config.json"] {
        let path = folder.path().join(file);
        let before = fs::read_to_string(&path).unwrap();
        for text in ["[".repeat(100_000), "{\"a\":".repeat(100_000), before.replacen('{', "{\"a\": NaN!,", 1)]
        {
            fs::write(&path, text).unwrap();
            refused(load(folder.path()), &[file]);
        }
        fs::write(&path, before.replacen('{', &format!("{{{}", " ".repeat(1 << 20)), 1)).unwrap();
        refused(load(folder.path()), &[file, "is larger than the 1048576 bytes"]);
        fs::write(&path, before).unwrap();
    }
    load(folder.path()).unwrap();
}

#[test]
fn vocabularies_have_an_end() {
    let folder = fixtures::copy("pipelines/sd");
    let tokenizer = folder.path().join("tokenizer");
    for file in ["merges.txt", "vocab.json", "tokenizer_config.json"] {
        let path = tokenizer.join(file);
        let before = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{before}{}", " ".repeat(32 << 20))).unwrap();
        refused(Tokenizer::open(&tokenizer), &[file, "is larger than"]);
        fs::write(&path, before).unwrap();
    }
    set(&tokenizer.join("tokenizer_config.json"), "model_max_length", json!(100_000));
    refused(load(folder.path()), &["model_max_length is 100000", "max_position_embeddings"]);
}

/// A file with this header and so many bytes of data.
fn header(path: &Path, len: u64, header: &str, data: u64) {
    let mut bytes = len.to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    fs::write(path, &bytes).unwrap();
    fs::File::options().write(true).open(path).unwrap().set_len(bytes.len() as u64 + data).unwrap();
}

#[test]
fn headers_beyond_all_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("absurd.safetensors");
    let tensor = |shape: &str, end: &str| {
        format!(r#"{{"a": {{"dtype": "F32", "shape": {shape}, "data_offsets": [0, {end}]}}}}"#)
    };
    let cases = [
        (u64::MAX, String::new()),
        (1 << 62, String::new()),
        (3 << 30, String::new()),
        (0, tensor("[4611686018427387904, 16]", "16")),
        (0, tensor("[1099511627776, 1099511627776, 0]", "0")),
        (0, tensor("[4, 4]", "18446744073709551615")),
        (0, tensor("[4, -4]", "16")),
        (0, tensor("[1e400]", "16")),
        (0, tensor("[4]", "32")),
        (0, "[".repeat(1 << 20)),
        (0, format!("{{\"__metadata__\": {}", "{\"a\":".repeat(1 << 16))),
    ];
    for (len, text) in cases {
        header(&path, if len == 0 { text.len() as u64 } else { len }, &text, 16);
        refused(Weights::open(&[&path]), &["absurd.safetensors", "is not a safetensors file"]);
    }
    // As long as it says, and nothing but zeros: a file with a hole takes no space.
    header(&path, 4 << 30, "", 5 << 30);
    refused(Weights::open(&[&path]), &["absurd.safetensors", "a header of 4294967296 bytes"]);
    // As long as its tensor says.
    let bytes = 17u64 << 30;
    let text = tensor(&format!("[{}, 65536]", bytes >> 18), &bytes.to_string());
    header(&path, text.len() as u64, &text, bytes);
    let weights = Weights::open(&[&path]).unwrap();
    refused(weights.values("a"), &["absurd.safetensors", "'a' is too large"]);
}

#[test]
fn a_picture_of_a_line_is_not_blown_up() {
    let preprocessor = Preprocessor::open(&fixtures::folder("clip_model")).unwrap();
    let line = Picture { width: 1, height: 1 << 24, rgb: vec![0; 3 << 24] };
    refused(preprocessor.values(&line), &["1x16777216", "too long and thin"]);
}

#[test]
fn a_dual_encoder_has_limits_too() {
    let folder = fixtures::copy("clip_model");
    let path = folder.path().join("config.json");
    let config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    CLIPFiles::open(folder.path()).unwrap();
    for (tower, key, value) in [
        ("text_config", "num_hidden_layers", json!(1u64 << 40)),
        ("text_config", "hidden_size", json!("wide")),
        ("vision_config", "image_size", json!(1 << 20)),
        ("vision_config", "patch_size", json!(0)),
        ("vision_config", "num_attention_heads", json!(0)),
    ] {
        let mut changed = config.clone();
        changed[tower][key] = value;
        fs::write(&path, changed.to_string()).unwrap();
        refused(CLIPFiles::open(folder.path()), &["config.json", tower, &format!("'{key}'"), "accepted is"]);
    }
}
