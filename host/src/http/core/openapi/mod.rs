//! `GET /openapi.json`: the description of all that the server answers, made at each request from what the resources tell of
//! themselves, the types that they answer with, and the schemas of the plugins that are loaded at that moment.

mod plugins;

use std::{collections::BTreeSet, sync::Arc};

use schemars::{
    SchemaGenerator,
    generate::{Contract, SchemaSettings},
};
use serde_json::{Map, Value, json};
use warp::{
    Filter, Reply,
    http::{Method, StatusCode},
};

use super::{
    Route,
    describe::{Content, Errors, Manifest, Operation, Place, SchemaOf, Section},
    needs, with,
};
use crate::{error::ErrorKind, plugins::Registry};
use plugins::Schemas;

/// Where schemas lie in the document.
const COMPONENTS: &str = "/components/schemas";

const DESCRIPTION: &str = "The core of the server (jobs, messages, uploads, storage), reachable for any plugin, and APIs of other \
                           servers, for their clients. Numbers and booleans may be sent as texts.";

/// `foreign`: what is described beside core.
pub fn routes(registry: &Arc<Registry>, foreign: fn() -> Vec<Section>) -> Route {
    warp::path!("openapi.json")
        .and(warp::get())
        .and(with(registry))
        .map(move |registry: Arc<Registry>| {
            let mut sections = super::sections(&registry);
            sections.extend(foreign());
            warp::reply::json(&document(&registry, &sections)).into_response()
        })
        .boxed()
}

pub fn operations() -> Vec<Operation> {
    let document = Operation::get("/openapi.json", "This document");
    vec![document.answers_json::<Map<String, Value>>("An OpenAPI 3.1 document.")]
}

fn document(registry: &Registry, sections: &[Section]) -> Value {
    let mut document = Document {
        schemas: Schemas::of(registry),
        written: generator(Contract::Serialize),
        read: generator(Contract::Deserialize),
        paths: Map::new(),
        ids: BTreeSet::new(),
        responses: Map::new(),
    };
    let tags: Vec<Value> = sections
        .iter()
        .map(|section| json!({"name": section.name, "description": section.description}))
        .collect();
    for section in sections {
        for operation in &section.operations {
            document.add(section, operation);
        }
    }
    let Document { schemas, mut written, mut read, paths, responses, .. } = document;
    let mut components = schemas.components;
    components.extend(read.take_definitions(true));
    components.extend(written.take_definitions(true));
    let mut security = vec![json!({"bearer": []}), json!({"session": []}), json!({"token": []})];
    if !registry.services.access.is_keyed() {
        security.insert(0, json!({}));
    }
    json!({
        "openapi": "3.1.0",
        "info": {"title": "Reverie", "version": env!("CARGO_PKG_VERSION"), "description": DESCRIPTION},
        "servers": [{"url": "/"}],
        "tags": tags,
        "paths": paths,
        "security": security,
        "components": {
            "schemas": components,
            "responses": responses,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "A key."},
                "session": {"type": "apiKey", "in": "cookie", "name": "reverie_session", "description": "The cookie of `POST /v1/session`."},
                "token": {"type": "apiKey", "in": "query", "name": "token", "description": "A signature by `POST /v1/sign`."},
            },
        },
    })
}

fn generator(contract: Contract) -> SchemaGenerator {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = COMPONENTS.into();
        settings.meta_schema = None;
        settings.contract = contract;
    });
    settings.into_generator()
}

struct Document {
    schemas: Schemas,
    /// For what the server writes, and for what it reads.
    written: SchemaGenerator,
    read: SchemaGenerator,
    paths: Map<String, Value>,
    ids: BTreeSet<String>,
    responses: Map<String, Value>,
}

impl Document {
    fn add(&mut self, section: &Section, operation: &Operation) {
        let mut described = json!({
            "tags": [section.name],
            "summary": operation.summary,
            "operationId": self.id(operation),
            "responses": self.answers(&section.errors, operation),
        });
        if let Some(details) = operation.details {
            described["description"] = details.into();
        }
        let parameters = self.parameters(operation);
        if !parameters.is_empty() {
            described["parameters"] = parameters.into();
        }
        if let Some(body) = &operation.body {
            let required = matches!(body, Content::Form(_));
            described["requestBody"] = json!({"required": required, "content": self.content(body, false)});
        }
        if operation.open {
            described["security"] = json!([]);
        } else {
            let method = Method::from_bytes(operation.method.to_uppercase().as_bytes()).unwrap_or_default();
            described["x-scope"] = needs::of(&method, &operation.path).accepted().into();
        }
        let path = self.paths.entry(&operation.path).or_insert_with(|| json!({}));
        path[operation.method] = described;
    }

    /// Method and path in plain letters: `get_v1_jobs_id`.
    fn id(&mut self, operation: &Operation) -> String {
        let words =
            operation.path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        let mut id: String = std::iter::once(operation.method).chain(words).collect::<Vec<_>>().join("_");
        while !self.ids.insert(id.clone()) {
            id.push('_');
        }
        id
    }

    fn parameters(&mut self, operation: &Operation) -> Vec<Value> {
        let parameters = operation.parameters.iter().map(|parameter| {
            let place = match parameter.place {
                Place::Path => "path",
                Place::Query => "query",
                Place::Header => "header",
            };
            json!({
                "name": parameter.name,
                "in": place,
                "required": parameter.place == Place::Path,
                "description": parameter.description,
                "schema": (parameter.schema)(&mut self.read),
            })
        });
        let own: Vec<Value> = parameters.collect();
        let of_plugin = operation.query_of.iter().flat_map(|manifest| self.schemas.parameters(manifest));
        own.into_iter().chain(of_plugin).collect()
    }

    fn content(&mut self, content: &Content, written: bool) -> Value {
        let generator = if written { &mut self.written } else { &mut self.read };
        match content {
            Content::Json(schema) => json!({"application/json": {"schema": schema(generator)}}),
            Content::JsonOrAny(schema) => {
                json!({"application/json": {"schema": schema(generator)}, "*/*": {}})
            }
            Content::OfPlugin(manifest) => {
                json!({"application/json": {"schema": self.schemas.reference(manifest)}})
            }
            Content::Form(schema) => json!({"multipart/form-data": {"schema": schema(generator)}}),
            Content::Media(types) => {
                types.iter().map(|media_type| (media_type.to_string(), json!({}))).collect()
            }
        }
    }

    fn answers(&mut self, errors: &Errors, operation: &Operation) -> Value {
        let mut answers = Map::new();
        for (status, answer) in &operation.answers {
            let mut described = json!({"description": answer.description});
            if let Some(content) = &answer.content {
                described["content"] = self.content(content, true);
            }
            for (name, description) in &answer.headers {
                described["headers"][*name] =
                    json!({"description": description, "schema": {"type": "string"}});
            }
            answers.insert(status.to_string(), described);
        }
        for kind in kinds(operation) {
            let status = (errors.status)(kind);
            if answers.contains_key(&status.to_string()) {
                continue;
            }
            let name = format!("{}.{status}", errors.name);
            if !self.responses.contains_key(&name) {
                let response = failure(status, errors.body, &mut self.written);
                self.responses.insert(name.clone(), response);
            }
            answers.insert(status.to_string(), json!({"$ref": format!("#/components/responses/{name}")}));
        }
        answers.into()
    }
}

/// An operation's own errors, and those that any request of its kind may meet.
fn kinds(operation: &Operation) -> Vec<ErrorKind> {
    let mut kinds = operation.errors.clone();
    // By its origin.
    kinds.push(ErrorKind::Denied);
    if !operation.open {
        // By its key's limits.
        kinds.extend([ErrorKind::Unauthorized, ErrorKind::Busy]);
    }
    if operation.body.is_some() {
        kinds.extend([ErrorKind::BadRequest, ErrorKind::TooLarge]);
    }
    if operation.query_of.is_some() || operation.parameters.iter().any(|p| p.place != Place::Path) {
        kinds.push(ErrorKind::BadRequest);
    }
    kinds
}

fn failure(status: u16, body: SchemaOf, generator: &mut SchemaGenerator) -> Value {
    let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    let mut response = json!({
        "description": reason.unwrap_or("Error"),
        "content": {"application/json": {"schema": body(generator)}},
    });
    let header = match status {
        401 => Some(("WWW-Authenticate", "Bearer.")),
        429 | 503 => Some(("Retry-After", "Seconds to wait before the next try.")),
        _ => None,
    };
    if let Some((name, description)) = header {
        response["headers"][name] = json!({"description": description, "schema": {"type": "string"}});
    }
    response
}
