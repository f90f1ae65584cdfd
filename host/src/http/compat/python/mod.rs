//! The Python server's own API: `/generate`, `/superres`, `/api/*`. Its dreams and ComfyUI jobs have files of their own.

mod api;
pub mod generate;
mod modes;
mod superres;

use std::sync::Arc;

use warp::Filter;

use super::{Layer, Route, body, core, error, with};
use crate::plugins::Registry;

pub fn layer() -> Layer {
    Layer { errors: None, routes }
}

fn routes(registry: &Arc<Registry>) -> Route {
    generate::routes(registry)
        .or(superres::routes(registry))
        .unify()
        .or(api::routes(registry))
        .unify()
        .boxed()
}
