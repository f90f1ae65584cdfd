//! The dual encoder against transformers, for a tiny random model as it saves it.

use std::path::{Path, PathBuf};

use reverie_kernels::cpu::CpuBackend;
use reverie_models::{
    Error, Weights,
    clip::{CLIPModel, Preprocessor},
    pipeline::Picture,
};

/// Sums in another order than PyTorch's; the values are of vectors of length 1.
const LIMIT: f32 = 1e-5;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/diffusion/clip_model")
}

fn values() -> Weights {
    Weights::open(&[folder().join("values.safetensors")]).unwrap()
}

fn picture(values: &Weights, i: usize) -> Picture {
    let name = format!("picture.{i}");
    let shape = values.shape(&name).unwrap();
    let (height, width) = (shape[0], shape[1]);
    let rgb = values.values(&name).unwrap().into_iter().map(|x| x as u8).collect();
    Picture { width, height, rgb }
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn pictures_are_prepared_as_pillow_does() {
    let (values, preprocessor) = (values(), Preprocessor::open(&folder()).unwrap());
    for i in 0..3 {
        let made = preprocessor.values(&picture(&values, i)).unwrap();
        let expected = values.values(&format!("pixel_values.{i}")).unwrap();
        // A byte is 0.0146 apart from the next: all are the same.
        assert!(distance(&made, &expected) < 1e-5, "picture {i}: {}", distance(&made, &expected));
    }
    assert!(preprocessor.values(&Picture { width: 0, height: 0, rgb: Vec::new() }).is_err());
}

#[test]
fn both_towers_match_transformers() {
    let (values, backend) = (values(), CpuBackend::new(2));
    let model = CLIPModel::open(&backend, &folder()).unwrap();
    for i in 0..3 {
        let made = model.embed_picture(&backend, &picture(&values, i)).unwrap();
        let off = distance(&made, &values.values(&format!("image_embeds.{i}")).unwrap());
        println!("picture {i}: {off:e}");
        assert!(off < LIMIT, "picture {i}: {off}");
    }
    let texts = std::fs::read_to_string(folder().join("texts.json")).unwrap();
    let texts: Vec<String> = serde_json::from_str(&texts).unwrap();
    for (i, text) in texts.iter().enumerate() {
        let made = model.embed_text(&backend, text).unwrap();
        let off = distance(&made, &values.values(&format!("text_embeds.{i}")).unwrap());
        println!("text {i}: {off:e}");
        assert!(off < LIMIT, "text {i}: {off}");
    }
    assert!((model.logit_scale() - values.values("logit_scale").unwrap()[0]).abs() < 1e-4);
}

#[test]
fn a_folder_that_is_no_dual_encoder_is_named() {
    let backend = CpuBackend::new(1);
    let nowhere = CLIPModel::open(&backend, Path::new("nowhere")).err().unwrap();
    assert!(
        matches!(&nowhere, Error::File { file, .. } if file.contains("nowhere/config.json")),
        "{nowhere}"
    );
    let text_only = folder().join("../pipelines/sd/text_encoder");
    let error = CLIPModel::open(&backend, &text_only).err().unwrap().to_string();
    assert!(error.contains("text_config"), "{error}");
}
