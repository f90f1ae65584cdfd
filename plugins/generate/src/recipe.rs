//! The text chunk `lcm`: what the same picture is made from again, as clients of the Python server read it.

use reverie_plugin_sdk::diffusion::{Made, Order};
use serde_json::{Value, json};

use crate::request::Request;

/// A JSON object whose fields are parameters of `generate`, in ASCII, which every reader of text chunks understands.
/// `scheduler_id` is that of the steps that were made; null where none says all of it: then the mode's own takes them.
pub fn text(request: &Request, asked: &Order, made: &Made, scheduler_id: Option<&str>) -> String {
    let mut recipe = json!({
        "prompt": request.prompt,
        "seed": asked.seed,
        "size": format!("{}x{}", made.picture.width(), made.picture.height()),
        "steps": made.num_inference_steps,
        "cfg": made.guidance_scale,
        "superres": request.superres(),
        "negative_prompt": made.negative_prompt,
        "scheduler_id": scheduler_id,
        "mode": made.mode,
    });
    let loras: Vec<Value> =
        asked.loras.iter().map(|lora| json!({"name": lora.name, "strength": lora.strength})).collect();
    // An id that was found says what the spacing says, too.
    let spacing = asked.schedule_type.as_ref().filter(|_| scheduler_id.is_none());
    let further = [
        ("superres_magnitude", request.superres().then(|| request.superres_magnitude().into())),
        ("scheduler", asked.scheduler.clone().filter(|_| scheduler_id.is_none()).map(Value::from)),
        ("schedule_type", spacing.cloned().map(Value::from)),
        ("clip_skip", asked.clip_skip.map(Value::from)),
        ("eta", (asked.eta != 0.0).then(|| asked.eta.into())),
        ("guidance_rescale", (asked.guidance_rescale != 0.0).then(|| asked.guidance_rescale.into())),
        ("prompt_2", asked.prompt_second.clone().map(Value::from)),
        ("negative_prompt_2", asked.negative_prompt_second.clone().map(Value::from)),
        ("denoise_strength", request.image.as_ref().map(|_| asked.strength.into())),
        ("loras", (!loras.is_empty()).then(|| loras.into())),
    ];
    for (name, value) in further {
        if let Some(value) = value {
            recipe[name] = value;
        }
    }
    ascii(&recipe.to_string())
}

/// JSON with all that is not ASCII escaped.
fn ascii(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            c if c.is_ascii() => escaped.push(c),
            c => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    escaped.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_escaped_reads_the_same() {
        let value = json!({"prompt": "K\u{e4}se \u{732b} \u{1f600}\n\"x\""});
        let text = ascii(&value.to_string());
        assert!(text.is_ascii() && text.contains("\\u732b \\ud83d\\ude00"), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }
}
