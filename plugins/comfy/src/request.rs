//! A job's parameters, and the schemas of what clients send.

use reverie_plugin_sdk::Error;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    library::Entry,
    params::{self, Patched},
};

/// What the job and `comfy:check` take.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    pub workflow_id: String,
    #[serde(default)]
    pub input_image: Option<String>,
    #[serde(default)]
    params: Option<Map<String, Value>>,
    /// Inside of `params` too, unless the workflow has an input of this name.
    #[serde(default)]
    previews: Option<Value>,
    #[serde(default, rename = "max_wait_s")]
    max_wait_s: Option<Value>,
}

impl Request {
    /// Puts the parameters into the workflow.
    ///
    /// # Errors
    /// `invalid-input`, naming the parameter.
    pub fn patch(&self, entry: &Entry, random: u64) -> Result<Patched, Error> {
        let mut values = self.params.clone().unwrap_or_default();
        for own in ["previews", "max_wait_s"] {
            if entry.sidecar.input(own).is_none() {
                values.remove(own);
            }
        }
        params::patch(&entry.workflow, &entry.sidecar, &values, self.input_image.as_deref(), random)
    }

    /// The most seconds that the client wants to wait for the job; inside of `params` too, unless the workflow has an input of
    /// this name.
    ///
    /// # Errors
    /// `invalid-input` for what is no such number.
    pub fn max_wait_s(&self, entry: &Entry) -> Result<Option<f64>, Error> {
        let inside = self.params.as_ref().and_then(|params| params.get("max_wait_s"));
        let inside = inside.filter(|_| entry.sidecar.input("max_wait_s").is_none());
        let Some(value) = self.max_wait_s.as_ref().or(inside).filter(|value| !value.is_null()) else {
            return Ok(None);
        };
        let seconds = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok());
        let seconds = seconds.filter(|seconds| *seconds > 0.0 && seconds.is_finite());
        seconds.map(Some).ok_or_else(|| {
            Error::invalid_input(format!("max_wait_s: accepted are seconds over 0, got {value}"))
        })
    }

    pub fn previews(&self) -> bool {
        let inside = self.params.as_ref().and_then(|params| params.get("previews"));
        let asked = self.previews.as_ref().or(inside);
        asked.is_some_and(|asked| *asked == Value::Bool(true) || *asked == "text")
    }
}

/// The schema of the job and of `comfy:check`.
pub fn schema() -> String {
    json!({
        "type": "object",
        "required": ["workflowId"],
        "properties": {
            "workflowId": {"type": "string", "minLength": 1, "maxLength": 200,
                "description": "the name of a workflow, as comfy:workflows lists them"},
            "inputImage": {"type": ["string", "null"], "description": "the picture's fileRef"},
            "params": {"type": ["object", "null"], "description": "the workflow's inputs by name"},
            "max_wait_s": {"type": ["number", "null"], "exclusiveMinimum": 0,
                "description": "seconds after which the job is given up; the operator's limit counts too"},
            "previews": {"enum": [true, false, "text", null],
                "description": "true or \"text\": job:preview messages with pictures of the steps"},
        },
    })
    .to_string()
}
