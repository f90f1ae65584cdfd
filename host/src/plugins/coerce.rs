//! Numbers and booleans that clients send as texts, as forms and the clients of the Python server do.

use serde_json::{Map, Number, Value};

/// How deep schemas may refer to others.
const DEPTH: usize = 16;

/// Makes numbers and booleans of the texts where `schema` accepts those and no text: `"42"`, `"1.0"`, `"true"`. What can't be
/// read so stays as it is, for the check to tell.
pub fn coerce(schema: &Value, value: &mut Value) {
    Coercion { root: schema }.value(schema, value, DEPTH);
}

struct Coercion<'a> {
    root: &'a Value,
}

impl<'a> Coercion<'a> {
    fn resolved(&self, mut schema: &'a Value) -> &'a Value {
        for _ in 0..DEPTH {
            let Some(reference) = schema.get("$ref").and_then(Value::as_str) else { break };
            let found = reference.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer));
            let Some(found) = found else { break };
            schema = found;
        }
        schema
    }

    fn value(&self, schema: &'a Value, value: &mut Value, depth: usize) {
        let schema = self.resolved(schema);
        if depth == 0 {
            return;
        }
        match value {
            Value::Object(fields) => {
                let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
                self.fields(properties, fields, depth - 1);
            }
            Value::Array(items) => {
                let Some(of_items) = schema.get("items") else { return };
                items.iter_mut().for_each(|item| self.value(of_items, item, depth - 1));
            }
            // Old clients have 0 and 1 for false and true.
            Value::Number(number)
                if takes(schema, "boolean") && !takes(schema, "number") && !takes(schema, "integer") =>
            {
                match number.as_f64() {
                    Some(0.0) => *value = false.into(),
                    Some(1.0) => *value = true.into(),
                    _ => {}
                }
            }
            Value::String(text) => {
                if let Some(read) = read(schema.get("type"), text.trim()) {
                    *value = read;
                }
            }
            _ => {}
        }
    }

    fn fields(&self, properties: &'a Map<String, Value>, fields: &mut Map<String, Value>, depth: usize) {
        for (name, value) in fields {
            if let Some(schema) = properties.get(name) {
                self.value(schema, value, depth);
            }
        }
    }
}

fn takes(schema: &Value, kind: &str) -> bool {
    match &schema["type"] {
        Value::String(one) => one == kind,
        Value::Array(several) => several.iter().any(|one| one == kind),
        _ => false,
    }
}

/// The text as a value of one of these types; none where it is none, or a text is accepted.
fn read(types: Option<&Value>, text: &str) -> Option<Value> {
    let types: Vec<&str> = match types? {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => return None,
    };
    if types.contains(&"string") {
        return None;
    }
    let number = || -> Option<Number> {
        let plain = |c: char| c.is_ascii_digit() || "+-.eE".contains(c);
        let text = Some(text.strip_prefix('+').unwrap_or(text)).filter(|text| text.chars().all(plain))?;
        match text.parse::<i64>() {
            Ok(whole) => Some(whole.into()),
            Err(_) => {
                text.parse::<u64>().map(Number::from).ok().or_else(|| Number::from_f64(text.parse().ok()?))
            }
        }
    };
    let of_type = |kind: &&str| match *kind {
        "integer" | "number" => number().map(Value::Number),
        "boolean" => match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Some(true.into()),
            "false" | "0" | "no" | "off" => Some(false.into()),
            _ => None,
        },
        "null" if text.is_empty() => Some(Value::Null),
        _ => None,
    };
    types.iter().find_map(of_type)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::coerce;

    #[test]
    fn texts_become_what_the_schema_wants() {
        let schema = json!({
            "properties": {
                "steps": {"$ref": "#/$defs/steps"},
                "cfg": {"type": ["number", "null"]},
                "superres": {"type": "boolean"},
                "prompt": {"type": "string"},
                "either": {"type": ["string", "integer"]},
                "list": {"items": {"properties": {"strength": {"type": "number"}}}},
            },
            "$defs": {"steps": {"type": "integer"}, "loop": {"$ref": "#/$defs/loop"}},
        });
        let mut value = json!({
            "steps": "42", "cfg": " 1.0", "superres": "True", "prompt": "7", "either": "7", "list": [{"strength": "-1e-1"}],
            "unknown": "8",
        });
        coerce(&schema, &mut value);
        let expected = json!({
            "steps": 42, "cfg": 1.0, "superres": true, "prompt": "7", "either": "7", "list": [{"strength": -0.1}],
            "unknown": "8",
        });
        assert_eq!(value, expected);
        for (number, expected) in [(json!(1), json!(true)), (json!(0.0), json!(false)), (json!(2), json!(2))]
        {
            let mut value = json!({"superres": number});
            coerce(&schema, &mut value);
            assert_eq!(value, json!({"superres": expected}));
        }
        for text in ["4x", "inf", "nan", "0x10", "--1", "a cat"] {
            let mut value = json!({"steps": text});
            coerce(&schema, &mut value);
            assert_eq!(value, json!({"steps": text}));
        }
        coerce(&json!({"$ref": "#"}), &mut json!({"a": "1"}));
    }
}
