//! `/v1/session`: a cookie in place of the key, for pages; and `POST /v1/sign`: addresses that carry no key.

use std::sync::Arc;

use reverie_access::{Caller, Scope, Sessions};
use reverie_memory::Kept;
use reverie_net::Secure;
use schemars::JsonSchema;
use serde::Serialize;
use warp::{
    Filter, Reply,
    http::{HeaderValue, header},
    reply::Response,
};

use super::{Content, Operation, Route, access, body, error::or_error, of, with};
use crate::{
    error::{Error, ErrorKind},
    plugins::Registry,
};

/// Seconds that a signature lasts unless asked.
const SIGNED_FOR_S: u64 = 60;

/// What needs none.
pub fn open(registry: &Arc<Registry>) -> Route {
    let session = warp::path!("v1" / "session");
    let tell = session
        .and(warp::get())
        .and(access::caller(registry))
        .map(|caller: Caller| warp::reply::json(&Session::of(&caller)).into_response());
    let begin = session
        .and(warp::post())
        .and(access::caller(registry))
        .and(warp::header::optional::<String>("origin"))
        .and(warp::ext::optional::<Secure>())
        .and(with(registry))
        .map(|caller: Caller, origin: Option<String>, tls: Option<Secure>, registry: Arc<Registry>| {
            // Where somebody else ends TLS, the page says whether it came over it.
            let secure = tls.is_some() || origin.is_some_and(|origin| origin.starts_with("https://"));
            or_error(begin(&caller, secure, &registry))
        });
    let end =
        session.and(warp::delete()).and(warp::header::optional::<String>("cookie")).and(with(registry)).map(
            |cookie: Option<String>, registry: Arc<Registry>| {
                if let Some(cookie) = cookie {
                    registry.services.access.end_session(&cookie);
                }
                with_cookie("", false, &Session::of(&Caller::nobody()))
            },
        );
    tell.or(begin).unify().or(end).unify().boxed()
}

/// What needs a key.
pub fn guarded(registry: &Arc<Registry>) -> Route {
    warp::path!("v1" / "sign")
        .and(warp::post())
        .and(access::caller(registry))
        .and(body::json(body::PLAIN, registry))
        .and(with(registry))
        .map(|caller: Caller, body: Kept<Vec<u8>>, registry: Arc<Registry>| {
            or_error(sign(&caller, &body, &registry).map(|signed| warp::reply::json(&signed)))
        })
        .boxed()
}

/// Who calls.
#[derive(Serialize, JsonSchema)]
struct Session {
    /// Whether calls need a key.
    keyed: bool,
    /// The key's name.
    name: Option<String>,
    scopes: Vec<String>,
}

impl Session {
    fn of(caller: &Caller) -> Self {
        let scopes = caller.key().map_or(&[][..], |key| &key.scopes);
        Self {
            keyed: caller.is_keyed(),
            name: caller.key().map(|key| key.name.clone()),
            scopes: scopes.iter().map(Scope::to_string).collect(),
        }
    }
}

/// What is to be signed.
#[derive(JsonSchema)]
#[schemars(rename = "ToSign")]
#[expect(dead_code, reason = "it describes a body, of which a wrong field is told by its name")]
struct ToSign {
    /// From the server's root, such as `/v1/ws` or an output's `url`; without a query.
    path: String,
    /// How long the address is good for, at most 300.
    seconds: Option<u64>,
}

#[derive(Serialize, JsonSchema)]
struct Signed {
    /// The path with its signature; where there are no keys, the path alone, which needs none.
    url: String,
    /// The signature alone: what `token` is in the query.
    token: Option<String>,
    /// In unix seconds.
    expires: Option<u64>,
}

pub fn operations() -> Vec<Operation> {
    let session = "/v1/session";
    vec![
        Operation::get(session, "Who calls").open().answers_json::<Session>("The key's name and scopes, if one was shown."),
        Operation::post(session, "Begin a session")
            .details("Sets a cookie (HttpOnly, SameSite=Strict) that stands for the key for twelve hours. Where there are no keys, none is set.")
            .open()
            .answers_json::<Session>("It has begun.")
            .errors(&[ErrorKind::Unauthorized, ErrorKind::Internal]),
        Operation::delete(session, "End the session").open().answers_json::<Session>("It has ended."),
        Operation::post("/v1/sign", "Sign an address")
            .details("For where no header can be set: a browser's WebSocket, an `<img>`. The signature is good for this path and some seconds.")
            .takes(Content::Json(of::<ToSign>()))
            .answers_json::<Signed>("The address.")
            .errors(&[ErrorKind::InvalidInput]),
    ]
}

fn begin(caller: &Caller, secure: bool, registry: &Registry) -> Result<Response, Error> {
    if caller.is_keyed() && caller.key().is_none() {
        let error = "a key is required: 'Authorization: Bearer KEY'";
        return Err(Error::new(ErrorKind::Unauthorized, error));
    }
    let begun = registry.services.access.begin_session(caller, access::now());
    Ok(match begun.map_err(Error::internal)? {
        Some(cookie) => with_cookie(&cookie, secure, &Session::of(caller)),
        None => warp::reply::json(&Session::of(caller)).into_response(),
    })
}

fn with_cookie(value: &str, secure: bool, session: &Session) -> Response {
    let mut answer = warp::reply::json(session).into_response();
    let cookie = HeaderValue::from_str(&Sessions::set_cookie(value, secure)).expect("plain ASCII");
    answer.headers_mut().insert(header::SET_COOKIE, cookie);
    answer
}

fn sign(caller: &Caller, body: &[u8], registry: &Registry) -> Result<Signed, Error> {
    let asked = body::object(body)?;
    let path = body::text(&asked, "path")?.filter(|path| path.starts_with('/') && !path.contains(['?', '#']));
    let path = path.ok_or_else(|| Error::invalid("path: must be a path from the root, without a query"))?;
    let seconds = match asked.get("seconds").filter(|seconds| !seconds.is_null()) {
        None => SIGNED_FOR_S,
        Some(seconds) => body::integer(seconds)
            .ok_or_else(|| Error::invalid(format!("seconds: must be a whole number, got {seconds}")))?,
    };
    let signed = registry.services.access.sign(caller, path, seconds, access::now());
    Ok(match signed {
        Some((token, ends)) => {
            Signed { url: format!("{path}?token={token}"), token: Some(token), expires: Some(ends) }
        }
        None => Signed { url: path.to_owned(), token: None, expires: None },
    })
}
