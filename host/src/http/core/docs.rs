//! `GET /docs`: a page that shows `/openapi.json`. It asks for it with the token of its own address, `?token=TOKEN`.

use warp::{
    Filter, Reply,
    http::{HeaderValue, header},
};

use super::{Content, Operation, Route};

/// The page's files: where they are served, of what media type, and what is in them.
const FILES: [(&str, &str, &str); 3] = [
    ("index.html", "text/html; charset=utf-8", include_str!("../../web/docs/index.html")),
    ("script.js", "text/javascript; charset=utf-8", include_str!("../../web/docs/script.js")),
    ("style.css", "text/css; charset=utf-8", include_str!("../../web/docs/style.css")),
];

/// Nothing of another server, and no script but the page's own.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob: data:; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
);

pub fn routes() -> Route {
    let [page, files @ ..] = FILES.map(|(_, media_type, content)| {
        warp::get()
            .map(move || {
                let mut answer =
                    warp::reply::with_header(content, header::CONTENT_TYPE, media_type).into_response();
                let headers = answer.headers_mut();
                headers.insert(header::CONTENT_SECURITY_POLICY, POLICY);
                headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
                // Its address may hold the token.
                headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
                headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
                answer
            })
            .boxed()
    });
    let page = warp::path!("docs").and(page).boxed();
    let names = FILES.map(|(name, ..)| name);
    files.into_iter().zip(&names[1..]).fold(page, |all, (file, name)| {
        let file = warp::path("docs").and(warp::path(*name)).and(warp::path::end()).and(file);
        all.or(file).unify().boxed()
    })
}

pub fn operations() -> Vec<Operation> {
    let media = |types| Content::Media(types);
    let get = |path: &str, summary: &str| Operation::get(path, summary).open();
    vec![
        get("/docs", "This document as a page").answers(200, "The page.", media(&["text/html"])),
        get("/docs/script.js", "The page's script").answers(200, "The script.", media(&["text/javascript"])),
        get("/docs/style.css", "The page's style").answers(200, "The style.", media(&["text/css"])),
    ]
}
