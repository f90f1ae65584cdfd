//! How much of a job's progress is kept.

use serde_json::{Map, Value};

/// Bytes of the fields of a job's progress together, about: clients are sent them all with every step.
pub const MAX_DETAIL: usize = 64 << 10;

/// What one value counts beside its texts.
const VALUE: usize = 16;

/// Whether `new` fields, beside the `old` ones that they do not replace, are within [`MAX_DETAIL`].
pub fn fits(old: &Map<String, Value>, new: &Map<String, Value>) -> bool {
    let kept = old.iter().filter(|(name, _)| !new.contains_key(*name));
    kept.chain(new).map(|(name, value)| name.len() + size(value)).sum::<usize>() <= MAX_DETAIL
}

fn size(value: &Value) -> usize {
    VALUE
        + match value {
            Value::String(text) => text.len(),
            Value::Array(values) => values.iter().map(size).sum(),
            Value::Object(fields) => fields.iter().map(|(name, value)| name.len() + size(value)).sum(),
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_do_not_pile_up() {
        let of = |value: Value| value.as_object().unwrap().clone();
        let half = "x".repeat(MAX_DETAIL / 2 - 100);
        let old = of(json!({"a": half, "b": half}));
        assert!(fits(&old, &of(json!({"stage": "decoding"}))));
        assert!(fits(&old, &of(json!({"b": half.clone() + "y"}))), "it takes the other's place");
        assert!(!fits(&old, &of(json!({"c": half}))));
        assert!(!fits(&Map::new(), &of(json!({"deep": {"list": vec![0; MAX_DETAIL / VALUE]}}))));
    }
}
