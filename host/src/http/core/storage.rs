//! `GET` and `PUT /storage/KEY`, `GET /storage/health`. Plugins' own state is not served.

use std::{
    convert::Infallible,
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::{Buf, Bytes};
use futures_util::{Stream, stream};
use parking_lot::Mutex;
use reverie_access::Caller;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use warp::{
    Filter, Reply,
    http::{HeaderMap, Response, StatusCode, header},
    path::Tail,
};

use super::{
    Content, Operation, Route, access, body,
    conditional::{self, Asked},
    error::{or_error, response as error_response},
    of, with,
};
use crate::{
    error::{Error, ErrorKind},
    plugins::Registry,
    storage::{self, STATE_PREFIX, TENANTS_PREFIX},
};

pub fn routes(registry: &Arc<Registry>) -> Route {
    let health = warp::path!("storage" / "health").and(warp::get()).and(with(registry)).then(check);
    let get = warp::path("storage")
        .and(warp::path::tail())
        .and(warp::get())
        .and(warp::header::headers_cloned())
        .and(access::caller(registry))
        .and(with(registry))
        .then(|key: Tail, headers: HeaderMap, caller: Caller, registry: Arc<Registry>| async move {
            or_error(get(key.as_str(), &headers, &caller, &registry).await)
        });
    let put = warp::path("storage")
        .and(warp::path::tail())
        .and(warp::put())
        .and(warp::header::optional::<String>("content-type"))
        .and(access::caller(registry))
        .and(warp::body::stream())
        .and(with(registry))
        .then(
            |key: Tail, media_type: Option<String>, caller: Caller, body, registry: Arc<Registry>| async move {
                or_error(put(key.as_str(), media_type.as_deref(), &caller, body, &registry).await)
            },
        );
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
    let validators = [
        ("ETag", "A strong validator of the content."),
        ("Last-Modified", "When it was stored."),
        ("Accept-Ranges", "`bytes`"),
    ];
    let headers =
        [("X-Storage-Key", "The key."), ("X-Storage-Created-At", "When it was stored, in unix seconds.")];
    vec![
        Operation::get("/storage/health", "Whether the storage can be written and read")
            .answers_json::<Health>("It can.")
            .answers(503, "It can't.", Content::Json(of::<Health>())),
        key(Operation::get("/storage/{key}", "What is stored under a key"))
            .details(
                "Conditional requests (`If-None-Match`, `If-Modified-Since`, `If-Range`) and one range of bytes at a time are \
                 answered as RFC 9110 has it.",
            )
            .answers(200, "The content, of the media type that the key's ending tells.", Content::Media(&["*/*"]))
            .answers(206, "The part of it that `Range` asks for.", Content::Media(&["*/*"]))
            .answers_empty(304, "It is the one that the request's validator names.")
            .with(&headers)
            .with(&validators)
            .answers_empty(416, "None of the bytes that `Range` asks for are there.")
            .errors(&[ErrorKind::InvalidInput, ErrorKind::NotFound, ErrorKind::Internal, ErrorKind::Unavailable]),
        key(Operation::put("/storage/{key}", "Store the body under a key"))
            .details(
                "A JSON object that has `payload` and nothing else is a text, which is kept for as long as an upload; any other \
                 body is kept as it is. The holder of a key has names of its own; without keys what is stored is not replaced.",
            )
            .takes(Content::JsonOrAny(of::<Payload>()))
            .answers_json::<Stored>("Stored.")
            .with(&headers[..1])
            .errors(&[
                ErrorKind::Conflict,
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
    let body = Health { ok: checked.is_ok(), location: storage.name().into(), error };
    let status = if checked.is_ok() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    warp::reply::with_status(warp::reply::json(&body), status).into_response()
}

async fn get(
    key: &str,
    asked: &HeaderMap,
    caller: &Caller,
    registry: &Registry,
) -> Result<warp::reply::Response, Error> {
    let key = decoded(key)?;
    public(&key)?;
    let services = &registry.services;
    let lies_at = storage::key_of(caller.tenant(), &key);
    if let Some(text) = services.uploads.text(&lies_at) {
        let tag = tag(&text.content);
        let found =
            Found { key, media_type: "text/plain; charset=utf-8", created: text.created, tag: Some(tag) };
        let content = text.content.clone();
        let part = |range: Range<u64>| {
            warp::reply::stream(stream::iter([Ok::<_, Infallible>(
                content.slice(range.start as usize..range.end as usize),
            )]))
            .into_response()
        };
        return found.answer(asked, text.content.len() as u64, part);
    }
    // What can't be a key is the key of nothing.
    let stored = services.storage.open_object(&lies_at).await.map_err(|error| match error.kind {
        ErrorKind::InvalidInput => Error::not_found(error.message),
        // Where it was looked for is nobody's business.
        ErrorKind::NotFound => Error::not_found(format!("nothing is stored under '{key}'")),
        _ => error,
    })?;
    let media_type = storage::media_type(&key);
    let found = Found { key, media_type, created: stored.created, tag: stored.tag.clone() };
    let size = stored.size;
    found.answer(asked, size, move |range| streamed(stored, range))
}

/// The bytes of a range, read as the client takes them. An error ends the connection: the client must not take a part for all.
fn streamed(stored: storage::Stored, range: Range<u64>) -> warp::reply::Response {
    warp::reply::stream(Shared(Mutex::new(stored.stream(range)))).into_response()
}

/// A stream that may be referred to by more than one thread, as bodies must. It is only ever read by one.
struct Shared<S>(Mutex<S>);

impl<S: Stream + Unpin> Stream for Shared<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        Pin::new(self.0.get_mut()).poll_next(context)
    }
}

/// Of a text, which is short.
fn tag(content: &Bytes) -> String {
    let digest = Sha256::digest(content);
    format!("\"{}\"", digest[..16].iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// What is stored under a key, but for its content.
struct Found {
    key: String,
    media_type: &'static str,
    created: SystemTime,
    tag: Option<String>,
}

impl Found {
    /// What a request with these headers is answered with; `part` makes the answer with the bytes of a range.
    fn answer(
        self,
        headers: &HeaderMap,
        size: u64,
        part: impl FnOnce(Range<u64>) -> warp::reply::Response,
    ) -> Result<warp::reply::Response, Error> {
        let asked = conditional::asked(headers, size, self.tag.as_deref(), self.created);
        let (status, range) = match asked {
            Asked::Whole => (StatusCode::OK, Some(0..size)),
            Asked::Part(range) => (StatusCode::PARTIAL_CONTENT, Some(range)),
            Asked::Nothing => (StatusCode::NOT_MODIFIED, None),
            Asked::OutOfRange => (StatusCode::RANGE_NOT_SATISFIABLE, None),
        };
        let created = self.created.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        let mut answer = Response::builder()
            .status(status)
            .header(header::CACHE_CONTROL, "no-store")
            .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
            .header(header::ACCEPT_RANGES, "bytes")
            .header(header::LAST_MODIFIED, conditional::date(self.created))
            .header("X-Storage-Key", &self.key)
            .header("X-Storage-Created-At", format!("{created:.3}"));
        if let Some(tag) = &self.tag {
            answer = answer.header(header::ETAG, tag);
        }
        match (&range, status) {
            (Some(range), StatusCode::PARTIAL_CONTENT) => {
                let range = format!("bytes {}-{}/{size}", range.start, range.end - 1);
                answer = answer.header(header::CONTENT_RANGE, range);
            }
            (None, StatusCode::RANGE_NOT_SATISFIABLE) => {
                let error =
                    Error::invalid(format!("'{}' has {size} bytes: none of those asked for", self.key));
                let mut answer = error_response(&error);
                *answer.status_mut() = status;
                let range = format!("bytes */{size}").parse().expect("a header's value");
                answer.headers_mut().insert(header::CONTENT_RANGE, range);
                return Ok(answer);
            }
            _ => {}
        }
        let body = match range {
            None => warp::reply().into_response().into_body(),
            Some(range) => {
                answer = answer
                    .header(header::CONTENT_TYPE, self.media_type)
                    .header(header::CONTENT_LENGTH, range.end - range.start);
                part(range).into_body()
            }
        };
        answer.body(body).map_err(|error| Error::internal(format!("the answer's headers: {error}")))
    }
}
/// Stores the body; of `{"payload": "text"}` as JSON, as clients of the Python server send it, the text, for as long as an upload.
/// The holder of a key has names of its own; among those that all share, nothing that is stored is replaced or hidden.
async fn put<B: Buf>(
    key: &str,
    media_type: Option<&str>,
    caller: &Caller,
    body: impl Stream<Item = Result<B, warp::Error>>,
    registry: &Registry,
) -> Result<warp::reply::Response, Error> {
    let key = decoded(key)?;
    public(&key)?;
    let services = &registry.services;
    let tenant = caller.tenant();
    if tenant.is_none() && key.starts_with(TENANTS_PREFIX) {
        return Err(Error::new(ErrorKind::Denied, format!("'{TENANTS_PREFIX}' is where things of keys lie")));
    }
    let stored = storage::key_of(tenant, &key);
    let shared = tenant.is_none() && !caller.is_operator();
    storage::check_key(&stored)?;
    let limit = services.config.storage.max_put_bytes as u64;
    let content = body::collect(body, limit, &services.memory).await?.into_bytes();
    match media_type.and_then(|media_type| payload(media_type, &content)) {
        Some(_) if shared && services.storage.exists(&stored).await? => return Err(storage::taken(&key)),
        Some(text) => services.uploads.keep_text(&stored, text)?,
        None if shared => services.storage.create(&stored, content).await?,
        None => {
            let length = content.len() as u64;
            services.quotas.store(&services.access, &services.storage, tenant, length).await?;
            services.storage.put(&stored, content).await?;
        }
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
