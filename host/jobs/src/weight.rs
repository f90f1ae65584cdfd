//! How much memory values take.

use std::mem::size_of;

use serde_json::{Map, Value};

/// Bytes of the root of a B-tree with places for eleven names and values, which also the smallest object has, and of each further
/// value, as its nodes are half full at least.
const ROOT: usize = 704;
const PLACE: usize = 128;

/// Bytes that an object takes, at most about, beside its own place.
pub fn of(object: &Map<String, Value>) -> usize {
    let mut bytes = 0;
    let mut left: Vec<&Value> = Vec::new();
    add_object(object, &mut bytes, &mut left);
    while let Some(value) = left.pop() {
        match value {
            Value::String(text) => bytes += text.capacity(),
            Value::Array(values) => {
                bytes += values.capacity() * size_of::<Value>();
                left.extend(values);
            }
            Value::Object(object) => add_object(object, &mut bytes, &mut left),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    bytes
}

fn add_object<'a>(object: &'a Map<String, Value>, bytes: &mut usize, left: &mut Vec<&'a Value>) {
    if !object.is_empty() {
        let names: usize = object.keys().map(String::capacity).sum();
        *bytes += ROOT + object.len() * PLACE + names;
        left.extend(object.values());
    }
}

/// How many values an object has, at all depths.
pub fn values(object: &Map<String, Value>) -> usize {
    let mut left: Vec<&Value> = object.values().collect();
    let mut count = 0;
    while let Some(value) = left.pop() {
        count += 1;
        match value {
            Value::Array(values) => left.extend(values),
            Value::Object(object) => left.extend(object.values()),
            _ => {}
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn all_depths_count() {
        let weigh = |value: Value| {
            let object = value.as_object().unwrap().clone();
            (of(&object), values(&object))
        };
        assert_eq!(weigh(json!({})), (0, 0));
        assert_eq!(weigh(json!({"a": 1})).1, 1);
        let text = "x".repeat(1000);
        let (bytes, count) = weigh(json!({"a": {"b": [text, {"c": null}]}}));
        assert_eq!(count, 5);
        assert!(bytes > 1000 + 3 * ROOT, "{bytes}");
        // A body of 1 MB made of the smallest objects.
        let (bytes, _) = weigh(json!({"a": vec![json!({"a": 0}); 125_000]}));
        assert!((80 << 20..200 << 20).contains(&bytes), "{bytes}");
    }
}
