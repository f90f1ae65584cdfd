//! Foreign APIs, each a translation to `core`: their paths, fields, shapes and errors are theirs, the jobs and messages behind
//! them the same as everyone's. Another one is a file here and a line in [`layers`].

mod a1111;
mod comfy;
mod dreams;
mod openai;
mod python;

use std::sync::Arc;

use warp::{Filter, path::FullPath, reply::Response};

use super::{Route, body, core, error, with};
use crate::{error::Error, plugins::Registry};

/// A foreign API.
struct Layer {
    /// Where its errors have another shape than core's.
    errors: Option<Errors>,
    routes: fn(&Arc<Registry>) -> Route,
}

/// How an API tells errors, wherever they come from.
struct Errors {
    /// What its paths begin with.
    prefix: &'static str,
    /// Turns an answer of core's shape into its own.
    shape: fn(&Error, &mut Response),
}

fn layers() -> [Layer; 5] {
    [python::layer(), dreams::layer(), comfy::layer(), openai::layer(), a1111::layer()]
}

pub fn routes(registry: &Arc<Registry>) -> Route {
    let all = layers().map(|layer| (layer.routes)(registry));
    let [first, rest @ ..] = all;
    rest.into_iter().fold(first, |all, layer| all.or(layer).unify().boxed())
}

/// Errors from wherever they come, in the shape of the API whose path it is. Other answers stay.
pub fn shaped(path: FullPath, mut answer: Response) -> Response {
    let Some(error) = answer.extensions_mut().remove::<Error>() else { return answer };
    let mut shapes = layers().into_iter().filter_map(|layer| layer.errors);
    if let Some(errors) = shapes.find(|errors| path.as_str().starts_with(errors.prefix)) {
        (errors.shape)(&error, &mut answer);
    }
    answer
}
