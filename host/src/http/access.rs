//! Who may call: the operator's token, and the origins whose pages may.

use std::{collections::HashMap, convert::Infallible};

use warp::{
    Filter, Rejection, Reply,
    http::{HeaderValue, header},
    reply::Response,
};

use super::error::reject;
use crate::error::{Error, ErrorKind};

/// Headers of answers that pages of other origins may read.
const EXPOSED: &str = "x-storage-key, x-storage-created-at, x-superres, x-seed, x-mode, x-lcm-image-key, x-job-id, x-warnings, x-sr-model, \
                       x-sr-magnitude, x-sr-passes, x-sr-scale-per-pass, x-sr-format, location, retry-after";

/// Lets a request through that carries the token, as `Authorization: Bearer TOKEN` or `?token=TOKEN`; all, when the token
/// is empty.
pub fn token(token: &str) -> impl Filter<Extract = (), Error = Rejection> + Clone + use<> {
    let token = token.to_owned();
    let query = warp::query::<HashMap<String, String>>()
        .or_else(|_| async { Ok::<_, Infallible>((HashMap::new(),)) });
    warp::header::optional::<String>("authorization")
        .and(query)
        .and_then(move |header: Option<String>, query: HashMap<String, String>| {
            let bearer = header.as_deref().and_then(|header| header.split_once(' '));
            let bearer = bearer
                .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
                .map(|(_, token)| token.trim());
            let given = bearer.or_else(|| query.get("token").map(String::as_str)).unwrap_or_default();
            let right = token.is_empty() || same(given, &token);
            async move {
                if right {
                    return Ok(());
                }
                let error = "a token is required: 'Authorization: Bearer TOKEN' or '?token=TOKEN'";
                Err(reject(Error::new(ErrorKind::Unauthorized, error)))
            }
        })
        .untuple_one()
}

/// Refuses pages of other origins than those allowed. Requests without an `Origin` header, which no page made, pass.
pub fn origin(allowed: &[String]) -> impl Filter<Extract = (), Error = Rejection> + Clone + use<> {
    let allowed = allowed.to_vec();
    warp::header::optional::<String>("origin")
        .and(warp::header::optional::<String>("host"))
        .and_then(move |origin: Option<String>, host: Option<String>| {
            let passes = origin
                .as_deref()
                .is_none_or(|o| is_own(o, host.as_deref()) || allowed.iter().any(|a| a == "*" || a == o));
            async move {
                if passes {
                    return Ok(());
                }
                let error =
                    format!("origin '{}' is not in server.allowed_origins", origin.unwrap_or_default());
                Err(reject(Error::new(ErrorKind::Denied, error)))
            }
        })
        .untuple_one()
}

fn is_own(origin: &str, host: Option<&str>) -> bool {
    origin.split_once("://").is_some_and(|(_, authority)| Some(authority) == host)
}

/// Answers what a browser asks before it sends a page's request: any header may be sent, with any method that is served.
pub fn preflight() -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    warp::options()
        .and(warp::header::<String>("origin"))
        .and(warp::header::<String>("access-control-request-method"))
        .and(warp::header::optional::<HeaderValue>("access-control-request-headers"))
        .map(|_, _, headers: Option<HeaderValue>| {
            let mut answer = warp::reply().into_response();
            let methods = HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE, OPTIONS");
            answer.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
            answer.headers_mut().insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
            if let Some(headers) = headers {
                answer.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_HEADERS, headers);
            }
            answer
        })
}

/// Lets the page of an allowed origin read an answer.
pub fn share(origin: Option<HeaderValue>, mut answer: Response) -> Response {
    let headers = answer.headers_mut();
    // Caches must not give one origin's answer to another.
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    }
    answer
}

/// Compares in a time that does not depend on where the texts differ.
fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}
