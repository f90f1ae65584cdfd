//! Inputs that nobody wrote down: the fields that people usually want to change.

use serde_json::Value;

use crate::{
    sidecar::{Input, Kind},
    workflow::{Target, Workflow, link},
};

/// Fields of sizes and samplers that keep their names. Others, such as a file's prefix, are the author's business.
const PLAIN: &[&str] = &["steps", "cfg", "denoise", "width", "height", "batch_size"];

/// The kind of what a field holds now.
pub fn kind(workflow: &Workflow, target: &Target) -> Kind {
    let value = workflow.input(&target.node, &target.field);
    if is_file(workflow.class(&target.node), &target.field) {
        return Kind::Image;
    }
    match value {
        Some(Value::Number(_)) if is_seed(&target.field) => Kind::Seed,
        Some(Value::Number(number)) if number.is_f64() => Kind::Number,
        Some(Value::Number(_)) => whole_or_not(&target.field),
        Some(Value::Bool(_)) => Kind::Boolean,
        _ => Kind::Text,
    }
}

/// JSON writes a float of a whole value like an integer: these fields are floats whatever stands there now.
fn whole_or_not(field: &str) -> Kind {
    if matches!(field, "cfg" | "denoise" | "guidance" | "strength" | "strength_model" | "strength_clip") {
        Kind::Number
    } else {
        Kind::Integer
    }
}

fn is_seed(field: &str) -> bool {
    matches!(field, "seed" | "noise_seed")
}

/// Whether a field names a file of the server's input folder.
pub fn is_file(class: &str, field: &str) -> bool {
    match class {
        "LoadImage" | "LoadImageMask" | "LoadImageOutput" => field == "image",
        "LoadAudio" => field == "audio",
        "LoadVideo" => field == "file",
        // Other people's nodes, as far as their names tell.
        _ => {
            class.contains("LoadImage") && field == "image" || class.contains("LoadVideo") && field == "video"
        }
    }
}

/// All inputs of a workflow, in the order of its nodes. The first of a name has it plain, later ones with their node's id.
pub fn inputs(workflow: &Workflow) -> Vec<Input> {
    let mut inputs: Vec<Input> = Vec::new();
    for id in workflow.ids() {
        for (field, value) in workflow.inputs(id) {
            if link(value).is_some() {
                continue;
            }
            let target = Target { node: id.to_owned(), field: field.to_owned() };
            let Some((name, kind)) = name(workflow, &target, value) else { continue };
            let taken = inputs.iter().any(|input| input.name == name);
            let name = if taken { format!("{name}_{}", plain(id)) } else { name };
            let title = workflow.title(id).map(|title| format!("{title}: "));
            inputs.push(Input {
                description: Some(format!("{}{field} of {}", title.unwrap_or_default(), workflow.class(id))),
                name,
                kind,
                targets: vec![target],
                default: None,
                required: false,
                minimum: None,
                maximum: None,
                choices: Vec::new(),
            });
        }
    }
    inputs
}

/// An id as a part of a name.
fn plain(id: &str) -> String {
    id.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

fn name(workflow: &Workflow, target: &Target, value: &Value) -> Option<(String, Kind)> {
    let (class, field) = (workflow.class(&target.node), target.field.as_str());
    let kind = kind(workflow, target);
    let name = match kind {
        Kind::Image if class == "LoadImageMask" => "mask",
        Kind::Image if field == "audio" => "audio",
        Kind::Image if class.contains("Video") => "video",
        Kind::Image => "image",
        Kind::Seed => "seed",
        Kind::Text if class.contains("TextEncode") && is_text(field, value) => {
            match use_of(workflow, &target.node) {
                Use::Positive => "prompt",
                Use::Negative => "negative_prompt",
                Use::Other => "text",
            }
        }
        Kind::Integer | Kind::Number if PLAIN.contains(&field) => field,
        _ => return None,
    };
    Some((name.to_owned(), kind))
}

fn is_text(field: &str, value: &Value) -> bool {
    value.is_string() && (field.contains("text") || matches!(field, "prompt" | "clip_l" | "t5xxl"))
}

enum Use {
    Positive,
    Negative,
    Other,
}

/// What a text is for: the first `positive` or `negative` field that what is made of it goes into.
fn use_of(workflow: &Workflow, id: &str) -> Use {
    let mut reached = vec![id.to_owned()];
    let mut next = 0;
    while let Some(from) = reached.get(next).cloned() {
        next += 1;
        for node in workflow.ids() {
            for (field, value) in workflow.inputs(node) {
                if link(value).is_none_or(|(source, _)| source != from) {
                    continue;
                }
                match field {
                    "positive" => return Use::Positive,
                    "negative" => return Use::Negative,
                    // What is sampled from it is no text any more; guiders take it by this name.
                    "conditioning" if workflow.class(node).contains("Guider") => return Use::Positive,
                    _ if !reached.iter().any(|known| known == node) => reached.push(node.to_owned()),
                    _ => {}
                }
            }
        }
    }
    Use::Other
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn derived(nodes: Value) -> Vec<(String, Kind, String)> {
        let workflow = Workflow::parse(nodes.to_string().as_bytes()).unwrap();
        let inputs = inputs(&workflow).into_iter();
        inputs.map(|input| (input.name, input.kind, input.targets[0].to_string())).collect()
    }

    #[test]
    fn texts_go_by_what_they_are_for() {
        let inputs = derived(json!({
            "3": {"class_type": "KSampler", "inputs": {"seed": 5, "steps": 20, "cfg": 8, "sampler_name": "euler",
                "denoise": 1, "model": ["4", 0], "positive": ["8", 0], "negative": ["7", 0], "latent_image": ["5", 0]}},
            "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "x.safetensors"}},
            "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 768, "batch_size": 1}},
            "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["4", 1]}},
            "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "ugly", "clip": ["4", 1]}},
            "8": {"class_type": "ConditioningSetArea", "inputs": {"conditioning": ["6", 0], "strength": 1}},
            "9": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "ComfyUI"}},
        }));
        let of = |name: &str| {
            let found = inputs.iter().find(|(n, _, _)| n == name);
            found.map(|(_, kind, place)| (*kind, place.as_str()))
        };
        assert_eq!(of("prompt"), Some((Kind::Text, "6.text")));
        assert_eq!(of("negative_prompt"), Some((Kind::Text, "7.text")));
        assert_eq!(of("seed"), Some((Kind::Seed, "3.seed")));
        assert_eq!(of("cfg"), Some((Kind::Number, "3.cfg")));
        assert_eq!(of("steps"), Some((Kind::Integer, "3.steps")));
        assert_eq!(of("width"), Some((Kind::Integer, "5.width")));
        assert_eq!(of("filename_prefix"), None);
        assert_eq!(inputs.len(), 9);
    }

    #[test]
    fn names_that_come_twice_get_their_nodes_ids() {
        let inputs = derived(json!({
            "1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
            "2": {"class_type": "LoadImage", "inputs": {"image": "b.png"}},
            "3": {"class_type": "LoadImageMask", "inputs": {"image": "c.png", "channel": "red"}},
            "4": {"class_type": "RandomNoise", "inputs": {"noise_seed": 1}},
            "5:1": {"class_type": "KSamplerAdvanced", "inputs": {"noise_seed": 1}},
        }));
        let names: Vec<&str> = inputs.iter().map(|(name, _, _)| name.as_str()).collect();
        assert_eq!(names, ["image", "image_2", "mask", "seed", "seed_5_1"]);
    }
}
