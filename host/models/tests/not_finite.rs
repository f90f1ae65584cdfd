//! Values that are not numbers: an error that names the part of the model and the step, and no picture of one colour.

use std::path::Path;

use reverie_kernels::cpu::CpuBackend;
use reverie_models::{
    Adapters, Error, LayerCache, ModelFiles,
    clip::CLIPModel,
    denoise::{self, Denoise},
    pipeline::{Picture, Pipeline, Request},
};
use safetensors::{Dtype, tensor::TensorView};

mod fixtures;

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";
const VAE: &str = "vae/diffusion_pytorch_model.safetensors";
const TEXT: &str = "text_encoder/model.safetensors";

/// The values of a tensor as fp32, all of them `value`.
fn all(value: f32) -> impl Fn(TensorView) -> (Dtype, Vec<u8>) {
    move |view| {
        let count = view.shape().iter().product();
        (Dtype::F32, value.to_le_bytes().repeat(count))
    }
}

fn load(folder: &Path) -> Pipeline<CpuBackend> {
    let files = ModelFiles::open(folder).unwrap();
    Pipeline::load(&backend(), &files, &LayerCache::default(), &Adapters::default()).unwrap()
}

fn backend() -> CpuBackend {
    CpuBackend::new(1)
}

fn request(guidance_scale: f32) -> Request {
    Request {
        prompt: "a lighthouse".into(),
        negative_prompt: Some(String::new()),
        prompt_2: None,
        negative_prompt_2: None,
        width: 16,
        height: 16,
        time_ids: None,
        num_inference_steps: 6,
        guidance_scale,
        seed: 1,
        blends: Vec::new(),
        clip_skip: None,
        scheduler: None,
        image: None,
        mask: None,
        strength: 1.0,
        eta: 0.0,
        guidance_rescale: 0.0,
    }
}

fn step(pipeline: &Pipeline<CpuBackend>, picture: &mut Denoise<CpuBackend>) {
    denoise::step(&backend(), &pipeline.unet, &mut [picture]).unwrap();
}

fn is_finite(picture: &Denoise<CpuBackend>) -> bool {
    picture.latents(&backend()).unwrap().iter().all(|value| value.is_finite())
}

fn decode(pipeline: &Pipeline<CpuBackend>, picture: &Denoise<CpuBackend>) -> Result<Picture, Error> {
    pipeline.decode(&backend(), picture, &mut |_, _| Ok(()))
}

fn check(error: &Error, parts: &[&str]) {
    assert!(matches!(error, Error::NotFinite { .. }), "{error:?}");
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "'{part}' is not in: {message}");
    }
}

/// A UNet that is good at first: its outputs grow until fp32 does not hold what the steps make of them.
#[test]
fn the_step_is_named_at_which_latents_stop_being_numbers() {
    let folder = fixtures::copy("pipelines/sd");
    fixtures::rewrite(&folder.path().join(UNET), "conv_out.bias", all(2e37));
    let pipeline = load(folder.path());
    let (mut bad, mut good) = (None, 0);
    let mut picture = pipeline.prepare(&backend(), &request(1.0)).unwrap();
    let steps = picture.steps();
    while !picture.is_done() {
        step(&pipeline, &mut picture);
        denoise::check(&backend(), &pipeline.unet, &mut [&mut picture]).unwrap();
        match is_finite(&picture) {
            true => good += 1,
            false => _ = bad.get_or_insert(picture.position()),
        }
        assert_eq!(picture.fault().is_some(), bad.is_some());
    }
    let bad = bad.expect("a step that is bad");
    assert!(good > 0, "the first step is bad already");
    check(picture.fault().unwrap(), &["the UNet of ", UNET, &format!(" at step {bad} of {steps}")]);
    check(&decode(&pipeline, &picture).unwrap_err(), &[&format!(" at step {bad} of {steps}")]);
}

#[test]
fn of_a_batch_the_bad_picture_alone_has_a_fault() {
    let folder = fixtures::copy("pipelines/sd");
    let pipeline = load(folder.path());
    let mut bad = pipeline.prepare(&backend(), &request(3e38)).unwrap();
    let mut good = pipeline.prepare(&backend(), &request(5.0)).unwrap();
    while !good.is_done() {
        let pictures: &mut [&mut Denoise<CpuBackend>] = &mut [&mut bad, &mut good];
        denoise::step(&backend(), &pipeline.unet, pictures).unwrap();
        denoise::check(&backend(), &pipeline.unet, pictures).unwrap();
    }
    assert!(good.fault().is_none() && bad.fault().is_some());
    decode(&pipeline, &good).unwrap();
    decode(&pipeline, &bad).unwrap_err();
}

#[test]
fn latents_that_nobody_looked_at_are_looked_at_before_they_are_decoded() {
    let folder = fixtures::copy("pipelines/sd");
    let pipeline = load(folder.path());
    let mut picture = pipeline.prepare(&backend(), &request(3e38)).unwrap();
    let steps = picture.steps();
    while !picture.is_done() {
        step(&pipeline, &mut picture);
    }
    check(
        &decode(&pipeline, &picture).unwrap_err(),
        &["the UNet of ", &format!(" by step {steps} of {steps}")],
    );
}

#[test]
fn a_vae_that_makes_no_numbers_is_named() {
    let folder = fixtures::copy("pipelines/sd");
    fixtures::rewrite(&folder.path().join(VAE), "decoder.conv_norm_out.weight", all(3e38));
    fixtures::rewrite(&folder.path().join(VAE), "encoder.conv_norm_out.weight", all(3e38));
    let pipeline = load(folder.path());
    let mut picture = pipeline.prepare(&backend(), &request(1.0)).unwrap();
    while !picture.is_done() {
        step(&pipeline, &mut picture);
    }
    assert!(is_finite(&picture));
    check(&decode(&pipeline, &picture).unwrap_err(), &["the VAE of ", VAE]);
    let image = Picture { width: 16, height: 16, rgb: vec![100; 3 * 16 * 16] };
    let from_image = Request { image: Some(image), strength: 0.5, ..request(1.0) };
    let error = pipeline.prepare(&backend(), &from_image).err().unwrap();
    check(&error, &["the VAE of ", VAE]);
}

#[test]
fn a_text_encoder_that_makes_no_numbers_is_named() {
    let folder = fixtures::copy("pipelines/sd");
    let bias = "text_model.final_layer_norm.bias";
    fixtures::rewrite(&folder.path().join(TEXT), bias, all(3e38));
    let weight = "text_model.final_layer_norm.weight";
    fixtures::rewrite(&folder.path().join(TEXT), weight, all(3e38));
    let error = load(folder.path()).prepare(&backend(), &request(1.0)).err().unwrap();
    check(&error, &["the text encoder of ", TEXT]);
}

#[test]
fn weights_of_words_that_are_too_large_are_the_prompts_fault() {
    let folder = fixtures::copy("pipelines/sd");
    let heavy = format!("a (lighthouse:33{}) at night", "0".repeat(37));
    let request = Request { prompt: heavy, ..request(1.0) };
    let error = load(folder.path()).prepare(&backend(), &request).err();
    assert!(matches!(&error, Some(Error::Invalid(message)) if message.starts_with("prompt: ")), "{error:?}");
}

#[test]
fn a_dual_encoder_that_makes_no_numbers_is_named() {
    let folder = fixtures::copy("clip_model");
    let file = "model.safetensors";
    fixtures::rewrite(&folder.path().join(file), "text_projection.weight", all(3e38));
    let model = CLIPModel::open(&backend(), folder.path()).unwrap();
    check(&model.embed_text(&backend(), "a cat").unwrap_err(), &["the dual encoder of ", file]);
    fixtures::rewrite(&folder.path().join(file), "logit_scale", all(100.0));
    check(&CLIPModel::open(&backend(), folder.path()).err().unwrap(), &["the dual encoder of ", file]);
}
