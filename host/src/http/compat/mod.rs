//! Foreign APIs, each a translation to `core`: their paths, fields, shapes and errors are theirs, the jobs and messages behind
//! them the same as everyone's. Another one is a file here and a line in [`layers`].

mod a1111;
mod comfy;
mod dreams;
mod openai;
mod python;

use std::sync::Arc;

use warp::{Filter, path::FullPath, reply::Response};

use super::{
    Route, access, body, core, describe,
    describe::{Content, File, Manifest, Operation, Section, of},
    error, multipart, with,
};
use crate::{error::Error, plugins::Registry};

/// A foreign API.
struct Layer {
    /// What it is called in the document, and what it is.
    name: &'static str,
    description: &'static str,
    operations: fn() -> Vec<Operation>,
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
    /// The same for the document.
    described: describe::Errors,
}

fn layers() -> [Layer; 5] {
    [python::layer(), dreams::layer(), comfy::layer(), openai::layer(), a1111::layer()]
}

pub fn routes(registry: &Arc<Registry>) -> Route {
    let all = layers().map(|layer| (layer.routes)(registry));
    let [first, rest @ ..] = all;
    rest.into_iter().fold(first, |all, layer| all.or(layer).unify().boxed())
}

/// What the document tells of them.
pub fn describe() -> Vec<Section> {
    let section = |Layer { name, description, operations, errors, .. }: Layer| Section {
        name,
        description,
        operations: operations(),
        errors: errors.map_or(error::DESCRIBED, |errors| errors.described),
    };
    layers().map(section).into()
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
