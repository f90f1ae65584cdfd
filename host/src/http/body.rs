//! JSON bodies, and pictures inside of them.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde_json::{Map, Value};
use std::sync::Arc;
use warp::{Filter, Rejection};

use crate::{
    error::{Error, ErrorKind},
    uploads::Uploads,
};

/// Bytes of a body that holds pictures in base64, and of any other.
pub const WITH_PICTURES: u64 = 96 << 20;
pub const PLAIN: u64 = 1 << 20;

/// A body of at most `limit` bytes.
pub fn bytes(limit: u64) -> impl Filter<Extract = (Bytes,), Error = Rejection> + Clone {
    warp::body::content_length_limit(limit).and(warp::body::bytes())
}

/// The JSON object of a body; an empty body is an empty object.
///
/// # Errors
/// `BadRequest`.
pub fn object(body: &[u8]) -> Result<Map<String, Value>, Error> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    match serde_json::from_slice(body) {
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
