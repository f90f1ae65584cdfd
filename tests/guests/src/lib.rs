//! What the two versions of the `echo` plugin share.

use reverie_plugin_sdk::{Error, Job, Manifest, Message, clock, hub, jobs};
use serde_json::{Value, json};

pub fn manifest(version: &str) -> Manifest {
    Manifest::new("echo", version, "Answers.")
        .message("echo:ping", "Answers with echo:pong.", "")
        .message("echo:start", "Starts an inbox job.", "")
        .message("echo:send", "Sends to an inbox job.", r#"{"required": ["job", "text"]}"#)
        .message("echo:broadcast", "Tells everyone.", "")
        .job("echo", "Gives its parameters back.", "")
        .job("echo-sleep", "Sleeps `steps` times `ms`.", "")
        .job("echo-inbox", "Collects its inbox until it is told to stop.", "")
        .capabilities(&["jobs", "hub"])
}

pub fn message(message: Message, version: &str) -> Result<(), Error> {
    let body: Value = message.parse()?;
    match message.kind.as_str() {
        "echo:ping" => message.reply(&json!({"type": "echo:pong", "version": version})),
        "echo:start" => {
            let job = jobs::submit("echo-inbox", "{}")?;
            message.reply(&json!({"type": "echo:started", "jobId": job}))
        }
        "echo:send" => {
            jobs::send(body["job"].as_str().unwrap_or_default(), &body["text"].to_string())?;
            message.reply(&json!({"type": "echo:sent"}))
        }
        _ => {
            hub::broadcast(&json!({"type": "echo:all"}).to_string())?;
            message.reply(&json!({"type": "echo:told"}))
        }
    }
}

pub fn job(job: Job, version: &str) -> Result<(), Error> {
    let params: Value = job.params()?;
    match job.job_type.as_str() {
        "echo" => job.complete(&[], &json!({"params": params, "version": version})),
        "echo-sleep" => {
            let steps = params["steps"].as_u64().unwrap_or(1);
            for step in 0..steps {
                if job.cancelled() {
                    return Err(Error::cancelled());
                }
                job.progress(step as f32 / steps as f32);
                clock::sleep(params["ms"].as_u64().unwrap_or(0) as u32);
            }
            job.complete(&[], &json!({"version": version}))
        }
        _ => {
            let mut received = Vec::new();
            loop {
                if job.cancelled() {
                    return Err(Error::cancelled());
                }
                let Some(text) = job.receive::<Value>(1000)? else { continue };
                if text == "stop" {
                    return job.complete(&[], &json!({"received": received}));
                }
                received.push(text);
            }
        }
    }
}
