//! `POST /generate`: a `generate` job, waited for.

use std::sync::Arc;

use reverie_access::Caller;
use reverie_memory::Kept;
use serde_json::{Map, Value};
use warp::{
    Filter, Reply,
    http::{Response, header},
};

use super::{
    Content, Manifest, Operation, Route, access, body,
    core::jobs::{self, Done},
    error::or_error,
    with,
};
use crate::{
    error::{Error, ErrorKind},
    plugins::Registry,
    storage,
};

pub fn routes(registry: &Arc<Registry>) -> Route {
    warp::path!("generate")
        .and(warp::post())
        .and(access::caller(registry))
        .and(body::json(body::PLAIN, registry))
        .and(with(registry))
        .then(|caller: Caller, body: Kept<Vec<u8>>, registry: Arc<Registry>| async move {
            or_error(generate(&caller, &body, &registry).await)
        })
        .boxed()
}

/// Media types of pictures.
pub const PICTURES: &[&str] = &["image/png", "image/jpeg", "image/webp"];

/// What is told of every picture.
pub const STORED: &[(&str, &str)] = &[
    ("X-LCM-Image-Key", "The picture's key in the storage."),
    ("X-Storage-Key", "The same."),
    ("X-Job-Id", "The job that made it."),
];

pub fn operations() -> Vec<Operation> {
    let generate = Operation::post("/generate", "Make a picture from text, and wait for it")
        .takes(Content::OfPlugin(Manifest::Job("generate")))
        .answers(200, "The picture.", Content::Media(PICTURES))
        .with(&[
            ("X-Seed", "The seed it was made with."),
            ("X-SuperRes", "1 where it was enlarged, else 0."),
            ("X-Mode", "The mode it was made in."),
        ])
        .with(STORED)
        .with(super::superres::HEADERS);
    vec![generate.errors_of_plugin()]
}

async fn generate(
    caller: &Caller,
    body: &[u8],
    registry: &Arc<Registry>,
) -> Result<impl Reply + use<>, Error> {
    let params = body::object(body)?;
    known_mode(&params, registry)?;
    let submitted = jobs::submit(registry, "generate", params, caller.owner(None)).await?;
    let Done { job, key, content } = submitted.done().await?;
    let mut response = Response::builder()
        .header(header::CONTENT_TYPE, storage::media_type(&key))
        .header(header::CACHE_CONTROL, "no-store")
        .header("X-Seed", text(&job.meta, "seed"))
        .header("X-SuperRes", if job.meta.get("sr") == Some(&true.into()) { "1" } else { "0" })
        .header("X-Mode", ascii(&text(&job.meta, "mode")))
        .header("X-LCM-Image-Key", &key)
        .header("X-Storage-Key", &key)
        .header("X-Job-Id", job.id.to_string());
    let told = told(&job.meta);
    if !told.is_empty() {
        response = response.header("X-Warnings", ascii(&told.join("; ")));
    }
    if let Some(Value::Object(enlarged)) = job.meta.get("superres") {
        response = super::superres::headers(response, enlarged);
    }
    Ok(response.body(content).expect("plain header values"))
}

/// A mode that is not there is not found, where other fields are wrong.
fn known_mode(params: &Map<String, Value>, registry: &Registry) -> Result<(), Error> {
    let inside = params.get("params").and_then(|params| params.get("mode"));
    let Some(name) = params.get("mode").filter(|mode| !mode.is_null()).or(inside).and_then(Value::as_str)
    else {
        return Ok(());
    };
    match registry.services.diffusion.modes().get(name) {
        Err(error) if error.kind == ErrorKind::InvalidInput => Err(Error::not_found(error.message)),
        _ => Ok(()),
    }
}

/// The warnings of a job.
pub fn told(meta: &Map<String, Value>) -> Vec<String> {
    let warnings = meta.get("warnings").and_then(Value::as_array);
    warnings.into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

/// A value of `meta` as text.
pub fn text(meta: &Map<String, Value>, key: &str) -> String {
    match meta.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => String::new(),
    }
}

/// What a header can hold.
pub fn ascii(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').collect()
}
