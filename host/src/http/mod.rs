//! The HTTP side: `core` knows no plugin, `compat` translates foreign APIs to it. Every error leaves as the JSON body that
//! `error` makes, or in the shape of the foreign API whose path it is.

mod access;
mod body;
mod compat;
mod conditional;
mod core;
mod describe;
mod error;
mod multipart;
mod needs;
mod service;
mod websocket;

pub use access::{error_of, lacks};

use std::sync::Arc;

pub use service::service;
use warp::{Filter, Reply, filters::BoxedFilter, reply::Response};

use crate::plugins::Registry;

/// One resource.
type Route = BoxedFilter<(Response,)>;

/// Everything the server answers.
fn routes(registry: &Arc<Registry>) -> Route {
    let server = &registry.services.config.server;
    let guarded = core::routes(registry, compat::describe).or(compat::routes(registry)).unify();
    let guarded = access::gate(registry).and(guarded);
    let answered = core::open(registry).or(guarded).unify().recover(error::recover).unify();
    let shared =
        warp::header::optional("origin").and(access::preflight().or(answered).unify()).map(access::share);
    // Once more, for the origins that are refused.
    let all = access::site(server).and(shared).recover(error::recover).unify();
    let hiding = registry.clone();
    let all = all.map(move |answer: Response| error::hiding(&hiding.services.hidden, answer));
    let all = warp::path::full().and(all).map(compat::shaped).map(access::secured);
    all.with(warp::trace::request()).map(Reply::into_response).boxed()
}

/// Hands a shared value to a handler.
fn with<T: Clone + Send + Sync>(
    value: &T,
) -> impl Filter<Extract = (T,), Error = std::convert::Infallible> + Clone + use<T> {
    let value = value.clone();
    warp::any().map(move || value.clone())
}
