//! The schemas of plugins' manifests as components of the document.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{COMPONENTS, Manifest};
use crate::{jobs, plugins::Registry};

/// Keywords whose value is a schema, or a list of them.
const APPLIED: &[&str] = &[
    "additionalItems",
    "additionalProperties",
    "allOf",
    "anyOf",
    "contains",
    "contentSchema",
    "else",
    "if",
    "items",
    "not",
    "oneOf",
    "prefixItems",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
];

/// Keywords whose values are schemas by name.
const NAMED: &[&str] =
    &["$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties"];

/// The dialect that OpenAPI 3.1 has by itself.
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// Components for all that is loaded.
#[derive(Default)]
pub struct Schemas {
    pub components: Map<String, Value>,
    messages: BTreeMap<String, String>,
}

impl Schemas {
    /// Those of the plugins that serve at the moment.
    pub fn of(registry: &Registry) -> Self {
        let mut schemas = Self::default();
        let default = &registry.services.config.jobs.default_type;
        let mut submissions = Vec::new();
        for plugin in registry.plugins() {
            for (kind, entry) in &plugin.messages {
                let plain = kind.replace(|c: char| !c.is_ascii_alphanumeric() && !"-_".contains(c), ".");
                let component = schemas.free(&format!("message.{plain}"));
                schemas.insert(&component, &entry.schema.source, &entry.description);
                schemas.messages.insert(kind.clone(), component);
            }
            for (name, entry) in &plugin.jobs {
                let component = job_component(name);
                schemas.insert(&component, &entry.schema.source, &entry.description);
                let schema = submission(&schemas.components[&component], name, name == default);
                let submitted = format!("submit.{name}");
                submissions.push(reference(&submitted));
                schemas.components.insert(submitted, schema);
            }
        }
        if !submissions.is_empty() {
            schemas.components.insert(SUBMISSION.into(), json!({"oneOf": submissions}));
        }
        schemas
    }

    /// Where a schema lies; any object, where no plugin has it.
    pub fn reference(&self, manifest: &Manifest) -> Value {
        self.component(manifest).map_or_else(|| json!({"type": "object"}), |component| reference(&component))
    }

    /// The fields of a schema as parameters of a query, but for those that hold others.
    pub fn parameters(&self, manifest: &Manifest) -> Vec<Value> {
        let Some(component) = self.component(manifest) else { return Vec::new() };
        let schema = &self.components[&component];
        let required =
            |name: &str| schema["required"].as_array().is_some_and(|all| all.iter().any(|one| one == name));
        let fields = schema["properties"].as_object().into_iter().flatten();
        let holds_others = |field: &Value| {
            let kind = &field["type"];
            kind == "object" || kind.as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind == "object"))
        };
        let parameter = |(name, field): (&String, &Value)| {
            let escaped = name.replace('~', "~0").replace('/', "~1");
            let mut parameter = json!({
                "name": name,
                "in": "query",
                "required": required(name),
                "schema": reference(&format!("{component}/properties/{escaped}")),
            });
            if let Some(description) = field["description"].as_str() {
                parameter["description"] = description.into();
            }
            parameter
        };
        fields.filter(|(_, field)| !holds_others(field)).map(parameter).collect()
    }

    fn component(&self, manifest: &Manifest) -> Option<String> {
        let component = match manifest {
            Manifest::Job(name) => Some(job_component(name)),
            Manifest::Message(kind) => self.messages.get(kind).cloned(),
            Manifest::AnyJob => Some(SUBMISSION.into()),
        };
        component.filter(|component| self.components.contains_key(component))
    }

    fn insert(&mut self, component: &str, schema: &Value, description: &str) {
        let mut schema = relocated(schema, component);
        if let Some(object) = schema.as_object_mut() {
            // Nothing else comes this far.
            object.entry("type").or_insert_with(|| "object".into());
            object.entry("description").or_insert_with(|| description.into());
        }
        self.components.insert(component.into(), schema);
    }

    /// The name, or where it is taken, the name with a number.
    fn free(&self, name: &str) -> String {
        let numbered = (2..).map(|number| format!("{name}.{number}"));
        let mut names = std::iter::once(name.to_owned()).chain(numbered);
        names.find(|name| !self.components.contains_key(name)).expect("there are enough numbers")
    }
}

const SUBMISSION: &str = "submission";

fn job_component(name: &str) -> String {
    format!("job.{name}")
}

fn reference(component: &str) -> Value {
    json!({"$ref": format!("#{COMPONENTS}/{component}")})
}

/// A job's parameters with the fields of `job:submit` beside them. Merged, as the parameters' schema may forbid all others.
fn submission(parameters: &Value, job_type: &str, is_default: bool) -> Value {
    let mut schema = parameters.as_object().cloned().unwrap_or_default();
    // References go to the component of the parameters.
    schema.retain(|keyword, _| keyword != "$defs" && keyword != "definitions");
    let (low, high) = (jobs::PRIORITIES.start(), jobs::PRIORITIES.end());
    let own = [
        ("jobType", json!({"const": job_type})),
        (
            "priority",
            json!({
                "type": "integer", "minimum": low, "maximum": high, "default": 0, "description": "Higher runs first.",
            }),
        ),
    ];
    if let Value::Object(properties) = schema.entry("properties").or_insert_with(|| json!({})) {
        properties.extend(own.map(|(name, schema)| (name.to_owned(), schema)));
    }
    if !is_default && let Value::Array(required) = schema.entry("required").or_insert_with(|| json!([])) {
        required.push("jobType".into());
    }
    schema.insert("title".into(), job_type.into());
    schema.into()
}

/// A schema with its references changed so that it can lie in the document as this component.
fn relocated(schema: &Value, component: &str) -> Value {
    let mut schema = schema.clone();
    let mut anchors = BTreeMap::new();
    let id = schema.get("$id").and_then(Value::as_str).map(|id| id.trim_end_matches('#').to_owned());
    if let Some(object) = schema.as_object_mut() {
        object.remove("$id");
        object.retain(|keyword, value| keyword != "$schema" || value != DIALECT);
    }
    each(&mut schema, "", &mut |schema, pointer| {
        for keyword in ["$anchor", "$dynamicAnchor"] {
            if let Some(Value::String(name)) = schema.remove(keyword) {
                anchors.insert(name, pointer.to_owned());
            }
        }
    });
    each(&mut schema, "", &mut |schema, _| {
        let Some(Value::String(given)) = schema.get("$ref").or_else(|| schema.get("$dynamicRef")) else {
            return;
        };
        let own = id.as_deref().and_then(|id| given.strip_prefix(id)).unwrap_or(given);
        let fragment = match own.strip_prefix('#') {
            Some(fragment) => fragment,
            None if own.is_empty() => "",
            None => return,
        };
        let pointer = anchors.get(fragment).map_or(fragment, String::as_str);
        let reference = format!("#{COMPONENTS}/{component}{pointer}");
        schema.remove("$dynamicRef");
        schema.insert("$ref".into(), reference.into());
    });
    schema
}

/// Calls `change` for a schema and all inside of it, with where they are. Those that are documents of their own, by an `$id`,
/// stay as they are.
fn each(schema: &mut Value, pointer: &str, change: &mut impl FnMut(&mut Map<String, Value>, &str)) {
    let Value::Object(object) = schema else { return };
    if !pointer.is_empty() && object.contains_key("$id") {
        return;
    }
    change(object, pointer);
    for (keyword, value) in object {
        let named = NAMED.contains(&keyword.as_str());
        if !named && !APPLIED.contains(&keyword.as_str()) {
            continue;
        }
        let pointer = format!("{pointer}/{keyword}");
        match value {
            Value::Object(schemas) if named => {
                for (name, schema) in schemas {
                    let escaped = name.replace('~', "~0").replace('/', "~1");
                    each(schema, &format!("{pointer}/{escaped}"), change);
                }
            }
            Value::Array(schemas) => {
                for (i, schema) in schemas.iter_mut().enumerate() {
                    each(schema, &format!("{pointer}/{i}"), change);
                }
            }
            schema => each(schema, &pointer, change),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_found_where_a_schema_comes_to_lie() {
        let schema = json!({
            "$schema": DIALECT,
            "$id": "https://example.com/x",
            "properties": {
                "a": {"$ref": "#/$defs/a"},
                "again": {"$ref": "#"},
                "named": {"items": [{"$ref": "#there"}]},
                "absolute": {"$ref": "https://example.com/x#/$defs/a"},
                "other": {"$ref": "https://example.com/y"},
                "$ref": {"type": "string", "enum": ["#/$defs/a"]},
                "data": {"const": {"$ref": "#/$defs/a"}},
                "apart": {"$id": "https://example.com/z", "$ref": "#/$defs/b"},
            },
            "$defs": {"a": {"anyOf": [true, {"$anchor": "there", "type": "null"}]}},
        });
        let expected = json!({
            "properties": {
                "a": {"$ref": "#/components/schemas/job.x/$defs/a"},
                "again": {"$ref": "#/components/schemas/job.x"},
                "named": {"items": [{"$ref": "#/components/schemas/job.x/$defs/a/anyOf/1"}]},
                "absolute": {"$ref": "#/components/schemas/job.x/$defs/a"},
                "other": {"$ref": "https://example.com/y"},
                "$ref": {"type": "string", "enum": ["#/$defs/a"]},
                "data": {"const": {"$ref": "#/$defs/a"}},
                "apart": {"$id": "https://example.com/z", "$ref": "#/$defs/b"},
            },
            "$defs": {"a": {"anyOf": [true, {"type": "null"}]}},
        });
        assert_eq!(relocated(&schema, "job.x"), expected);
    }

    #[test]
    fn a_closed_schema_takes_the_fields_of_a_submission() {
        let closed =
            json!({"type": "object", "additionalProperties": false, "properties": {"a": {}}, "$defs": {}});
        let schema = submission(&closed, "x", false);
        let validator = jsonschema::validator_for(&schema).unwrap();
        assert!(validator.is_valid(&json!({"jobType": "x", "priority": 5, "a": 1})));
        for wrong in [json!({"jobType": "y"}), json!({"a": 1}), json!({"jobType": "x", "b": 1})] {
            assert!(!validator.is_valid(&wrong), "{wrong}");
        }
        let default = jsonschema::validator_for(&submission(&closed, "x", true)).unwrap();
        assert!(default.is_valid(&json!({})));
    }
}
