//! `GET` and `PUT /storage/KEY`, `GET /storage/health`. Plugins' own state is not served.

use std::{sync::Arc, time::UNIX_EPOCH};

use bytes::Buf;
use futures_util::Stream;
use serde_json::{Map, Value, json};
use warp::{
    Filter, Reply,
    http::{Response, StatusCode, header},
    path::Tail,
};

use super::{Route, body, error::or_error, with};
use crate::{
    error::{Error, ErrorKind},
    plugins::Registry,
    storage::{self, STATE_PREFIX},
};

pub fn routes(registry: &Arc<Registry>) -> Route {
    let health = warp::path!("storage" / "health").and(warp::get()).and(with(registry)).then(check);
    let get = warp::path("storage").and(warp::path::tail()).and(warp::get()).and(with(registry)).then(
        |key: Tail, registry: Arc<Registry>| async move { or_error(get(key.as_str(), &registry).await) },
    );
    let put = warp::path("storage")
        .and(warp::path::tail())
        .and(warp::put())
        .and(warp::header::optional::<String>("content-type"))
        .and(warp::body::stream())
        .and(with(registry))
        .then(|key: Tail, media_type: Option<String>, body, registry: Arc<Registry>| async move {
            or_error(put(key.as_str(), media_type.as_deref(), body, &registry).await)
        });
    health.or(get).unify().or(put).unify().boxed()
}

async fn check(registry: Arc<Registry>) -> warp::reply::Response {
    let storage = &registry.services.storage;
    let checked = storage.check().await;
    let error = checked.as_ref().err().map(|e| e.message.clone());
    let body = json!({"ok": checked.is_ok(), "location": storage.location(), "error": error});
    let status = if checked.is_ok() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    warp::reply::with_status(warp::reply::json(&body), status).into_response()
}

async fn get(key: &str, registry: &Registry) -> Result<impl Reply + use<>, Error> {
    let key = decoded(key)?;
    public(&key)?;
    let services = &registry.services;
    let (content, media_type, created) = match services.uploads.text(&key) {
        Some(text) => (text.content, "text/plain; charset=utf-8", text.created),
        None => {
            // What can't be a key is the key of nothing.
            let found = services.storage.get_dated(&key).await.map_err(|error| match error.kind {
                ErrorKind::InvalidInput => Error::not_found(error.message),
                _ => error,
            });
            let (content, created) = found?;
            (content, storage::media_type(&key), created)
        }
    };
    let created = created.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    let response = Response::builder()
        .header(header::CONTENT_TYPE, media_type)
        .header(header::CACHE_CONTROL, "no-store")
        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
        .header("X-Storage-Key", key)
        .header("X-Storage-Created-At", format!("{created:.3}"));
    Ok(response.body(content).expect("keys are plain ASCII"))
}

/// Stores the body; of `{"payload": "text"}` as JSON, as clients of the Python server send it, the text, for as long as an upload.
async fn put<B: Buf>(
    key: &str,
    media_type: Option<&str>,
    body: impl Stream<Item = Result<B, warp::Error>>,
    registry: &Registry,
) -> Result<warp::reply::Response, Error> {
    let key = decoded(key)?;
    public(&key)?;
    let services = &registry.services;
    let content = body::collect(body, services.config.storage.max_put_bytes as u64).await?;
    match media_type.and_then(|media_type| payload(media_type, &content)) {
        Some(text) => {
            storage::check_key(&key)?;
            services.uploads.keep_text(&key, text.into())?;
        }
        None => services.storage.put(&key, content).await?,
    }
    let body = warp::reply::json(&json!({"ok": true, "key": key, "url": format!("/storage/{key}")}));
    Ok(warp::reply::with_header(body, "X-Storage-Key", key).into_response())
}

/// The text of a JSON object that has `payload` and nothing else.
fn payload(media_type: &str, content: &[u8]) -> Option<String> {
    if media_type.split(';').next().is_none_or(|essence| essence.trim() != "application/json") {
        return None;
    }
    let mut object: Map<String, Value> = serde_json::from_slice(content).ok()?;
    match (object.len(), object.remove("payload")) {
        (1, Some(Value::String(text))) => Some(text),
        _ => None,
    }
}

/// A key as it stands in a path: clients may escape its colons and slashes.
fn decoded(key: &str) -> Result<String, Error> {
    let text = percent_encoding::percent_decode_str(key).decode_utf8();
    text.map(Into::into).map_err(|_| Error::invalid("the storage key is not UTF-8"))
}

/// # Errors
/// `NotFound` for keys that belong to plugins.
fn public(key: &str) -> Result<(), Error> {
    match key.starts_with(STATE_PREFIX) {
        true => Err(Error::not_found(format!("nothing is stored under '{key}'"))),
        false => Ok(()),
    }
}
