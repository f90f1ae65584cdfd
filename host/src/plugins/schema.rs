//! Parameters checked against the JSON Schema of a manifest, with errors that name the field and what it takes.

use jsonschema::Validator;
use serde_json::{Map, Value};

use super::coerce::coerce;

/// Errors that one message lists at most.
const MAX_ERRORS: usize = 5;

/// Characters of one error.
const LIMIT: usize = 300;

/// A compiled schema; an empty text accepts any object.
pub struct Schema {
    pub source: Value,
    validator: Option<Validator>,
}

impl Schema {
    /// # Errors
    /// Why the text is not a JSON Schema.
    pub fn compile(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(Self { source: Value::Object(Map::new()), validator: None });
        }
        let source: Value = serde_json::from_str(text).map_err(|e| format!("is not JSON: {e}"))?;
        if !source.is_object() {
            return Err("is not a JSON object".into());
        }
        let validator =
            jsonschema::validator_for(&source).map_err(|e| format!("is not a JSON Schema: {e}"))?;
        Ok(Self { source, validator: Some(validator) })
    }

    /// Checks a message's or a job's fields. Texts that say a number or a boolean become what the schema wants; whether there
    /// were any.
    ///
    /// # Errors
    /// Each wrong field, what is wrong with it, and the schema's description of it.
    pub fn check(&self, fields: &mut Map<String, Value>) -> Result<bool, String> {
        let Some(validator) = &self.validator else { return Ok(false) };
        let mut value = Value::Object(std::mem::take(fields));
        let mut checked = Ok(false);
        if !validator.is_valid(&value) {
            coerce(&self.source, &mut value);
            checked = self.errors(validator, &value).map(|()| true);
        }
        if let Value::Object(object) = value {
            *fields = object;
        }
        checked
    }

    fn errors(&self, validator: &Validator, value: &Value) -> Result<(), String> {
        let errors: Vec<String> = validator
            .iter_errors(value)
            .take(MAX_ERRORS)
            .map(|error| {
                let path = error.instance_path().to_string();
                let mut text = error.to_string();
                if text.chars().count() > LIMIT {
                    // What is wrong stands behind the value.
                    text = shorten(&error.masked().to_string());
                }
                if !path.is_empty() {
                    text = format!("{}: {text}", path.trim_start_matches('/').replace('/', "."));
                }
                match self.describe(&path) {
                    Some(description) => format!("{text} ({description})"),
                    None => text,
                }
            })
            .collect();
        if errors.is_empty() { Ok(()) } else { Err(errors.join("; ")) }
    }

    fn describe(&self, instance_path: &str) -> Option<&str> {
        let mut schema = &self.source;
        for field in instance_path.split('/').skip(1) {
            schema = schema.get("properties")?.get(field)?;
        }
        if instance_path.is_empty() { None } else { schema.get("description")?.as_str() }
    }
}

/// Keeps a huge text out of an error message.
fn shorten(text: &str) -> String {
    if text.chars().count() <= LIMIT {
        return text.to_owned();
    }
    text.chars().take(LIMIT).chain("…".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bad_field_is_named_with_what_it_takes() {
        let schema = Schema::compile(
            r#"{"type": "object", "required": ["fileRef"], "properties": {
                "fileRef": {"type": "string"},
                "magnitude": {"type": "integer", "minimum": 1, "maximum": 3, "description": "number of passes, 1 to 3"}}}"#,
        )
        .unwrap();
        let value = |text: &str| serde_json::from_str::<Map<String, Value>>(text).unwrap();
        assert_eq!(schema.check(&mut value(r#"{"fileRef": "x", "magnitude": 3}"#)), Ok(false));
        let mut as_text = value(r#"{"fileRef": "7", "magnitude": "3"}"#);
        assert_eq!(schema.check(&mut as_text), Ok(true));
        assert_eq!(as_text, value(r#"{"fileRef": "7", "magnitude": 3}"#));
        let error = schema.check(&mut value(r#"{"magnitude": 7}"#)).unwrap_err();
        assert!(error.contains("magnitude: 7 is greater") && error.contains("number of passes"), "{error}");
        assert!(error.contains("\"fileRef\" is a required property"), "{error}");
        let short = Schema::compile(r#"{"properties": {"prompt": {"maxLength": 400}}}"#).unwrap();
        let error =
            short.check(&mut Map::from_iter([("prompt".to_owned(), "x".repeat(401).into())])).unwrap_err();
        assert!(error == "prompt: value is longer than 400 characters", "{error}");
        assert!(Schema::compile("{").is_err() && Schema::compile(r#"{"type": "nonsense"}"#).is_err());
    }
}
