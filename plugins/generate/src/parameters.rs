//! How a picture was made, as AUTOMATIC1111's web UI writes it and as tools around it read it.

use std::fmt::Write as _;

use reverie_plugin_sdk::diffusion::{Generated, Request as Asked};

use crate::request::Request;

/// The prompt, a line with the negative one, a line of `Key: value` pairs.
pub fn text(request: &Request, asked: &Asked, made: &Generated) -> String {
    let mut prompt = request.prompt.clone();
    let written = |name: &str| prompt_names(&request.prompt, name);
    for lora in made.loras.iter().filter(|lora| !written(&lora.name)) {
        let _ = write!(prompt, " <lora:{}:{}>", lora.name, lora.strength);
    }
    let mut text = prompt.trim_start().to_owned();
    if let Some(negative) = made.negative_prompt.as_deref().filter(|negative| !negative.is_empty()) {
        let _ = write!(text, "\nNegative prompt: {negative}");
    }
    let mut pairs = vec![
        ("Steps", made.num_inference_steps.to_string()),
        ("Sampler", made.scheduler.clone()),
        ("CFG scale", made.guidance_scale.to_string()),
        ("Seed", asked.seed.to_string()),
        ("Size", format!("{}x{}", made.picture.width(), made.picture.height())),
        ("Model", made.model.clone()),
    ];
    if request.image.is_some() {
        pairs.push(("Denoising strength", asked.strength.to_string()));
    }
    if let Some(layers) = asked.clip_skip {
        pairs.push(("Clip skip", layers.to_string()));
    }
    pairs.push(("Version", concat!("Reverie ", env!("CARGO_PKG_VERSION")).to_owned()));
    let pairs: Vec<String> =
        pairs.into_iter().map(|(key, value)| format!("{key}: {}", quoted(&value))).collect();
    let _ = write!(text, "\n{}", pairs.join(", "));
    text
}

/// Whether a prompt names a LoRA itself.
fn prompt_names(prompt: &str, lora: &str) -> bool {
    [":", ">"].iter().any(|end| prompt.contains(&format!("<lora:{lora}{end}")))
}

/// A value with commas, colons or line ends stands in quotes.
fn quoted(value: &str) -> String {
    if value.contains([',', ':', '\n']) { format!("{value:?}") } else { value.to_owned() }
}
