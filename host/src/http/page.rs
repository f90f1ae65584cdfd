//! `GET /`: a page to try the server with.

use warp::{Filter, Reply};

use super::Route;

const PAGE: &str = include_str!("../web/index.html");

pub fn routes() -> Route {
    warp::path::end().and(warp::get()).map(|| warp::reply::html(PAGE).into_response()).boxed()
}
