//! `POST /generate`: a `generate` job, waited for.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value};
use warp::{
    Filter, Reply,
    http::{Response, header},
};

use super::{
    Route, body,
    error::or_error,
    run::{self, Done},
    with,
};
use crate::{error::Error, plugins::Registry, storage};

pub fn routes(registry: &Arc<Registry>) -> Route {
    warp::path!("generate")
        .and(warp::post())
        .and(body::bytes(body::PLAIN))
        .and(with(registry))
        .then(
            |body: Bytes, registry: Arc<Registry>| async move { or_error(generate(&body, &registry).await) },
        )
        .boxed()
}

async fn generate(body: &[u8], registry: &Arc<Registry>) -> Result<impl Reply + use<>, Error> {
    let params = body::object(body)?;
    let Done { job, key, content } = run::submit(registry, "generate", params, None).await?.done().await?;
    Ok(Response::builder()
        .header(header::CONTENT_TYPE, storage::media_type(&key))
        .header(header::CACHE_CONTROL, "no-store")
        .header("X-Seed", text(&job.meta, "seed"))
        .header("X-SuperRes", if job.meta.get("sr") == Some(&true.into()) { "1" } else { "0" })
        .header("X-Mode", ascii(&text(&job.meta, "mode")))
        .header("X-LCM-Image-Key", &key)
        .header("X-Storage-Key", &key)
        .header("X-Job-Id", job.id.to_string())
        .body(content)
        .expect("plain header values"))
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
fn ascii(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').collect()
}
