//! Who may call: the keys' holders, and pages of this server and of the origins that the operator lists. Everything that is asked
//! passes [`site`] first, then [`gate`].

use std::{collections::HashMap, convert::Infallible, net::IpAddr, sync::Arc};

use reverie_access::{Access, Asked, Caller, Given, Need, Refusal, Site};
use reverie_net::Peer;
use warp::{
    Filter, Rejection, Reply,
    http::{HeaderMap, HeaderValue, Method, header},
    path::FullPath,
    reply::Response,
};

use super::{error::reject, needs, with};
use crate::{
    audit,
    config::Server,
    error::{Error, ErrorKind},
    jobs,
    plugins::Registry,
};

/// Headers of answers that pages of other origins may read.
const EXPOSED: &str = "x-storage-key, x-storage-created-at, x-superres, x-seed, x-mode, x-lcm-image-key, x-job-id, x-warnings, x-sr-model, \
                       x-sr-magnitude, x-sr-passes, x-sr-scale-per-pass, x-sr-format, location, retry-after";

/// Of answers that tell nothing else: nothing of them runs, and no other site shows them in a frame.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'; frame-ancestors 'self'",
);

/// Unix seconds.
pub fn now() -> u64 {
    jobs::now() as u64
}

/// The address of who asks; none where the transport has none.
pub fn address() -> impl Filter<Extract = (Option<IpAddr>,), Error = Infallible> + Copy {
    warp::ext::optional().map(|peer: Option<Peer>| peer.map(|Peer(address)| address.ip().to_canonical()))
}

/// Who asks. [`gate`] has let it through.
pub fn caller(
    registry: &Arc<Registry>,
) -> impl Filter<Extract = (Caller,), Error = Rejection> + Clone + use<> {
    shown().and(with(registry)).and_then(|shown: Shown, registry: Arc<Registry>| async move {
        shown.caller(&registry.services.access).map_err(refused)
    })
}

/// What a request shows of who makes it.
struct Shown {
    headers: HeaderMap,
    query: HashMap<String, String>,
    path: FullPath,
    address: Option<IpAddr>,
}

fn shown() -> impl Filter<Extract = (Shown,), Error = Infallible> + Clone {
    let query = warp::query::<HashMap<String, String>>()
        .or_else(|_| async { Ok::<_, Infallible>((HashMap::new(),)) });
    warp::header::headers_cloned()
        .and(query)
        .and(warp::path::full())
        .and(address())
        .map(|headers, query, path, address| Shown { headers, query, path, address })
}

impl Shown {
    fn caller(&self, access: &Access) -> Result<Caller, Refusal> {
        let text = |name| self.headers.get(name).and_then(|value| value.to_str().ok());
        let given = Given {
            authorization: text(header::AUTHORIZATION),
            query: self.query.get("token").map(String::as_str),
            cookie: text(header::COOKIE),
            path: self.path.as_str(),
            address: self.address,
        };
        access.caller(&given, now())
    }
}

/// Lets a caller through that may do what it asks for, as far as method and path tell, and writes down who changes something.
pub fn gate(registry: &Arc<Registry>) -> impl Filter<Extract = (), Error = Rejection> + Clone + use<> {
    shown()
        .and(warp::method())
        .and(with(registry))
        .and_then(|shown: Shown, method: Method, registry: Arc<Registry>| async move {
            let path = shown.path.as_str();
            let need = needs::of(&method, path);
            let reads = matches!(method, Method::GET | Method::HEAD);
            let access = &registry.services.access;
            let checked = shown.caller(access).and_then(|caller| match caller.key() {
                None if !caller.may(&need) => Err(Refusal::NoKey),
                _ => access.admit(&caller).map(|()| caller),
            });
            let caller = checked.map_err(|refusal| {
                audit::refused("-", shown.address, method.as_str(), path, &refusal.message());
                refused(refusal)
            })?;
            if !caller.may(&need) {
                let error = lacks(&caller, &need);
                audit::refused(caller.name(), shown.address, method.as_str(), path, &error.message);
                return Err(reject(error));
            }
            if !reads || need == Need::Admin {
                audit::done(&caller, shown.address, method.as_str(), path);
            }
            Ok(())
        })
        .untuple_one()
}

/// That a key does not reach so far.
pub fn lacks(caller: &Caller, need: &Need) -> Error {
    let error =
        format!("the key '{}' has none of the scopes that are needed: {}", caller.name(), need.accepted());
    Error::new(ErrorKind::Denied, error)
}

/// A refusal as an error.
pub fn error_of(refusal: &Refusal) -> Error {
    let kind = if refusal.wait().is_some() { ErrorKind::Busy } else { ErrorKind::Unauthorized };
    Error::new(kind, refusal.message())
}

fn refused(refusal: Refusal) -> Rejection {
    reject(error_of(&refusal))
}

/// Refuses pages of other sites than those allowed, and names that are none of this server's.
pub fn site(server: &Server) -> impl Filter<Extract = (), Error = Rejection> + Clone + use<> {
    let site = Arc::new(Site::new(&server.allowed_origins, &server.hosts, &server.host));
    warp::method()
        .and(warp::header::headers_cloned())
        .and(warp::host::optional())
        .and_then(move |method: Method, headers: HeaderMap, authority: Option<warp::host::Authority>| {
            // What can't be read as text is still there, and nobody's.
            let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
            let asked = Asked {
                changes: !matches!(method, Method::GET | Method::HEAD | Method::OPTIONS),
                host: text(header::HOST.as_str()).or(authority.as_ref().map(|authority| authority.as_str())),
                origin: text(header::ORIGIN.as_str()),
                fetch_site: text("sec-fetch-site"),
                content_type: text(header::CONTENT_TYPE.as_str()),
                user_agent: text(header::USER_AGENT.as_str()),
            };
            let checked = site.check(asked);
            async move { checked.map_err(|denied| reject(Error::new(ErrorKind::Denied, denied.message()))) }
        })
        .untuple_one()
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

/// Says what browsers may do with an answer, unless it says so itself.
pub fn secured(mut answer: Response) -> Response {
    let headers = answer.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        // Addresses may hold signatures.
        (header::REFERRER_POLICY, HeaderValue::from_static("same-origin")),
        (header::CONTENT_SECURITY_POLICY, POLICY),
    ] {
        headers.entry(name).or_insert(value);
    }
    answer
}
