//! `POST /superres` and `/v1/superres`: an `sr` job, waited for. It takes the same way as one over WebSocket.

use std::{collections::HashMap, sync::Arc};

use serde_json::{Map, Value};
use warp::{
    Filter, Reply,
    http::{Response, header, response::Builder},
    multipart::FormData,
};

use super::{
    Route,
    core::{
        jobs::{self, Done},
        uploads,
    },
    error::or_error,
    generate::{ascii, text},
    with,
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
    path.and(warp::post()).and(uploads::form()).and(with(registry)).then(
        |form: FormData, registry: Arc<Registry>| async move { or_error(superres(form, &registry).await) },
    )
    .boxed()
}

async fn superres(form: FormData, registry: &Arc<Registry>) -> Result<impl Reply + use<>, Error> {
    // This API answers a bad field with 400, as a bad form.
    let bad_request = |error: Error| match error.kind {
        ErrorKind::InvalidInput => Error::new(ErrorKind::BadRequest, error.message),
        _ => error,
    };
    let form = uploads::read(form, &registry.services.uploads, &["file"]).await?;
    let file_ref = form.file.ok_or_else(|| uploads::missing_file("file"))?;
    let mut params = params(form.fields).map_err(bad_request)?;
    params.insert("fileRef".into(), file_ref.into());
    let made = async { jobs::submit(registry, "sr", params, None).await?.done().await };
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
