//! How a picture was made, as AUTOMATIC1111's web UI writes it and as tools around it read it.

use std::fmt::Write as _;

use reverie_plugin_sdk::diffusion::{Adapter, Made, Order};

use crate::request::Request;

/// The prompt, a line with the negative one, a line of `Key: value` pairs.
pub fn text(request: &Request, asked: &Order, made: &Made) -> String {
    let mut prompt = request.prompt.clone();
    for lora in beside(&request.prompt, &made.loras) {
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
    for (key, value) in [("Eta", asked.eta), ("CFG Rescale", asked.guidance_rescale)] {
        if value != 0.0 {
            pairs.push((key, value.to_string()));
        }
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

/// The LoRAs that a prompt does not name itself: those that it names come last.
fn beside<'a>(prompt: &str, loras: &'a [Adapter]) -> Vec<&'a Adapter> {
    let named = |lora: &Adapter| {
        [":", ">"]
            .iter()
            .map(|end| prompt.matches(&format!("<lora:{}{end}", lora.name)).count())
            .sum::<usize>()
    };
    let later = |i: usize| loras[i..].iter().filter(|other| other.name == loras[i].name).count();
    loras.iter().enumerate().filter(|(i, lora)| later(*i) > named(lora)).map(|(_, lora)| lora).collect()
}

/// A value with commas, colons or line ends stands in quotes.
fn quoted(value: &str) -> String {
    if value.contains([',', ':', '\n']) { format!("{value:?}") } else { value.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loras_of_the_prompt_are_not_written_twice() {
        let lora = |name: &str, strength| Adapter { name: name.to_owned(), strength };
        let loras = [lora("ink", 0.5), lora("mode", 1.0), lora("ink", 0.8), lora("more", 1.0)];
        let left = beside("a <lora:ink:0.8>cat <lora:more>", &loras);
        let left: Vec<_> = left.iter().map(|lora| (lora.name.as_str(), lora.strength)).collect();
        assert_eq!(left, [("ink", 0.5), ("mode", 1.0)]);
    }
}
