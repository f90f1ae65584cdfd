//! How resources describe themselves: each tells its operations beside its routes, with the types that it answers with.
//! `core::openapi` makes the document of them.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::error::ErrorKind;

/// Makes a type's schema.
pub type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// The schema of `T`.
pub fn of<T: JsonSchema>() -> SchemaOf {
    SchemaGenerator::subschema_for::<T>
}

/// What a body that a plugin reads is described by: a schema of its manifest.
pub enum Manifest {
    /// The parameters of a job type.
    Job(&'static str),
    /// The fields of a message type.
    Message(String),
    /// A job of any type, with its parameters.
    AnyJob,
}

/// What a request or an answer carries.
pub enum Content {
    Json(SchemaOf),
    /// JSON of this schema, or anything else as it is.
    JsonOrAny(SchemaOf),
    /// A JSON object, with the schema of a plugin as it is loaded at the moment.
    OfPlugin(Manifest),
    /// `multipart/form-data`; a field of the type [`File`] is a file.
    Form(SchemaOf),
    /// Any of these media types.
    Media(&'static [&'static str]),
}

/// A file in a form.
#[derive(JsonSchema)]
#[schemars(inline, extend("format" = "binary"))]
#[expect(dead_code, reason = "forms are read piece by piece")]
pub struct File(String);

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Path,
    Query,
    Header,
}

pub struct Parameter {
    pub name: &'static str,
    pub place: Place,
    pub description: &'static str,
    pub schema: SchemaOf,
}

pub struct Answer {
    pub description: &'static str,
    pub content: Option<Content>,
    /// Names and descriptions of headers.
    pub headers: Vec<(&'static str, &'static str)>,
}

/// A method of a path.
pub struct Operation {
    pub method: &'static str,
    /// With its parameters in braces: `/v1/jobs/{id}`.
    pub path: String,
    pub summary: String,
    pub details: Option<&'static str>,
    pub parameters: Vec<Parameter>,
    /// Whose fields are parameters of the query too, as far as they fit in there.
    pub query_of: Option<Manifest>,
    pub body: Option<Content>,
    /// By status. Errors are apart from them.
    pub answers: BTreeMap<u16, Answer>,
    pub errors: Vec<ErrorKind>,
    /// Whether it is answered without a token.
    pub open: bool,
}

impl Operation {
    fn new(method: &'static str, path: impl Into<String>, summary: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            summary: summary.into(),
            details: None,
            parameters: Vec::new(),
            query_of: None,
            body: None,
            answers: BTreeMap::new(),
            errors: Vec::new(),
            open: false,
        }
    }

    pub fn get(path: impl Into<String>, summary: impl Into<String>) -> Self {
        Self::new("get", path, summary)
    }

    pub fn post(path: impl Into<String>, summary: impl Into<String>) -> Self {
        Self::new("post", path, summary)
    }

    pub fn put(path: impl Into<String>, summary: impl Into<String>) -> Self {
        Self::new("put", path, summary)
    }

    pub fn delete(path: impl Into<String>, summary: impl Into<String>) -> Self {
        Self::new("delete", path, summary)
    }

    pub fn details(mut self, details: &'static str) -> Self {
        self.details = Some(details);
        self
    }

    /// No token is needed.
    pub fn open(mut self) -> Self {
        self.open = true;
        self
    }

    pub fn parameter(
        mut self,
        place: Place,
        name: &'static str,
        schema: SchemaOf,
        description: &'static str,
    ) -> Self {
        self.parameters.push(Parameter { name, place, description, schema });
        self
    }

    /// A parameter of the path, in braces there.
    pub fn path(self, name: &'static str, schema: SchemaOf, description: &'static str) -> Self {
        self.parameter(Place::Path, name, schema, description)
    }

    /// A parameter of the query, which may be left out.
    pub fn query(self, name: &'static str, schema: SchemaOf, description: &'static str) -> Self {
        self.parameter(Place::Query, name, schema, description)
    }

    /// The query takes the fields of what a plugin reads.
    pub fn query_of(mut self, manifest: Manifest) -> Self {
        self.query_of = Some(manifest);
        self
    }

    pub fn takes(mut self, body: Content) -> Self {
        self.body = Some(body);
        self
    }

    pub fn answers(mut self, status: u16, description: &'static str, content: Content) -> Self {
        self.answers.insert(status, Answer { description, content: Some(content), headers: Vec::new() });
        self
    }

    /// An answer without a body.
    pub fn answers_empty(mut self, status: u16, description: &'static str) -> Self {
        self.answers.insert(status, Answer { description, content: None, headers: Vec::new() });
        self
    }

    /// JSON, 200.
    pub fn answers_json<T: JsonSchema>(self, description: &'static str) -> Self {
        self.answers(200, description, Content::Json(of::<T>()))
    }

    /// Headers of all its answers so far.
    pub fn with(mut self, headers: &[(&'static str, &'static str)]) -> Self {
        for answer in self.answers.values_mut() {
            answer.headers.extend(headers);
        }
        self
    }

    /// Errors that are its own: what every request may meet is added by itself.
    pub fn errors(mut self, kinds: &[ErrorKind]) -> Self {
        self.errors.extend(kinds);
        self
    }

    /// Errors of a plugin that runs a job or handles a message, and of what it uses.
    pub fn errors_of_plugin(self) -> Self {
        self.errors(OF_PLUGIN)
    }
}

const OF_PLUGIN: &[ErrorKind] = &[
    ErrorKind::BadRequest,
    ErrorKind::InvalidInput,
    ErrorKind::NotFound,
    ErrorKind::Denied,
    ErrorKind::Cancelled,
    ErrorKind::Conflict,
    ErrorKind::TooLarge,
    ErrorKind::Busy,
    ErrorKind::Unavailable,
    ErrorKind::Timeout,
    ErrorKind::Internal,
];

/// How an API tells errors.
#[derive(Clone, Copy)]
pub struct Errors {
    /// What its schemas are called after.
    pub name: &'static str,
    pub status: fn(ErrorKind) -> u16,
    pub body: SchemaOf,
}

/// Operations that belong together.
pub struct Section {
    pub name: &'static str,
    pub description: &'static str,
    pub operations: Vec<Operation>,
    /// How their errors are told.
    pub errors: Errors,
}
