//! The page to try the server with, at `/ui/`, and at `/` too unless the operator serves a front end of their own from the
//! folder `server.ui_dir`: there every path that is no resource's is a file of that folder, or its `index.html`.

use std::{fs::Metadata, path::Path, time::UNIX_EPOCH};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use sha2::{Digest, Sha256};
use warp::{
    Filter, Rejection, Reply,
    fs::File,
    http::{HeaderValue, StatusCode, header},
    path::FullPath,
    reply::Response,
};

use super::{Content, Operation, Route};

const PAGE: &str = include_str!("../../web/index.html");

/// First segments of paths that are resources': none of them is ever a file of the front end.
const RESOURCES: &[&str] = &["generate", "superres", "health", "metrics", "openapi.json", "docs", "ui"];
/// The same of those that are resources' with something behind them.
const FOLDERS: &[&str] = &["v1", "api", "sdapi", "storage", "dream", "dreams"];

/// How long a browser may keep a file whose name changes with its content.
const IMMUTABLE: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
/// A browser asks each time whether it is still the same.
const REVALIDATED: HeaderValue = HeaderValue::from_static("no-cache");

pub fn routes(ui_dir: &Path) -> Route {
    let policy = policy();
    let page = || {
        let policy = policy.clone();
        warp::get().map(move || {
            let mut answer = warp::reply::html(PAGE).into_response();
            answer.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy.clone());
            answer
        })
    };
    let own = warp::path!("ui").and(page());
    if ui_dir.as_os_str().is_empty() {
        return own.or(warp::path::end().and(page())).unify().boxed();
    }
    own.or(front_end(ui_dir)).unify().boxed()
}

/// No script but the page's own, which stands in it, and nothing of another server.
fn policy() -> HeaderValue {
    let script = PAGE.split_once("<script>").and_then(|(_, rest)| rest.split_once("</script>"));
    let hash = BASE64_STANDARD.encode(Sha256::digest(script.map_or("", |(script, _)| script)));
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{hash}'; style-src 'unsafe-inline'; connect-src 'self'; img-src 'self' blob: \
         data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    );
    HeaderValue::from_str(&policy).expect("plain ASCII")
}

pub fn operations() -> Vec<Operation> {
    let page =
        |operation: Operation| operation.open().answers(200, "The page.", Content::Media(&["text/html"]));
    vec![
        page(Operation::get("/", "The operator's front end, or else the page to try the server with")),
        page(Operation::get("/ui/", "The page to try the server with")),
    ]
}

fn front_end(dir: &Path) -> Route {
    let not_modified = warp::header::optional::<String>("if-none-match");
    let file = is_own_file(dir).and(not_modified).and(warp::fs::dir(dir.to_owned())).map(tagged);
    let index = warp::get()
        .or(warp::head())
        .unify()
        .and(is_page())
        .and(not_modified)
        .and(warp::fs::file(dir.join("index.html")))
        .map(tagged);
    is_no_resource().and(file.or(index).unify()).boxed()
}

fn is_no_resource() -> impl Filter<Extract = (), Error = Rejection> + Clone {
    path_that(|path| {
        let (first, rest) =
            path.trim_start_matches('/').split_once('/').unwrap_or((path.trim_start_matches('/'), ""));
        // A front end may have a page of the name of a resource's folder.
        let is_resource = RESOURCES.contains(&first) || FOLDERS.contains(&first) && !rest.is_empty();
        // Hidden files are nobody's business.
        !is_resource && !path.split('/').any(|segment| segment.starts_with('.'))
    })
}

/// Whether a path is that of a file, or of a folder with one, that truly lies in the folder: no link leads out of it, and nothing
/// else than a file is opened.
fn is_own_file(dir: &Path) -> impl Filter<Extract = (), Error = Rejection> + Clone + use<> {
    let dir = dir.to_owned();
    warp::path::full()
        .and_then(move |path: FullPath| {
            let own = is_own(&dir, &decoded(path.as_str()));
            async move { if own { Ok(()) } else { Err(warp::reject::not_found()) } }
        })
        .untuple_one()
}

fn is_own(dir: &Path, path: &str) -> bool {
    let within = || {
        let mut file = dir.join(path.trim_start_matches('/'));
        if file.is_dir() {
            file.push("index.html");
        }
        let (dir, file) = (dir.canonicalize().ok()?, file.canonicalize().ok()?);
        Some(file.starts_with(dir) && file.is_file())
    };
    within().unwrap_or(false)
}

/// A path without percent escapes, as files are looked for.
fn decoded(path: &str) -> String {
    percent_encoding::percent_decode_str(path).decode_utf8_lossy().into_owned()
}

/// Whether a path is one of a single-page application, and not a file that is missing.
fn is_page() -> impl Filter<Extract = (), Error = Rejection> + Clone {
    path_that(|path| !path.rsplit('/').next().unwrap_or_default().contains('.'))
}

fn path_that(fits: fn(&str) -> bool) -> impl Filter<Extract = (), Error = Rejection> + Clone {
    warp::path::full()
        .and_then(move |path: FullPath| async move {
            if fits(&decoded(path.as_str())) { Ok(()) } else { Err(warp::reject::not_found()) }
        })
        .untuple_one()
}

/// The file with what caches need to know of it. Ranges are warp's.
fn tagged(known: Option<String>, file: File) -> Response {
    let path = file.path().to_owned();
    let tag = std::fs::metadata(&path).ok().as_ref().map(tag);
    let mut answer = match &tag {
        Some(tag) if known.as_deref().is_some_and(|known| matches(known, tag)) => {
            StatusCode::NOT_MODIFIED.into_response()
        }
        _ => file.into_response(),
    };
    let headers = answer.headers_mut();
    if let Some(tag) = tag.and_then(|tag| HeaderValue::from_str(&tag).ok()) {
        headers.insert(header::ETAG, tag);
    }
    headers.insert(header::CACHE_CONTROL, if is_hashed(&path) { IMMUTABLE } else { REVALIDATED });
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // What the operator's page loads is its own business.
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("frame-ancestors 'self'"));
    answer
}

/// Of length and time of the last change.
fn tag(metadata: &Metadata) -> String {
    let changed = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    format!("W/\"{:x}-{:x}\"", metadata.len(), changed.unwrap_or_default().as_nanos())
}

/// Whether `If-None-Match` names the tag (RFC 9110: by weak comparison).
fn matches(known: &str, tag: &str) -> bool {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    known.trim() == "*" || known.split(',').any(|one| opaque(one) == opaque(tag))
}

/// Whether a name has a hash of the content in it, as those that bundlers write: `index-BfK3x9aQ.js`, `app.3f9c1b2a.css`.
fn is_hashed(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let Some((stem, _)) = name.rsplit_once('.') else { return false };
    let Some((_, last)) = stem.rsplit_once(['-', '.']) else { return false };
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    last.len() >= 8
        && last.chars().all(plain)
        && last.chars().any(|c| c.is_ascii_digit())
        // A date is no hash.
        && last.chars().any(|c| c.is_ascii_alphabetic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_the_folder_are_served() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(dir.path().join("a.js"), "a").unwrap();
        std::fs::write(outside.path().join("secret"), "b").unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink(outside.path(), dir.path().join("link")).unwrap();
        assert!(is_own(dir.path(), "/a.js"));
        for path in ["/", "/b.js", "/link/secret", "/../secret", "/a.js/x"] {
            assert!(!is_own(dir.path(), path), "{path}");
        }
        assert_eq!(decoded("/%2eenv"), "/.env");
    }

    #[test]
    fn hashed_names_are_told_from_plain_ones() {
        for (name, hashed) in [
            ("index-BfK3x9aQ.js", true),
            ("app.3f9c1b2a.css", true),
            ("index.html", false),
            ("apple-touch-icon.png", false),
            ("logo.svg", false),
            ("photo-20240101.png", false),
            ("LICENSE", false),
        ] {
            assert_eq!(is_hashed(Path::new(name)), hashed, "{name}");
        }
        assert!(matches("\"a\", W/\"b\"", "W/\"b\"") && matches("*", "x") && !matches("\"c\"", "W/\"b\""));
    }
}
