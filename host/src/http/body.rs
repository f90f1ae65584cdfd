//! JSON bodies, and pictures inside of them.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use serde_json::{Map, Value};
use std::{pin::pin, sync::Arc};
use warp::{Filter, Rejection};

use super::error::reject;
use crate::{
    error::{Error, ErrorKind},
    json,
    uploads::Uploads,
};

/// Bytes of a body that holds pictures in base64, and of any other.
pub const WITH_PICTURES: u64 = 96 << 20;
pub const PLAIN: u64 = 1 << 20;

/// A body of at most `limit` bytes, with or without a `Content-Length`.
pub fn bytes(limit: u64) -> impl Filter<Extract = (Bytes,), Error = Rejection> + Clone {
    warp::header::optional::<u64>("content-length").and(warp::body::stream()).and_then(
        move |length: Option<u64>, body| async move {
            if length.is_some_and(|length| length > limit) {
                return Err(reject(too_large(limit)));
            }
            collect(body, limit).await.map_err(reject)
        },
    )
}

/// Reads a body of at most `limit` bytes.
///
/// # Errors
/// `TooLarge`, `BadRequest` where it breaks off.
pub async fn collect<B: Buf>(
    body: impl Stream<Item = Result<B, warp::Error>>,
    limit: u64,
) -> Result<Bytes, Error> {
    let mut content = BytesMut::new();
    let mut body = pin!(body);
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|_| Error::new(ErrorKind::BadRequest, "the body broke off"))?;
        if (content.len() + chunk.remaining()) as u64 > limit {
            return Err(too_large(limit));
        }
        content.put(chunk);
    }
    Ok(content.freeze())
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

/// Makes an upload of a picture in base64, with or without the head of a data URL. `name` is the field's, for the error.
///
/// # Errors
/// `InvalidInput`, `TooLarge`, or `Unavailable` when the memory for uploads is full.
pub fn picture(uploads: &Arc<Uploads>, name: &str, text: &str) -> Result<String, Error> {
    upload(uploads, &decoded(name, text)?)
}

/// The bytes of a picture in base64, as [`picture`] takes it.
///
/// # Errors
/// `InvalidInput`.
pub fn decoded(name: &str, text: &str) -> Result<Vec<u8>, Error> {
    let encoded = text.split_once("base64,").map_or(text, |(_, encoded)| encoded);
    let content = BASE64_STANDARD.decode(encoded.trim());
    content.map_err(|e| Error::invalid(format!("{name}: not a picture in base64: {e}")))
}

/// Makes an upload of bytes.
///
/// # Errors
/// `TooLarge`, or `Unavailable` when the memory for uploads is full.
pub fn upload(uploads: &Arc<Uploads>, content: &[u8]) -> Result<String, Error> {
    let mut incoming = uploads.begin();
    incoming.push(content)?;
    incoming.finish(None)
}
