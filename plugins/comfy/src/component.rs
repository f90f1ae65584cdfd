//! The host as the component has it.

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use reverie_plugin_sdk::{
    Blob, Error, Job, clock, http, images, log, random, storage, uploads,
    websocket::{self, Connection},
};
use serde_json::{Value, json};

use crate::{
    JOB,
    events::whole,
    host::{Frame, Host, Request, Response, Socket},
};

const PREVIEW_QUALITY: u8 = 80;

/// With the job at hand; without one while a message is handled.
pub struct Component<'a>(pub Option<&'a Job>);

impl Host for Component<'_> {
    type Socket = Connection;

    fn call(&self, request: Request) -> Result<Response, Error> {
        let mut sent = http::Request::new(request.method, &request.url)
            .timeout(Duration::from_millis(request.timeout_ms))
            .max_response_bytes(request.max_bytes);
        if let Some((media_type, content)) = request.body {
            sent = sent.header("content-type", &media_type).body(content);
        }
        let answer = sent.send()?;
        let media_type = answer.header("content-type").unwrap_or_default().to_owned();
        Ok(Response { status: answer.status, media_type, body: answer.body })
    }

    fn connect(&self, url: &str, timeout_ms: u64) -> Result<Connection, Error> {
        Connection::connect(url, u32::try_from(timeout_ms).unwrap_or(u32::MAX))
    }

    fn now_ms(&self) -> u64 {
        clock::monotonic_ns() / 1_000_000
    }

    fn sleep(&self, ms: u64) {
        clock::sleep(u32::try_from(ms).unwrap_or(u32::MAX));
    }

    fn random(&self) -> u64 {
        random::get_u64()
    }

    fn log(&self, line: &str) {
        log::warn(line);
    }

    fn cancelled(&self) -> bool {
        self.0.is_some_and(Job::cancelled)
    }

    fn progress(&self, fraction: f64, detail: &Value) {
        if let Some(job) = self.0
            && let Err(error) = job.progress_with(fraction as f32, detail)
        {
            log::warn(error.message);
        }
    }

    fn preview(&self, step: Option<f64>, content: Vec<u8>, media_type: &str) {
        let Some(job) = self.0 else { return };
        let shown = || -> Result<(), Error> {
            let blob = Blob::new(&content, media_type);
            let picture = images::decode(&blob)?;
            let jpeg = match media_type {
                "image/jpeg" => content.clone(),
                _ => {
                    let blob = picture.encode(images::Format::Jpeg, PREVIEW_QUALITY)?;
                    blob.read(0, blob.len())
                }
            };
            let event = json!({
                "type": "job:preview",
                "jobType": JOB,
                "step": step.map(whole),
                "format": "jpeg",
                "width": picture.width(),
                "height": picture.height(),
                "data": BASE64_STANDARD.encode(jpeg),
            });
            job.event(&event, Some("preview"))
        };
        // A preview more or less is no reason to fail.
        if let Err(error) = shown() {
            log::debug(format!("a preview can't be shown: {}", error.message));
        }
    }

    fn upload(&self, file_ref: &str) -> Result<(Vec<u8>, String), Error> {
        let blob = uploads::resolve(file_ref)?;
        Ok((blob.read(0, blob.len()), blob.media_type()))
    }

    fn store(&self, content: Vec<u8>, media_type: &str) -> Result<String, Error> {
        storage::put(&Blob::new(&content, media_type))
    }
}

impl Socket for Connection {
    fn send(&self, text: &str) -> Result<(), Error> {
        self.send_text(text)
    }

    fn receive(&self, timeout_ms: u64) -> Result<Option<Frame>, Error> {
        let frame = Connection::receive(self, u32::try_from(timeout_ms).unwrap_or(u32::MAX))?;
        Ok(frame.map(|frame| match frame {
            websocket::Frame::Text(text) => Frame::Text(text),
            websocket::Frame::Binary(content) => Frame::Binary(content),
        }))
    }
}
