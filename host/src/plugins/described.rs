//! A plugin as `/v1/plugins` shows it.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::Entry;

#[derive(Serialize, JsonSchema)]
pub struct Described {
    pub name: String,
    pub version: String,
    pub description: String,
    /// The message types that it handles.
    pub messages: Vec<DescribedEntry>,
    /// The job types that it runs.
    pub jobs: Vec<DescribedEntry>,
    /// What it asks the operator to be granted.
    pub capabilities: Vec<String>,
}

/// A message or job type.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "PluginType")]
pub struct DescribedEntry {
    name: String,
    description: String,
    /// The JSON Schema of its fields; empty where any are taken.
    schema: Value,
}

impl Entry {
    pub fn describe(&self) -> DescribedEntry {
        DescribedEntry {
            name: self.name.clone(),
            description: self.description.clone(),
            schema: self.schema.source.clone(),
        }
    }
}
