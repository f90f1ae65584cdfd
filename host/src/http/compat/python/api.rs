//! `/api/*`: modes, models and memory, and what became of them.

use std::{path::PathBuf, sync::Arc};

use reverie_access::Caller;
use reverie_memory::Kept;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;
use warp::{Filter, path::Tail};

use super::{
    Content, Operation, Route, access, body,
    error::or_error,
    modes::{Modes, modes},
    of, with,
};
use crate::{
    dispatch,
    error::{Error, ErrorKind},
    plugins::Registry,
    status::{Gpu, Vram},
};

pub fn routes(registry: &Arc<Registry>) -> Route {
    let asked = warp::path("api").and(warp::path::tail()).and(warp::get()).and(with(registry)).then(
        |path: Tail, registry: Arc<Registry>| async move {
            or_error(read(path.as_str(), &registry).map(|answer| warp::reply::json(&answer)))
        },
    );
    let told = warp::path("api")
        .and(warp::path::tail())
        .and(warp::post())
        .and(access::caller(registry))
        .and(body::json(body::PLAIN, registry))
        .and(with(registry))
        .then(|path: Tail, caller: Caller, body: Kept<Vec<u8>>, registry: Arc<Registry>| async move {
            or_error(
                write(path.as_str(), &caller, &body, registry).await.map(|answer| warp::reply::json(&answer)),
            )
        });
    asked.or(told).unify().boxed()
}

pub fn operations() -> Vec<Operation> {
    let reload = &[ErrorKind::InvalidInput, ErrorKind::Unavailable, ErrorKind::Internal];
    let load = &[
        ErrorKind::NotFound,
        ErrorKind::InvalidInput,
        ErrorKind::TooLarge,
        ErrorKind::Unavailable,
        ErrorKind::Internal,
    ];
    let named = || Content::Json(of::<Named>());
    vec![
        Operation::get("/api/modes", "The modes").answers_json::<Modes>("All modes, by their names."),
        Operation::get("/api/models/status", "What the server can, and what it has in memory")
            .answers_json::<ModelsStatus>("As of now."),
        Operation::get("/api/vram", "Memory of models").answers_json::<Memory>("As of now."),
        Operation::post("/api/modes/switch", "Make another mode the default one")
            .takes(named())
            .answers_json::<Switched>("Switched, or it is the default one already.")
            .errors(&[ErrorKind::InvalidInput, ErrorKind::NotFound, ErrorKind::Unavailable]),
        Operation::post("/api/modes/reload", "Read modes and models again")
            .answers_json::<Reloaded<'static>>("Read again.")
            .errors(reload),
        Operation::post("/api/models/unload", "Drop models that nobody uses")
            .answers_json::<Loaded>("Dropped."),
        Operation::post("/api/models/load", "Load a mode's model")
            .takes(named())
            .answers_json::<Loaded>("It is in memory.")
            .errors(load),
        Operation::post("/api/models/reload", "Read models again, and load a mode's")
            .takes(named())
            .answers_json::<Loaded>("It is in memory.")
            .errors(load),
        Operation::post("/api/jobs/{id}/cancel", "Cancel a job")
            .path("id", of::<Uuid>(), "The job's `jobId`.")
            .answers_json::<dispatch::Cancelled>("What came of it, also for a job that had ended.")
            .errors(&[ErrorKind::NotFound]),
    ]
}

/// What is read, and what is written alone.
const READ: &[&str] = &["modes", "models/status", "vram"];
const WRITTEN: &[&str] = &["modes/switch", "modes/reload", "models/unload", "models/load", "models/reload"];

fn read(path: &str, registry: &Registry) -> Result<Value, Error> {
    match path {
        "modes" => Ok(json!(modes(registry))),
        "models/status" => Ok(json!(status(registry))),
        "vram" => Ok(json!(memory(registry))),
        _ => Err(unserved(path, WRITTEN)),
    }
}

async fn write(path: &str, caller: &Caller, body: &[u8], registry: Arc<Registry>) -> Result<Value, Error> {
    match path {
        "modes/switch" => switch(body, &registry).map(|switched| json!(switched)),
        "modes/reload" => {
            reload(registry.clone(), true).await?;
            let modes = registry.services.diffusion.modes();
            let names: Vec<&str> = modes.iter().map(|(name, _)| name).collect();
            let default_mode = modes.default_name();
            Ok(json!(Reloaded { status: "reloaded", modes_count: names.len(), modes: names, default_mode }))
        }
        "models/unload" => {
            registry.services.drop_idle();
            Ok(json!(Loaded { status: "unloaded", mode: None, models: memory(&registry).models }))
        }
        "models/load" => load(body, registry).await,
        "models/reload" => {
            reload(registry.clone(), true).await?;
            load(body, registry).await
        }
        _ => match path.strip_prefix("jobs/").and_then(|rest| rest.strip_suffix("/cancel")) {
            Some(id) => {
                let unknown = || Error::not_found(format!("no job '{id}'"));
                let id = Uuid::parse_str(id).map_err(|_| unknown())?;
                dispatch::cancelled(&registry, caller, id).await.map(|ack| json!(ack))
            }
            None => Err(unserved(path, READ)),
        },
    }
}

fn unserved(path: &str, by_another_method: &[&str]) -> Error {
    match by_another_method.contains(&path) {
        true => Error::new(ErrorKind::MethodNotAllowed, "this resource does not take that method"),
        false => Error::not_found("no such resource"),
    }
}

/// Reads the modes again; `anew`: the models too, when they are used next.
async fn reload(registry: Arc<Registry>, anew: bool) -> Result<(), Error> {
    let reloaded = tokio::task::spawn_blocking(move || registry.services.diffusion.reload(anew)).await;
    reloaded.map_err(|_| Error::internal("the modes could not be read (a fault of the server)"))?
}

/// Loads a mode's model, the default one's unless the body names another, and answers when it is in memory.
async fn load(body: &[u8], registry: Arc<Registry>) -> Result<Value, Error> {
    let body = body::object(body)?;
    let name = body::text(&body, "mode")?.unwrap_or_default().to_owned();
    let name = known(&registry, &name)?;
    let loading = (registry.clone(), name.clone());
    let loaded = tokio::task::spawn_blocking(move || {
        let services = &loading.0.services;
        services.diffusion.own_size(&services.device, &loading.1)
    });
    loaded.await.map_err(|_| Error::internal("the model failed (a fault of the server)"))??;
    Ok(json!(Loaded { status: "loaded", mode: Some(name), models: memory(&registry).models }))
}

/// A mode's name as it is; the default one's for an empty one. Unknown ones are not found.
fn known(registry: &Registry, name: &str) -> Result<String, Error> {
    let modes = registry.services.diffusion.modes();
    let found = modes.get(name).map(|(name, _)| name.to_owned());
    found.map_err(|error| match error.kind {
        ErrorKind::InvalidInput => Error::not_found(error.message),
        _ => error,
    })
}

/// A mode's name. None: the default one.
#[derive(JsonSchema)]
#[schemars(rename = "ModeName")]
#[expect(dead_code, reason = "it describes a body, of which a wrong field is told by its name")]
struct Named {
    mode: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct Loaded {
    /// `loaded` or `unloaded`.
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<String>,
    models: Vec<Model>,
}

#[derive(Serialize, JsonSchema)]
struct Reloaded<'a> {
    /// Always `reloaded`.
    status: &'static str,
    modes_count: usize,
    modes: Vec<&'a str>,
    default_mode: Option<&'a str>,
}

#[derive(Serialize, JsonSchema)]
struct Switched {
    /// `queued`, or `already_loaded` where it was the default one.
    status: &'static str,
    mode: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    from_mode: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to_mode: Option<String>,
    /// The same in words.
    message: String,
}

fn switch(body: &[u8], registry: &Registry) -> Result<Switched, Error> {
    let body = body::object(body)?;
    let name = body.get("mode").or(body.get("name")).and_then(Value::as_str).filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| Error::invalid("mode: must be the name of a mode"))?;
    let diffusion = &registry.services.diffusion;
    known(registry, name)?;
    // As /api/models/status tells it.
    let from_mode = diffusion.current();
    let mode = name.to_owned();
    if diffusion.modes().default_name() == Some(name) {
        let message = format!("'{name}' is the mode of requests that name none");
        return Ok(Switched { status: "already_loaded", mode, from_mode: None, to_mode: None, message });
    }
    diffusion.switch(name)?;
    let message = format!("requests that name no mode use '{name}' from now on");
    Ok(Switched { status: "queued", to_mode: Some(mode.clone()), mode, from_mode, message })
}

#[derive(Serialize, JsonSchema)]
struct ModelsStatus {
    #[serde(flatten)]
    memory: Memory,
    current_mode: Option<String>,
    default_mode: Option<String>,
    /// Jobs that wait.
    queue_size: usize,
    backend_version: &'static str,
    /// Whether any model is in memory.
    is_loaded: bool,
    /// Always null: modes are switched at once.
    pending_mode: Option<String>,
    capabilities: Capabilities,
}

#[derive(Serialize, JsonSchema)]
struct Capabilities {
    supports_generation: bool,
    supports_modes: bool,
    supports_superres: bool,
    supports_img2img: bool,
    supports_inpainting: bool,
    supports_controlnet: bool,
    supports_describe: bool,
    supports_comfy: bool,
    supports_dreams: bool,
}

/// What later clients of the Python server look at before they show what they can.
fn status(registry: &Registry) -> ModelsStatus {
    let diffusion = &registry.services.diffusion;
    let modes = diffusion.modes();
    let (queued, _) = registry.services.jobs.figures();
    let runs = |job_type: &str| registry.job(job_type).is_some();
    let has_modes = modes.default_name().is_some();
    let generates = has_modes && runs("generate");
    let mut memory = memory(registry);
    // Clients read its fields, with or without a GPU.
    memory.vram.get_or_insert_default();
    ModelsStatus {
        memory,
        current_mode: diffusion.current(),
        default_mode: modes.default_name().map(str::to_owned),
        queue_size: queued,
        backend_version: env!("CARGO_PKG_VERSION"),
        is_loaded: !diffusion.loaded().is_empty(),
        pending_mode: None,
        capabilities: Capabilities {
            supports_generation: generates,
            supports_modes: has_modes,
            supports_superres: runs("sr"),
            supports_img2img: generates,
            supports_inpainting: generates,
            supports_controlnet: false,
            supports_describe: false,
            supports_comfy: runs("comfy"),
            supports_dreams: registry.message("dream:start").is_some(),
        },
    }
}

/// Models in memory, and the memory of the GPU where there is one.
#[derive(Serialize, JsonSchema)]
struct Memory {
    /// The device in words.
    backend: String,
    vram: Option<Vram>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gpu: Option<Gpu>,
    models: Vec<Model>,
}

#[derive(Serialize, JsonSchema)]
struct Model {
    /// The name of its file or folder.
    model: String,
    memory_mb: u64,
}

fn memory(registry: &Registry) -> Memory {
    let diffusion = &registry.services.diffusion;
    let loaded = diffusion.loaded().into_iter();
    let name = |model: PathBuf| model.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let models = loaded.map(|(model, bytes)| Model { model: name(model), memory_mb: bytes >> 20 }).collect();
    let gpu = diffusion.gpu();
    Memory {
        backend: diffusion.backend().to_owned(),
        vram: gpu.as_ref().map(Vram::of),
        gpu: gpu.as_ref().map(Gpu::of),
        models,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_served_is_described() {
        let described = operations();
        let paths = |method: &str| -> Vec<String> {
            let of_method = described.iter().filter(|operation| operation.method == method);
            of_method.map(|operation| operation.path.clone()).collect()
        };
        let served =
            |names: &[&str]| -> Vec<String> { names.iter().map(|name| format!("/api/{name}")).collect() };
        assert_eq!(paths("get"), served(READ));
        assert_eq!(paths("post"), served(&[WRITTEN, &["jobs/{id}/cancel"]].concat()));
    }
}
