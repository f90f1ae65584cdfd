//! Answers requests of tests/oracles/diffusion/sweep.py, a line of JSON each: makes the picture as a host would and writes its
//! bytes, RGB row by row, to the file that the request names.

use std::{error::Error, io::BufRead, path::Path, sync::Arc};

use reverie_kernels::cpu::CpuBackend;
use reverie_models::{
    Adapters, LayerCache, Lora, ModelFiles, denoise,
    pillow::{self, Filter},
    pipeline::{Mask, Picture, Pipeline, Request},
};
use serde_json::{Value, json};

type Failure = Box<dyn Error>;

fn main() {
    let backend = CpuBackend::default();
    let mut last: Option<(String, Pipeline<CpuBackend>)> = None;
    for line in std::io::stdin().lock().lines() {
        let answer = line.map_err(Failure::from).and_then(|line| answer(&backend, &line, &mut last));
        println!("{}", answer.unwrap_or_else(|e| json!({"error": e.to_string()})));
    }
}

fn answer(
    backend: &CpuBackend,
    line: &str,
    last: &mut Option<(String, Pipeline<CpuBackend>)>,
) -> Result<Value, Failure> {
    let asked: Value = serde_json::from_str(line)?;
    let model = text(&asked, "model").ok_or("no model")?;
    let key = format!("{model} {}", asked["lora"]);
    let is_loaded = last.as_ref().is_some_and(|(loaded, _)| *loaded == key);
    if !is_loaded {
        let files = ModelFiles::open(Path::new(&model))?;
        let mut loras = Vec::new();
        if let (Some(path), Some(strength)) = (asked["lora"][0].as_str(), asked["lora"][1].as_f64()) {
            loras.push((Arc::new(Lora::open(Path::new(path))?), strength as f32));
        }
        let adapters = Adapters::for_model(&files, &loras)?;
        *last = Some((key, Pipeline::load(backend, &files, &LayerCache::default(), &adapters)?));
    }
    let (_, pipeline) = last.as_ref().ok_or("no model")?;
    let request = request(&asked, pipeline)?;
    let mut state = pipeline.prepare(backend, &request)?;
    while !state.is_done() {
        denoise::step(backend, &pipeline.unet, &mut [&mut state])?;
    }
    let picture = pipeline.decode(backend, &state, &mut |_, _| Ok(()))?;
    std::fs::write(text(&asked, "out").ok_or("no out")?, &picture.rgb)?;
    let warnings = [pipeline.warnings(), state.warnings()].concat();
    Ok(json!({"width": picture.width, "height": picture.height, "warnings": warnings}))
}

fn request(asked: &Value, pipeline: &Pipeline<CpuBackend>) -> Result<Request, Failure> {
    let number = |name: &str| asked[name].as_f64();
    let (width, height) = (side(asked, "width")?, side(asked, "height")?);
    let own = if asked["mask"].is_string() { pipeline.inpaint_scheduler() } else { pipeline.scheduler() };
    let mut scheduler = own.clone();
    match (text(asked, "scheduler"), text(asked, "schedule_type")) {
        (Some(name), Some(spacing)) => scheduler = scheduler.with_name_and_schedule_type(&name, &spacing)?,
        (Some(name), None) => scheduler = scheduler.with_name(&name)?,
        (None, Some(spacing)) => scheduler = scheduler.with_schedule_type(&spacing)?,
        (None, None) => {}
    }
    let image = pixels(asked, "image")?.map(|(rgb, size)| Picture {
        width,
        height,
        rgb: pillow::resize(&rgb, size, 3, [width, height], Filter::Lanczos),
    });
    // A picture in colour is resized before it becomes grey, as by diffusers; one in grey comes with three equal channels.
    let mask = pixels(asked, "mask")?.map(|(rgb, size)| Mask {
        width,
        height,
        grey: pillow::grey(&pillow::resize(&rgb, size, 3, [width, height], Filter::Lanczos)),
    });
    Ok(Request {
        prompt: text(asked, "prompt").unwrap_or_default(),
        negative_prompt: text(asked, "negative_prompt"),
        prompt_2: text(asked, "prompt_2"),
        negative_prompt_2: text(asked, "negative_prompt_2"),
        width,
        height,
        time_ids: None,
        num_inference_steps: side(asked, "num_inference_steps")?,
        guidance_scale: number("guidance_scale").unwrap_or(7.5) as f32,
        seed: asked["seed"].as_u64().unwrap_or(0),
        blends: Vec::new(),
        clip_skip: asked["clip_skip"].as_u64().map(|layers| layers as usize),
        scheduler: Some(scheduler),
        image,
        mask,
        strength: number("strength").unwrap_or(1.0),
        eta: number("eta").unwrap_or(0.0) as f32,
        guidance_rescale: number("guidance_rescale").unwrap_or(0.0) as f32,
    })
}

fn text(asked: &Value, name: &str) -> Option<String> {
    asked[name].as_str().map(str::to_owned)
}

fn side(asked: &Value, name: &str) -> Result<usize, Failure> {
    asked[name].as_u64().map(|side| side as usize).ok_or_else(|| format!("no {name}").into())
}

type Pixels = (Vec<u8>, [usize; 2]);

/// The bytes of a file with RGB pixels, whose name ends in its size: `….64x48.rgb`.
fn pixels(asked: &Value, name: &str) -> Result<Option<Pixels>, Failure> {
    let Some(path) = text(asked, name) else { return Ok(None) };
    let size = path.rsplit('.').nth(1).and_then(|size| size.split_once('x')).ok_or("no size in the name")?;
    let size = [size.0.parse()?, size.1.parse()?];
    Ok(Some((std::fs::read(&path)?, size)))
}
