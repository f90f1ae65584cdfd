//! A plugin to copy: one message and one job.

#![forbid(unsafe_code)]

use reverie_plugin_sdk::{Error, Handler, Job, Manifest, Message, export};
use serde_json::{Value, json};

struct Hello;

export!(Hello);

impl Handler for Hello {
    fn manifest() -> Manifest {
        // The host checks parameters against the JSON Schema before they come here.
        let name = r#"{"properties": {"name": {"type": "string", "maxLength": 100, "description": "whom to greet"}}}"#;
        Manifest::new("hello", env!("CARGO_PKG_VERSION"), "Greets.")
            .message("hello:greet", "Answers with hello:greeting.", name)
            .job("hello", "Greets at length.", name)
    }

    fn message(message: Message) -> Result<(), Error> {
        let body: Value = message.parse()?;
        message.reply(&json!({"type": "hello:greeting", "text": greeting(&body)}))
    }

    fn job(job: Job) -> Result<(), Error> {
        let params: Value = job.params()?;
        job.progress(0.5);
        job.complete(&[], &json!({"text": greeting(&params)}))
    }
}

fn greeting(params: &Value) -> String {
    format!("Hello, {}!", params["name"].as_str().unwrap_or("stranger"))
}
