//! `GET` and `PUT /storage/KEY`, `GET /storage/health`. Plugins' own state is not served.

use std::{pin::pin, sync::Arc};

use bytes::{Buf, BufMut, BytesMut};
use futures_util::{Stream, StreamExt};
use serde_json::json;
use warp::{
    Filter, Reply,
    http::{Response, StatusCode, header},
    path::Tail,
};

use super::{Route, error::or_error, with};
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
        .and(warp::body::stream())
        .and(with(registry))
        .then(|key: Tail, body, registry: Arc<Registry>| async move {
            or_error(put(key.as_str(), body, &registry).await)
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
    public(key)?;
    let content = registry.services.storage.get(key).await?;
    let response = Response::builder()
        .header(header::CONTENT_TYPE, storage::media_type(key))
        .header(header::CACHE_CONTROL, "no-store")
        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
        .header("X-Storage-Key", key);
    Ok(response.body(content).expect("keys are plain ASCII"))
}

async fn put<B: Buf>(
    key: &str,
    body: impl Stream<Item = Result<B, warp::Error>>,
    registry: &Registry,
) -> Result<warp::reply::Response, Error> {
    public(key)?;
    let limit = registry.services.config.storage.max_put_bytes;
    let mut content = BytesMut::new();
    let mut body = pin!(body);
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|_| Error::new(ErrorKind::BadRequest, "the body broke off"))?;
        if content.len() + chunk.remaining() > limit {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("the body is over the limit of {limit} bytes"),
            ));
        }
        content.put(chunk);
    }
    registry.services.storage.put(key, content.freeze()).await?;
    let body = warp::reply::json(&json!({"ok": true, "key": key, "url": format!("/storage/{key}")}));
    Ok(warp::reply::with_header(body, "X-Storage-Key", key.to_owned()).into_response())
}

/// # Errors
/// `NotFound` for keys that belong to plugins.
fn public(key: &str) -> Result<(), Error> {
    match key.starts_with(STATE_PREFIX) {
        true => Err(Error::not_found(format!("nothing is stored under '{key}'"))),
        false => Ok(()),
    }
}
