//! The Python server's own API: `/generate`, `/superres`, `/api/*`. Its dreams and ComfyUI jobs have files of their own.

mod api;
pub mod generate;
mod modes;
mod superres;

use std::sync::Arc;

use warp::Filter;

use super::{
    Content, File, Layer, Manifest, Operation, Route, access, body, core, error, multipart, of, with,
};
use crate::plugins::Registry;

pub fn layer() -> Layer {
    Layer {
        name: "Python server",
        description: "The API of the server that Reverie takes over from.",
        operations: || {
            [generate::operations(), superres::operations(), api::operations()]
                .into_iter()
                .flatten()
                .collect()
        },
        errors: None,
        routes,
    }
}

fn routes(registry: &Arc<Registry>) -> Route {
    generate::routes(registry)
        .or(superres::routes(registry))
        .unify()
        .or(api::routes(registry))
        .unify()
        .boxed()
}
