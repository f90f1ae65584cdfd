//! JSON bodies, and pictures inside of them.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Buf;
use futures_util::{Stream, StreamExt};
use reverie_memory::{Budget, Buffer, Kept, Use};
use serde_json::{Map, Value};
use std::{pin::pin, sync::Arc};
use warp::{Filter, Rejection};

use super::error::{of_body, reject};
use crate::{
    error::{Error, ErrorKind},
    json,
    plugins::Registry,
    uploads::Uploads,
};

/// Bytes of a body that holds pictures in base64, and of any other.
pub const WITH_PICTURES: u64 = 96 << 20;
pub const PLAIN: u64 = 1 << 20;

/// A JSON body of at most `limit` bytes, with or without a `Content-Length`. It holds memory also for what is read from it.
pub fn json(
    limit: u64,
    registry: &Arc<Registry>,
) -> impl Filter<Extract = (Kept<Vec<u8>>,), Error = Rejection> + Clone + use<> {
    let memory = registry.services.memory.clone();
    warp::header::optional::<u64>("content-length").and(warp::body::stream()).and_then(
        move |length: Option<u64>, body| {
            let memory = memory.clone();
            async move {
                if length.is_some_and(|length| length > limit) {
                    return Err(reject(too_large(limit)));
                }
                let read = collect(body, limit, &memory).await.map(Buffer::into_kept).and_then(|mut body| {
                    let parsed = json::weight(&body);
                    body.held.grow(parsed)?;
                    Ok(body)
                });
                read.map_err(reject)
            }
        },
    )
}

/// Reads a body of at most `limit` bytes.
///
/// # Errors
/// `TooLarge`, `BadRequest` where it breaks off, `Unavailable` when there is no memory for it.
pub async fn collect<B: Buf>(
    body: impl Stream<Item = Result<B, warp::Error>>,
    limit: u64,
    memory: &Arc<Budget>,
) -> Result<Buffer, Error> {
    let mut content = Buffer::new(memory.nothing(Use::Bodies));
    let mut body = pin!(body);
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|error| of_body(&error, "the body broke off"))?;
        if (content.len() + chunk.remaining()) as u64 > limit {
            return Err(too_large(limit));
        }
        push(&mut content, chunk)?;
    }
    Ok(content)
}

/// Adds what has arrived.
///
/// # Errors
/// `TooLarge` or `Unavailable` when there is no memory for it.
pub fn push(content: &mut Buffer, mut chunk: impl Buf) -> Result<(), Error> {
    while chunk.has_remaining() {
        let piece = chunk.chunk();
        content.push(piece)?;
        let length = piece.len();
        chunk.advance(length);
    }
    Ok(())
}

fn too_large(limit: u64) -> Error {
    Error::new(ErrorKind::TooLarge, format!("the body is over the limit of {limit} bytes"))
}

/// The JSON object of a body; an empty body is an empty object.
///
/// # Errors
/// `BadRequest`.
pub fn object(body: &[u8]) -> Result<Map<String, Value>, Error> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    match json::parse(body).map(|(value, _)| value) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Error::new(ErrorKind::BadRequest, "the body must be a JSON object")),
        Err(e) => Err(Error::new(ErrorKind::BadRequest, format!("the body is not JSON: {e}"))),
    }
}

/// A field that holds a text; null is as good as nothing.
///
/// # Errors
/// `InvalidInput`.
pub fn text<'a>(object: &'a Map<String, Value>, field: &str) -> Result<Option<&'a str>, Error> {
    match object.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(value) => {
            let kind = match value {
                Value::Number(_) => "a number",
                Value::Bool(_) => "true or false",
                Value::Array(_) => "a list",
                _ => "an object",
            };
            Err(Error::invalid(format!("{field}: must be a text, got {kind}")))
        }
    }
}

/// A whole number from 0 on, also as a text, as clients of the Python server may send it.
pub fn integer(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.trim().parse().ok())
}

/// Makes an upload of a tenant's picture in base64, with or without the head of a data URL. `name` is the field's, for the error.
///
/// # Errors
/// `InvalidInput`, `TooLarge`, or `Unavailable` when the memory for uploads is full.
pub fn picture(
    uploads: &Arc<Uploads>,
    tenant: Option<&str>,
    name: &str,
    text: &str,
) -> Result<String, Error> {
    let content = decoded(name, text, uploads.memory())?;
    upload(uploads, tenant, &content)
}

/// The bytes of a picture in base64, as [`picture`] takes it.
///
/// # Errors
/// `InvalidInput`, or `Unavailable` when there is no memory for it.
pub fn decoded(name: &str, text: &str, memory: &Arc<Budget>) -> Result<Kept<Vec<u8>>, Error> {
    let encoded = text.split_once("base64,").map_or(text, |(_, encoded)| encoded).trim();
    let held = memory.hold(Use::Bodies, base64::decoded_len_estimate(encoded.len()))?;
    let content = BASE64_STANDARD.decode(encoded);
    let content = content.map_err(|e| Error::invalid(format!("{name}: not a picture in base64: {e}")))?;
    Ok(held.with(content))
}

/// Makes an upload of a tenant's bytes.
///
/// # Errors
/// `TooLarge`, or `Unavailable` when the memory for uploads is full.
pub fn upload(uploads: &Arc<Uploads>, tenant: Option<&str>, content: &[u8]) -> Result<String, Error> {
    let mut incoming = uploads.begin(tenant);
    incoming.push(content)?;
    incoming.finish(None)
}
