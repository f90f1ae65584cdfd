//! The HTTP side: one file for each resource, composed here. Every error leaves as the JSON body that `error` makes.

mod a1111;
mod access;
mod ask;
mod body;
mod comfy;
mod dream;
mod error;
mod generate;
mod health;
mod metrics;
mod modes;
mod openai;
mod page;
mod plugins;
mod run;
mod storage;
mod superres;
mod uploads;
mod ws;

use std::sync::Arc;

use warp::{Filter, Reply, filters::BoxedFilter, reply::Response};

use crate::plugins::Registry;

/// One resource.
type Route = BoxedFilter<(Response,)>;

/// Everything the server answers.
pub fn routes(registry: &Arc<Registry>) -> Route {
    let open = page::routes().or(health::routes()).unify();
    let guarded = ws::routes(registry)
        .or(uploads::routes(registry))
        .unify()
        .or(superres::routes(registry))
        .unify()
        .or(generate::routes(registry))
        .unify()
        .or(dream::routes(registry))
        .unify()
        .or(comfy::routes(registry))
        .unify()
        .or(openai::routes(registry))
        .unify()
        .or(a1111::routes(registry))
        .unify()
        .or(modes::routes(registry))
        .unify()
        .or(storage::routes(registry))
        .unify()
        .or(plugins::routes(registry))
        .unify()
        .or(metrics::routes(registry))
        .unify();
    let server = &registry.services.config.server;
    let guarded = access::token(&server.auth_token).and(guarded);
    let answered = open.or(guarded).unify().recover(error::recover).unify().boxed();
    let shared = answered.clone().with(access::cors(&server.allowed_origins)).map(Reply::into_response);
    let all = access::origin(&server.allowed_origins).and(access::own().and(answered).or(shared).unify());
    // Once more, for the origins and preflights that are refused.
    let all = all.recover(error::recover).unify();
    let all = warp::path::full().and(all).map(openai::shaped);
    all.with(warp::trace::request()).map(Reply::into_response).boxed()
}

/// Hands a shared value to a handler.
fn with<T: Clone + Send + Sync>(
    value: &T,
) -> impl Filter<Extract = (T,), Error = std::convert::Infallible> + Clone + use<T> {
    let value = value.clone();
    warp::any().map(move || value.clone())
}
