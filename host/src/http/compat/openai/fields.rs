//! What OpenAI's images API has in a request, and what is done with it here.

use serde_json::{Map, Value};

use super::PASSED_ON;

/// What is done as there, beside what is [`PASSED_ON`].
const HONOURED: &[&str] = &[
    "model",
    "n",
    "size",
    "response_format",
    "output_format",
    "output_compression",
    "stream",
    "mask",
    "image",
];

/// What would change the picture, with the values that leave the choice to the server.
const CHANGING: &[(&str, &[&str])] = &[
    ("quality", &["auto", "standard"]),
    ("style", &[]),
    ("background", &["auto", "opaque"]),
    ("input_fidelity", &[]),
];

/// What changes nothing of it.
const IDLE: &[&str] = &["user", "moderation", "partial_images"];

/// What a request asks for and does not get, in sentences that name it.
pub fn ignored(asked: &Map<String, Value>) -> Vec<String> {
    let known = |field: &str| [PASSED_ON, HONOURED, IDLE].iter().any(|fields| fields.contains(&field));
    let told = |(field, value): (&String, &Value)| match CHANGING.iter().find(|(name, _)| name == field) {
        _ if value.is_null() || known(field) => None,
        Some((_, off)) if value.as_str().is_some_and(|value| off.contains(&value)) => None,
        Some(_) => Some(format!("{field}: ignored: it is not supported here")),
        None => Some(format!("{field}: ignored: no such field is known")),
    };
    asked.iter().filter_map(told).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_would_change_the_picture_is_told_by_name() {
        let told = |asked: Value| ignored(asked.as_object().unwrap());
        let plain = json!({"prompt": "", "model": "dall-e-3", "n": 1, "quality": "standard", "background": "auto", "user": "me",
            "style": null, "size": "auto", "seed": 1, "eta": 0});
        assert_eq!(told(plain), [""; 0]);
        assert_eq!(
            told(json!({"style": "vivid", "quality": "hd", "zebra": 1})),
            [
                "quality: ignored: it is not supported here",
                "style: ignored: it is not supported here",
                "zebra: ignored: no such field is known"
            ]
        );
    }
}
