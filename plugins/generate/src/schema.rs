//! What clients may send, as a JSON Schema whose descriptions the host quotes when a field is wrong.

use serde_json::{Map, Value, json};

use crate::names::ALIASES;

const LONGEST_PROMPT: u32 = 20_000;

/// A parameter that may be null, which is as good as nothing.
fn nullable(kind: &str, mut limits: Value, description: &str) -> Value {
    limits["type"] = json!([kind, "null"]);
    limits["description"] = description.into();
    limits
}

fn text(longest: u32, description: &str) -> Value {
    nullable("string", json!({"maxLength": longest}), description)
}

fn integer(least: u32, most: u32, description: &str) -> Value {
    nullable("integer", json!({"minimum": least, "maximum": most}), description)
}

fn number(least: f64, most: f64, description: &str) -> Value {
    nullable("number", json!({"minimum": least, "maximum": most}), description)
}

fn format(description: &str) -> Value {
    json!({"enum": ["png", "jpeg", "jpg", "webp", null], "description": description})
}

/// The parameters under their own names.
fn own() -> [(&'static str, Value); 29] {
    [
        (
            "prompt",
            json!({"type": "string", "maxLength": LONGEST_PROMPT, "description": "What the picture shall show. \
                (word:1.3) weighs a word, [word] lessens it, BREAK begins a new chunk, <lora:name:0.8> applies a LoRA; at most \
                20000 characters."}),
        ),
        (
            "negative_prompt",
            text(
                LONGEST_PROMPT,
                "What it shall not show; counts with a guidance scale over 1. A mode may list what it accepts.",
            ),
        ),
        ("prompt_2", text(LONGEST_PROMPT, "SDXL: another prompt for its second text encoder.")),
        (
            "negative_prompt_2",
            text(LONGEST_PROMPT, "SDXL: another negative prompt for its second text encoder."),
        ),
        (
            "size",
            nullable(
                "string",
                json!({"pattern": r"^\d+x\d+$"}),
                "WIDTHxHEIGHT in pixels, such as 512x512: multiples of 8 up to the operator's limit, or one of the mode's \
                 resolution set where it has one. The mode's size unless given.",
            ),
        ),
        (
            "num_inference_steps",
            integer(
                1,
                50,
                "Denoising steps, 1 to 50. The mode's unless given: 4 with models made for few steps.",
            ),
        ),
        (
            "guidance_scale",
            number(
                0.0,
                20.0,
                "How strictly the prompt is followed, 0 to 20. The mode's unless given: 1 with models made for few steps.",
            ),
        ),
        (
            "guidance_rescale",
            number(
                0.0,
                1.0,
                "How far guidance is brought back to the contrast of the prompt's own output, 0 (not at all) to 1 (Lin et al. \
                 2023); 0 unless given.",
            ),
        ),
        (
            "eta",
            number(
                0.0,
                1.0,
                "For DDIM and TCD: the noise of each step, 0 (none) to 1; 0 unless given. Other schedulers refuse it.",
            ),
        ),
        (
            "seed",
            integer(
                0,
                u32::MAX,
                "The same seed gives the same picture, 0 to 2^32-1. Random unless given, and reported back.",
            ),
        ),
        (
            "scheduler",
            text(
                100,
                "What takes the steps: an id (euler_a), a diffusers class (EulerDiscreteScheduler) or a sampler of A1111's web \
                 UI (DPM++ 2M Karras) or ComfyUI (dpmpp_2m). A mode may list what it accepts.",
            ),
        ),
        ("schedule_type", text(100, "The spacing of noise levels, such as karras.")),
        (
            "clip_skip",
            integer(1, 12, "The layer of the text encoder that counts, from its end: 1 is the last."),
        ),
        ("mode", text(200, "A mode of GET /api/modes. The current one unless given.")),
        ("image", text(100, "The picture to begin with: what POST /v1/upload returned.")),
        ("mask", text(100, "An uploaded picture: what is white is made anew, what is black stays.")),
        (
            "strength",
            number(
                0.0,
                1.0,
                "How much of image may change, 0 to 1: 0.8 unless given, 1 with a mask. At 0 it comes back as it is.",
            ),
        ),
        (
            "controlnets",
            nullable(
                "array",
                json!({}),
                "Control networks are not built yet: accepted are null and an empty list.",
            ),
        ),
        (
            "style_lora",
            nullable(
                "object",
                json!({"properties": {
                    "style": text(100, "The name of a style; null: none."),
                    "level": integer(0, 8, "0 or null: off; 8, which is the default: as strong as the operator set it up."),
                }}),
                "A style that the operator set up, at a level from 0 (off) to 8.",
            ),
        ),
        (
            "loras",
            nullable(
                "array",
                json!({"maxItems": 16, "items": {"type": "object", "required": ["name"], "properties": {
                    "name": {"type": "string", "minLength": 1, "maxLength": 200},
                    "strength": {"type": "number", "minimum": -4, "maximum": 4, "default": 1},
                }}}),
                "LoRA files of the operator's folder with their strengths.",
            ),
        ),
        (
            "strict",
            nullable(
                "boolean",
                json!({"default": false}),
                "Whether LoRAs that fit nothing of the model, or lose parts, and parameters that are not known are an error. \
                 Otherwise meta.warnings has them.",
            ),
        ),
        ("superres", nullable("boolean", json!({"default": false}), "Whether the picture is enlarged.")),
        (
            "superres_magnitude",
            integer(1, 3, "How many passes enlarge it, 1 to 3, each by 2; 2 unless given."),
        ),
        ("superres_format", format("The format of an enlarged picture; out_format unless given.")),
        (
            "superres_quality",
            integer(1, 100, "The quality of an enlarged JPEG, 1 to 100; quality unless given."),
        ),
        ("out_format", format("The format of the picture: png unless given. A PNG carries its parameters.")),
        (
            "quality",
            integer(1, 100, "The quality of a JPEG, 1 to 100; 92 unless given. Other formats ignore it."),
        ),
        (
            "previews",
            json!({"enum": [false, true, "binary", null], "default": false, "description": "Whether the client is sent \
                job:preview with a small picture of every step: as JSON, or as binary messages."}),
        ),
        ("params", json!({"type": ["object", "null"], "description": "The parameters may stand in here."})),
    ]
}

/// Everything that `generate` knows, by name, aliases among it.
pub fn parameters() -> Map<String, Value> {
    let mut parameters: Map<String, Value> =
        own().map(|(name, schema)| (name.to_owned(), schema)).into_iter().collect();
    for (alias, name) in ALIASES {
        let mut schema = parameters[name].clone();
        let described = schema["description"].as_str().unwrap_or_default();
        schema["description"] = format!("Another name of {name}. {described}").into();
        parameters.insert(alias.to_owned(), schema);
    }
    parameters
}

/// The schema of the job.
pub fn job() -> String {
    let mut properties = parameters();
    let mut inside = properties.clone();
    inside.remove("params");
    properties["params"]["properties"] = inside.into();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "generate",
        "description": "Makes a picture from text. The parameters stand inside params, or beside it; beside it they win. \
            What is not known is reported in meta.warnings.",
        "type": "object",
        "properties": properties,
        "if": {
            "required": ["params"],
            "properties": {"params": {"type": "object", "required": ["prompt"]}},
        },
        "then": {},
        "else": {"required": ["prompt"]},
    })
    .to_string()
}
