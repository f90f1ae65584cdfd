//! Requests of tests/oracles/diffusion/make_pipeline_goldens.py, and what they are held against.

// Each test binary uses a part of this.
#![allow(dead_code)]

use std::path::{Path, PathBuf};

use reverie_kernels::Backend;
use reverie_models::{
    Weights,
    denoise::{self, Denoise},
    pipeline::{Mask, Picture, Pipeline, Request},
    schedulers::SchedulerConfig,
};
use serde_json::{Map, Value};

use crate::fixtures;

pub fn pipelines() -> PathBuf {
    fixtures::folder("pipelines")
}

pub fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

pub fn requests() -> Vec<Value> {
    json(&pipelines().join("requests.json")).as_array().unwrap().clone()
}

/// A tensor of bytes, which `Weights` does not read.
pub fn bytes(file: &str, name: &str) -> Vec<u8> {
    let content = std::fs::read(fixtures::folder("").join(file)).unwrap();
    safetensors::SafeTensors::deserialize(&content).unwrap().tensor(name).unwrap().data().to_vec()
}

/// The request of each seed.
pub fn read(asked: &Value) -> Vec<Request> {
    let number = |name: &str| asked[name].as_f64();
    let (width, height) = (number("width").unwrap() as usize, number("height").unwrap() as usize);
    let model = pipelines().join(asked["model"].as_str().unwrap());
    let mut scheduler = json(&model.join("scheduler/scheduler_config.json")).as_object().unwrap().clone();
    scheduler.extend(asked["scheduler"].as_object().cloned().unwrap_or_else(Map::new));
    if let Some(steps) = asked.get("original_inference_steps") {
        scheduler.insert("original_inference_steps".into(), steps.clone());
    }
    let scheduler = SchedulerConfig::from_json(&Value::Object(scheduler).to_string()).unwrap();
    let image = asked["image"].as_str();
    let mask = asked["mask_image"].as_str();
    let request = |seed: &Value| Request {
        prompt: asked["prompt"].as_str().unwrap().into(),
        negative_prompt: asked["negative_prompt"].as_str().map(str::to_owned),
        prompt_2: asked["prompt_2"].as_str().map(str::to_owned),
        negative_prompt_2: asked["negative_prompt_2"].as_str().map(str::to_owned),
        width,
        height,
        time_ids: asked.get("original_size").map(|_| {
            let pair = |name: &str| [0, 1].map(|i| asked[name][i].as_f64().unwrap() as f32);
            let [original, crop, target] =
                ["original_size", "crops_coords_top_left", "target_size"].map(pair);
            [original[0], original[1], crop[0], crop[1], target[0], target[1]]
        }),
        num_inference_steps: number("num_inference_steps").unwrap() as usize,
        guidance_scale: number("guidance_scale").unwrap() as f32,
        seed: seed.as_u64().unwrap(),
        blends: Vec::new(),
        // diffusers counts the layers that are skipped.
        clip_skip: asked["clip_skip"].as_u64().map(|skipped| skipped as usize + 1),
        scheduler: Some(scheduler.clone()),
        image: image.map(|name| Picture { width, height, rgb: bytes("pipelines/inputs.safetensors", name) }),
        mask: mask.map(|name| Mask { width, height, grey: bytes("pipelines/inputs.safetensors", name) }),
        strength: number("strength").unwrap_or(1.0),
        eta: number("eta").unwrap_or(0.0) as f32,
        guidance_rescale: number("guidance_rescale").unwrap_or(0.0) as f32,
    };
    asked["seeds"].as_array().unwrap().iter().map(request).collect()
}

/// The largest difference over the largest value; infinite where a value is not finite.
pub fn relative_error(actual: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(actual.len(), expected.len());
    let largest = expected.iter().fold(0f32, |max, x| max.max(x.abs()));
    let difference = actual.iter().zip(expected).fold(0f32, |max, (a, b)| max.max((a - b).abs()));
    if actual.iter().all(|x| x.is_finite()) { difference / largest } else { f32::INFINITY }
}

/// How far a pipeline is from diffusers'.
#[derive(Debug)]
pub struct Off {
    #[expect(dead_code, reason = "shown")]
    request: String,
    /// The largest difference of latents after any step, over the largest value.
    pub latents: f32,
    /// Of the pictures' values, the share that is off by more than 2, and the difference on average, of 255.
    pub share: f64,
    pub mean: f64,
}

/// Runs the requests of one golden and holds them against it; `goldens` is a file in the fixtures.
pub fn against_golden<B: Backend>(
    backend: &B,
    pipeline: &Pipeline<B>,
    requests: &[Request],
    name: &str,
    goldens: &str,
) -> Off {
    let path = goldens;
    let goldens = Weights::open(&[fixtures::folder("").join(path)]).unwrap();
    let mut states: Vec<Denoise<B>> =
        requests.iter().map(|request| pipeline.prepare(backend, request).unwrap()).collect();
    let trajectory = goldens.shape(&format!("{name}/trajectory")).unwrap();
    let expected = goldens.values(&format!("{name}/trajectory")).unwrap();
    let moments = trajectory[0];
    let steps = states[0].steps();
    if moments != steps + 1 {
        println!("{name}: {steps} steps for {}", moments - 1);
        return Off { request: name.to_owned(), latents: f32::INFINITY, share: 1.0, mean: 255.0 };
    }
    let mut latents = 0f32;
    for expected in expected.chunks_exact(expected.len() / moments) {
        for (state, expected) in states.iter().zip(expected.chunks_exact(expected.len() / requests.len())) {
            latents = latents.max(relative_error(&state.latents(backend).unwrap(), expected));
        }
        if !states[0].is_done() {
            denoise::step(backend, &pipeline.unet, &mut states.iter_mut().collect::<Vec<_>>()).unwrap();
        }
    }
    let image = match goldens.has(&format!("{name}/image")) {
        true => bytes(path, &format!("{name}/image")),
        false => return Off { request: name.to_owned(), latents, share: 0.0, mean: 0.0 },
    };
    let (mut wrong, mut sum) = (0, 0);
    for (state, expected) in states.iter().zip(image.chunks_exact(image.len() / requests.len())) {
        let picture = pipeline.decode(backend, state, &mut |_, _| Ok(())).unwrap();
        assert_eq!(picture.rgb.len(), expected.len(), "{name}");
        for difference in picture.rgb.iter().zip(expected).map(|(a, b)| a.abs_diff(*b)) {
            wrong += usize::from(difference > 2);
            sum += usize::from(difference);
        }
    }
    let [share, mean] = [wrong, sum].map(|count| count as f64 / image.len() as f64);
    println!(
        "{name}: latents {latents:.1e}, {:.2} % of values off by more than 2, {mean:.3} on average",
        100.0 * share
    );
    Off { request: name.to_owned(), latents, share, mean }
}
