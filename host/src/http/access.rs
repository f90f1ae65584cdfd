//! Who may call: the operator's token, and the origins whose pages may.

use std::{collections::HashMap, convert::Infallible};

use warp::{
    Filter, Rejection,
    cors::Cors,
    http::{Method, header},
};

use crate::error::{Error, ErrorKind};

/// Headers of answers that pages of other origins may read.
const EXPOSED: &[&str] =
    &["x-storage-key", "x-superres", "x-seed", "x-mode", "x-lcm-image-key", "x-job-id", "retry-after"];

/// Lets a request through that carries the token, as `Authorization: Bearer TOKEN` or `?token=TOKEN`; all, when the token
/// is empty.
pub fn token(token: &str) -> impl Filter<Extract = (), Error = Rejection> + Clone + use<> {
    let token = token.to_owned();
    let query = warp::query::<HashMap<String, String>>()
        .or_else(|_| async { Ok::<_, Infallible>((HashMap::new(),)) });
    warp::header::optional::<String>("authorization")
        .and(query)
        .and_then(move |header: Option<String>, query: HashMap<String, String>| {
            let bearer = header.as_deref().and_then(|header| header.strip_prefix("Bearer "));
            let given = bearer.or_else(|| query.get("token").map(String::as_str)).unwrap_or_default();
            let right = token.is_empty() || same(given, &token);
            async move {
                if right {
                    return Ok(());
                }
                let error = "a token is required: 'Authorization: Bearer TOKEN' or '?token=TOKEN'";
                Err(warp::reject::custom(Error::new(ErrorKind::Unauthorized, error)))
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
                Err(warp::reject::custom(Error::new(ErrorKind::Denied, error)))
            }
        })
        .untuple_one()
}

/// Lets only the server's own pages through: they state an origin too, but CORS is no matter of theirs.
pub fn own() -> impl Filter<Extract = (), Error = Rejection> + Clone {
    warp::header::<String>("origin")
        .and(warp::header::optional::<String>("host"))
        .and_then(|origin: String, host: Option<String>| async move {
            if is_own(&origin, host.as_deref()) { Ok(()) } else { Err(warp::reject::not_found()) }
        })
        .untuple_one()
}

fn is_own(origin: &str, host: Option<&str>) -> bool {
    origin.split_once("://").is_some_and(|(_, authority)| Some(authority) == host)
}

/// The CORS headers for the allowed origins.
pub fn cors(allowed: &[String]) -> Cors {
    let cors = warp::cors()
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE])
        .allow_headers([header::CONTENT_TYPE, header::AUTHORIZATION])
        .expose_headers(EXPOSED.iter().copied());
    if allowed.iter().any(|a| a == "*") {
        cors.allow_any_origin().build()
    } else {
        cors.allow_origins(allowed.iter().map(String::as_str)).build()
    }
}

/// Compares in a time that does not depend on where the texts differ.
fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}
