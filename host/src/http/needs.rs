//! What each resource needs of a caller: the one table. What is not in it needs an operator's key.

use reverie_access::Need;
use warp::http::Method;

/// What a call needs. Handlers look further into what depends on a body: the type of a job or message, and whose job it is.
pub fn of(method: &Method, path: &str) -> Need {
    let path = path.trim_matches('/');
    let segments: Vec<&str> = if path.is_empty() { Vec::new() } else { path.split('/').collect() };
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let kind = |kind: &str| Need::Type(kind.to_owned());
    match (method.as_str(), &*segments) {
        (_, [] | ["ui"] | ["docs", ..] | ["health"]) if reads => Need::Open,
        ("GET" | "POST" | "DELETE", ["v1", "session"]) => Need::Open,
        ("POST", ["v1", "sign"]) => Need::Read,
        (_, ["openapi.json"]) if reads => Need::Read,
        (_, ["v1", "ws"]) if reads => Need::Read,
        ("POST", ["v1", "jobs"]) => Need::Any,
        (_, ["v1", "jobs", _] | ["v1", "jobs", _, "events"]) if reads => Need::Read,
        ("DELETE", ["v1", "jobs", _] | ["v1", "jobs", _, "record"]) => Need::Any,
        ("POST", ["v1", "messages", _]) => Need::Any,
        ("POST", ["v1", "upload"]) => Need::Any,
        (_, ["storage", ..]) if reads => Need::Read,
        ("PUT", ["storage", ..]) => Need::Any,
        ("POST", ["generate"] | ["v1", "images", "generations" | "edits"]) => kind("generate"),
        ("POST", ["superres"] | ["v1", "superres"]) => kind("sr"),
        ("POST", ["v1", "comfy", "jobs"]) => kind("comfy"),
        ("DELETE", ["v1", "comfy", "jobs", _]) => Need::Any,
        (_, ["v1", "comfy", ..]) if reads => Need::Read,
        (_, ["dream" | "dreams", _]) if reads => Need::Read,
        ("POST", ["dream" | "dreams", action]) => kind(&format!("dream:{action}")),
        (_, ["api", "modes"] | ["api", "models", "status"] | ["api", "vram"]) if reads => Need::Read,
        ("POST", ["api", "jobs", _, "cancel"]) => Need::Any,
        (_, ["sdapi", "v1", _]) if reads => Need::Read,
        ("POST", ["sdapi", "v1", "txt2img" | "img2img"]) => kind("generate"),
        ("POST", ["sdapi", "v1", "interrupt" | "skip"]) => Need::Any,
        _ => Need::Admin,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_listed_is_the_operators() {
        for (method, path, need) in [
            (Method::GET, "/", Need::Open),
            (Method::GET, "/ui/", Need::Open),
            (Method::POST, "/ui/", Need::Admin),
            (Method::GET, "/metrics", Need::Admin),
            (Method::GET, "/v1/plugins", Need::Admin),
            (Method::POST, "/api/modes/switch", Need::Admin),
            (Method::GET, "/api/anything", Need::Admin),
            (Method::POST, "/sdapi/v1/options", Need::Admin),
            (Method::GET, "/sdapi/v1/options", Need::Read),
            (Method::PUT, "/storage/a/b/c", Need::Any),
            (Method::DELETE, "/storage/a", Need::Admin),
            (Method::POST, "/dreams/start", Need::Type("dream:start".into())),
            (Method::GET, "/nowhere", Need::Admin),
        ] {
            assert_eq!(of(&method, path), need, "{method} {path}");
        }
    }
}
