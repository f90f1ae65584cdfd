//! `GET` and `PUT /storage/KEY`, `GET /storage/health`. Plugins' own state is not served.

use std::{sync::Arc, time::UNIX_EPOCH};

use bytes::Buf;
use futures_util::Stream;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};
use warp::{
    Filter, Reply,
    http::{Response, StatusCode, header},
    path::Tail,
};

use super::{Content, Operation, Route, body, error::or_error, of, with};
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

/// Whether the storage can be written and read.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "StorageHealth")]
struct Health {
    ok: bool,
    location: String,
    error: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct Stored {
    ok: bool,
    key: String,
    /// Where it is served, from the server's root.
    url: String,
}

/// A text to be kept for as long as an upload.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "any other body is taken too, as it is")]
struct Payload {
    payload: String,
}

pub fn operations() -> Vec<Operation> {
    let key = |operation: Operation| {
        operation.path("key", of::<String>(), "Letters, digits and `._-:`, in segments divided by `/`.")
    };
    let headers =
        [("X-Storage-Key", "The key."), ("X-Storage-Created-At", "When it was stored, in unix seconds.")];
    vec![
        Operation::get("/storage/health", "Whether the storage can be written and read")
            .answers_json::<Health>("It can.")
            .answers(503, "It can't.", Content::Json(of::<Health>())),
        key(Operation::get("/storage/{key}", "What is stored under a key"))
            .answers(200, "The content, of the media type that the key's ending tells.", Content::Media(&["*/*"]))
            .with(&headers)
            .errors(&[ErrorKind::InvalidInput, ErrorKind::NotFound, ErrorKind::Internal, ErrorKind::Unavailable]),
        key(Operation::put("/storage/{key}", "Store the body under a key"))
            .details(
                "A JSON object that has `payload` and nothing else is a text, which is kept for as long as an upload; any other \
                 body is kept as it is.",
            )
            .takes(Content::JsonOrAny(of::<Payload>()))
            .answers_json::<Stored>("Stored.")
            .with(&headers[..1])
            .errors(&[
                ErrorKind::InvalidInput,
                ErrorKind::NotFound,
                ErrorKind::TooLarge,
                ErrorKind::Internal,
                ErrorKind::Unavailable,
            ]),
    ]
}

async fn check(registry: Arc<Registry>) -> warp::reply::Response {
    let storage = &registry.services.storage;
    let checked = storage.check().await;
    let error = checked.as_ref().err().map(|e| e.message.clone());
    let body = Health { ok: checked.is_ok(), location: storage.location().into(), error };
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
    let limit = services.config.storage.max_put_bytes as u64;
    let content = body::collect(body, limit, &services.memory).await?.into_bytes();
    match media_type.and_then(|media_type| payload(media_type, &content)) {
        Some(text) => {
            storage::check_key(&key)?;
            services.uploads.keep_text(&key, text.into())?;
        }
        None => services.storage.put(&key, content).await?,
    }
    let url = format!("/storage/{key}");
    let body = warp::reply::json(&Stored { ok: true, key: key.clone(), url });
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
