//! `/api/*`: modes, models and memory, and what became of them.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};
use uuid::Uuid;
use warp::{Filter, path::Tail};

use super::{Route, body, error::or_error, modes::modes, with};
use crate::{
    dispatch,
    error::{Error, ErrorKind},
    plugins::Registry,
    status,
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
        .and(body::bytes(body::PLAIN))
        .and(with(registry))
        .then(|path: Tail, body: Bytes, registry: Arc<Registry>| async move {
            or_error(write(path.as_str(), &body, registry).await.map(|answer| warp::reply::json(&answer)))
        });
    asked.or(told).unify().boxed()
}

/// What is read, and what is written alone.
const READ: &[&str] = &["modes", "models/status", "vram"];
const WRITTEN: &[&str] = &["modes/switch", "modes/reload", "models/unload", "models/load", "models/reload"];

fn read(path: &str, registry: &Registry) -> Result<Value, Error> {
    match path {
        "modes" => Ok(modes(registry)),
        "models/status" => Ok(status(registry)),
        "vram" => Ok(memory(registry)),
        _ => Err(unserved(path, WRITTEN)),
    }
}

async fn write(path: &str, body: &[u8], registry: Arc<Registry>) -> Result<Value, Error> {
    match path {
        "modes/switch" => switch(body, &registry),
        "modes/reload" => {
            reload(registry.clone(), true).await?;
            let modes = registry.services.diffusion.modes();
            let names: Vec<&str> = modes.iter().map(|(name, _)| name).collect();
            Ok(json!({
                "status": "reloaded",
                "modes_count": names.len(),
                "modes": names,
                "default_mode": modes.default_name(),
            }))
        }
        "models/unload" => {
            registry.services.drop_idle();
            Ok(json!({"status": "unloaded", "models": memory(&registry)["models"]}))
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
                dispatch::cancelled(&registry, id)
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
    Ok(json!({"status": "loaded", "mode": name, "models": memory(&registry)["models"]}))
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

fn switch(body: &[u8], registry: &Registry) -> Result<Value, Error> {
    let body = body::object(body)?;
    let name = body.get("mode").or(body.get("name")).and_then(Value::as_str);
    let name = name.ok_or_else(|| Error::invalid("mode: must be the name of a mode"))?;
    let diffusion = &registry.services.diffusion;
    known(registry, name)?;
    let from = diffusion.modes().default_name().map(str::to_owned);
    if from.as_deref() == Some(name) {
        let message = format!("'{name}' is the mode of requests that name none");
        return Ok(json!({"status": "already_loaded", "mode": name, "message": message}));
    }
    diffusion.switch(name)?;
    let message = format!("requests that name no mode use '{name}' from now on");
    Ok(json!({"status": "queued", "from_mode": from, "to_mode": name, "mode": name, "message": message}))
}

/// What later clients of the Python server look at before they show what they can.
fn status(registry: &Registry) -> Value {
    let diffusion = &registry.services.diffusion;
    let modes = diffusion.modes();
    let (queued, _) = registry.services.jobs.figures();
    let runs = |job_type: &str| registry.job(job_type).is_some();
    let has_modes = modes.default_name().is_some();
    let generates = has_modes && runs("generate");
    let mut status = memory(registry);
    if status["vram"].is_null() {
        // Clients read its fields, with or without a GPU.
        status["vram"] = json!({"free_mb": 0, "total_mb": 0});
    }
    status["current_mode"] = diffusion.current().into();
    status["default_mode"] = modes.default_name().into();
    status["queue_size"] = queued.into();
    status["backend_version"] = env!("CARGO_PKG_VERSION").into();
    status["is_loaded"] = (!diffusion.loaded().is_empty()).into();
    status["pending_mode"] = Value::Null;
    status["capabilities"] = json!({
        "supports_generation": generates,
        "supports_modes": has_modes,
        "supports_superres": runs("sr"),
        "supports_img2img": generates,
        "supports_inpainting": generates,
        "supports_controlnet": false,
        "supports_describe": false,
        "supports_comfy": runs("comfy"),
        "supports_dreams": registry.message("dream:start").is_some(),
    });
    status
}

fn memory(registry: &Registry) -> Value {
    let loaded = registry.services.diffusion.loaded().into_iter();
    let models: Vec<Value> =
        loaded.map(|(path, bytes)| json!({"model": path, "memory_mb": bytes >> 20})).collect();
    let diffusion = &registry.services.diffusion;
    let mut answer = json!({"backend": diffusion.backend(), "vram": null, "models": models});
    if let (Some(gpu), Some(answer)) = (diffusion.gpu(), answer.as_object_mut()) {
        answer.extend(status::figures(&gpu));
    }
    answer
}
