//! `/api/modes` and `/api/vram`: what pictures can be made with.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use warp::{Filter, Reply};

use super::{Route, body, error::or_error, with};
use crate::{error::Error, plugins::Registry, status};

pub fn routes(registry: &Arc<Registry>) -> Route {
    let list = warp::path!("api" / "modes")
        .and(warp::get())
        .and(with(registry))
        .map(|registry: Arc<Registry>| warp::reply::json(&modes(&registry)).into_response());
    let reload = warp::path!("api" / "modes" / "reload")
        .and(warp::post())
        .and(with(registry))
        .then(|registry: Arc<Registry>| async move { or_error(reload(registry).await) });
    let switch = warp::path!("api" / "modes" / "switch")
        .and(warp::post())
        .and(body::bytes(body::PLAIN))
        .and(with(registry))
        .map(|body: Bytes, registry: Arc<Registry>| or_error(switch(&body, &registry)));
    let vram = warp::path!("api" / "vram")
        .and(warp::get())
        .and(with(registry))
        .map(|registry: Arc<Registry>| warp::reply::json(&memory(&registry)).into_response());
    list.or(reload).unify().or(switch).unify().or(vram).unify().boxed()
}

fn modes(registry: &Registry) -> Value {
    let diffusion = &registry.services.diffusion;
    let (modes, loaded) = (diffusion.modes(), diffusion.loaded());
    let described: Map<String, Value> = modes
        .iter()
        .map(|(name, mode)| {
            let mut described = serde_json::to_value(mode).unwrap_or_default();
            let in_memory = loaded.iter().any(|(path, _)| *path == mode.model);
            if let Some(described) = described.as_object_mut() {
                described.insert("loaded".into(), in_memory.into());
            }
            (name.to_owned(), described)
        })
        .collect();
    json!({
        "modes": described,
        "default_mode": modes.default_name(),
        "current_mode": diffusion.current(),
        "loras": diffusion.loras(),
    })
}

async fn reload(registry: Arc<Registry>) -> Result<impl Reply, Error> {
    let reloading = registry.clone();
    let reloaded = tokio::task::spawn_blocking(move || reloading.services.diffusion.reload(true)).await;
    reloaded.map_err(|_| Error::internal("the modes could not be read (a fault of the server)"))??;
    Ok(warp::reply::json(&modes(&registry)))
}

fn switch(body: &[u8], registry: &Registry) -> Result<impl Reply + use<>, Error> {
    let body = body::object(body)?;
    let name = body.get("mode").or(body.get("name")).and_then(Value::as_str);
    let name = name.ok_or_else(|| Error::invalid("mode: must be the name of a mode"))?;
    registry.services.diffusion.switch(name)?;
    Ok(warp::reply::json(&json!({"status": "ok", "mode": name})))
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
