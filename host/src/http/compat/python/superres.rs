//! `POST /superres` and `/v1/superres`: an `sr` job, waited for. It takes the same way as one over WebSocket.

use std::{collections::HashMap, sync::Arc};

use reverie_access::Caller;
use schemars::JsonSchema;
use serde_json::{Map, Value};
use warp::{
    Filter, Reply,
    http::{Response, header, response::Builder},
};

use super::{
    Content, File, Operation, Route, access,
    core::{
        jobs::{self, Done},
        uploads,
    },
    error::or_error,
    generate::{PICTURES, STORED, ascii, text},
    multipart::{FormData, form},
    of, with,
};
use crate::{
    error::{Error, ErrorKind},
    plugins::Registry,
    storage,
};

/// What a form may have besides the file.
const FIELDS: &[&str] = &["magnitude", "scale", "quality", "model", "out_format"];

pub fn routes(registry: &Arc<Registry>) -> Route {
    let path = warp::path!("superres").or(warp::path!("v1" / "superres")).unify();
    path.and(warp::post())
        .and(access::caller(registry))
        .and(form())
        .and(with(registry))
        .then(|caller: Caller, form: FormData, registry: Arc<Registry>| async move {
            or_error(superres(form, &caller, &registry).await)
        })
        .boxed()
}

/// Headers of enlarged pictures.
pub const HEADERS: &[(&str, &str)] = &[
    ("X-SR-Model", "The network or resampler that enlarged it."),
    ("X-SR-Magnitude", "How many passes were asked for."),
    ("X-SR-Passes", "How often it ran."),
    ("X-SR-Scale-Per-Pass", "By how much each time."),
    ("X-SR-Format", "The picture's format."),
];

/// The form that is taken.
#[derive(JsonSchema)]
#[schemars(rename = "SuperResForm")]
#[expect(dead_code, reason = "it describes the form, whose fields the job's schema checks")]
struct Expected {
    file: File,
    /// How many passes, 1 to 3.
    magnitude: Option<u32>,
    /// One pass by this factor, in place of `magnitude`.
    scale: Option<f64>,
    /// Of a JPEG, 1 to 100.
    quality: Option<u32>,
    /// A network or resampler; `sr:models` lists them.
    model: Option<String>,
    /// png, jpeg or webp, in upper or lower case.
    out_format: Option<String>,
}

pub fn operations() -> Vec<Operation> {
    let at = |path: &str| {
        Operation::post(path, "Enlarge a picture, and wait for it")
            .takes(Content::Form(of::<Expected>()))
            .answers(200, "The enlarged picture.", Content::Media(PICTURES))
            .with(&[("X-SuperRes", "How many times larger each side is.")])
            .with(STORED)
            .with(HEADERS)
            .errors_of_plugin()
    };
    vec![at("/superres"), at("/v1/superres")]
}

async fn superres(
    form: FormData,
    caller: &Caller,
    registry: &Arc<Registry>,
) -> Result<impl Reply + use<>, Error> {
    // This API answers a bad field with 400, as a bad form.
    let bad_request = |error: Error| match error.kind {
        ErrorKind::InvalidInput => Error::new(ErrorKind::BadRequest, error.message),
        _ => error,
    };
    let form = uploads::read(form, &registry.services.uploads, caller.tenant(), &["file"]).await?;
    let file_ref = form.file.ok_or_else(|| uploads::missing_file("file"))?;
    let mut params = params(form.fields).map_err(bad_request)?;
    params.insert("fileRef".into(), file_ref.into());
    let made = async { jobs::submit(registry, "sr", params, caller.owner(None)).await?.done().await };
    let Done { job, key, content } = made.await.map_err(bad_request)?;
    let response = Response::builder()
        .header(header::CONTENT_TYPE, storage::media_type(&key))
        .header(header::CACHE_CONTROL, "no-store")
        .header("X-SuperRes", text(&job.meta, "scale"))
        .header("X-LCM-Image-Key", &key)
        .header("X-Storage-Key", &key)
        .header("X-Job-Id", job.id.to_string());
    Ok(headers(response, &job.meta).body(content).expect("plain header values"))
}

/// What is told of an enlargement: the network, how often it ran and by how much each time, and the picture's format.
pub fn headers(mut response: Builder, meta: &Map<String, Value>) -> Builder {
    for (header, field) in [
        ("X-SR-Model", "model"),
        ("X-SR-Magnitude", "magnitude"),
        ("X-SR-Passes", "passes"),
        ("X-SR-Scale-Per-Pass", "scale_per_pass"),
        ("X-SR-Format", "format"),
    ] {
        if meta.get(field).is_some_and(|value| !value.is_null()) {
            response = response.header(header, ascii(&text(meta, field)));
        }
    }
    response
}

/// The form's fields as the job's parameters: texts, which the job's schema reads as numbers where it wants those.
fn params(fields: HashMap<String, String>) -> Result<Map<String, Value>, Error> {
    let mut params = Map::new();
    for (name, text) in fields {
        let text = text.trim();
        if !FIELDS.contains(&name.as_str()) {
            let accepted = FIELDS.join(", ");
            return Err(Error::invalid(format!("{name}: no such field; accepted are file, {accepted}")));
        }
        if text.is_empty() {
            continue;
        }
        let value = if name == "out_format" { text.to_lowercase() } else { text.to_owned() };
        params.insert(name, value.into());
    }
    Ok(params)
}
