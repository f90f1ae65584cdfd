//! `GET /v1/plugins`: every plugin with its version, types, schemas, source and last error.

use std::sync::Arc;

use serde_json::{Value, json};
use warp::{Filter, Reply};

use super::{Route, with};
use crate::plugins::{Registry, Report};

pub fn routes(registry: &Arc<Registry>) -> Route {
    warp::path!("v1" / "plugins")
        .and(warp::get())
        .and(with(registry))
        .then(|registry: Arc<Registry>| async move {
            let plugins: Vec<Value> = registry.reports().await.iter().map(Report::to_json).collect();
            warp::reply::json(&json!({"plugins": plugins})).into_response()
        })
        .boxed()
}
