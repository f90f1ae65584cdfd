//! AUTOMATIC1111's web UI API, `/sdapi/v1/…`, as its clients use it.

use std::sync::Arc;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use image::DynamicImage;
use reverie_models::schedulers;
use serde_json::{Map, Value, json};
use warp::{Filter, Reply, reply::Response};

use super::{Layer, Route, body, error::or_error, openai::several, python::generate::text, with};
use crate::{
    error::{Error, ErrorKind},
    jobs::Status,
    pictures::{self, Encoding, Format},
    plugins::Registry,
};

/// Under which name jobs of this API are listed, for its `progress` and `interrupt`.
const OWNER: &str = "sdapi";
/// Pictures of one request: `batch_size` times `n_iter`.
const MAX_PICTURES: u64 = 32;

/// What is read alone, and what is written alone.
const READ: &[&str] = &["sd-models", "samplers", "schedulers", "loras", "upscalers", "progress"];
const WRITTEN: &[&str] = &["txt2img", "img2img", "interrupt", "skip", "refresh-checkpoints", "refresh-loras"];

pub fn layer() -> Layer {
    Layer { errors: None, routes }
}

fn routes(registry: &Arc<Registry>) -> Route {
    let base = warp::path("sdapi").and(warp::path("v1"));
    let get = base
        .and(warp::path::param::<String>())
        .and(warp::path::end())
        .and(warp::get())
        .and(with(registry))
        .map(|what: String, registry: Arc<Registry>| or_error(read(&what, &registry)));
    let post = base
        .and(warp::path::param::<String>())
        .and(warp::path::end())
        .and(warp::post())
        .and(body::bytes(body::WITH_PICTURES))
        .and(with(registry))
        .then(|what: String, body: Bytes, registry: Arc<Registry>| async move {
            or_error(write(&what, &body, &registry).await)
        });
    get.or(post).unify().boxed()
}

fn read(what: &str, registry: &Registry) -> Result<Response, Error> {
    let diffusion = &registry.services.diffusion;
    let answer = match what {
        "sd-models" => {
            let modes = diffusion.modes();
            let models = modes.iter().map(|(name, mode)| {
                json!({"title": name, "model_name": name, "hash": null, "sha256": null, "filename": mode.model, "config": null})
            });
            models.collect()
        }
        "samplers" => {
            let names = schedulers::sampler_names();
            names.map(|(name, aliases)| json!({"name": name, "aliases": aliases, "options": {}})).collect()
        }
        "schedulers" => {
            let names = schedulers::schedule_type_names();
            names.map(|(name, label)| json!({"name": name, "label": label, "aliases": null})).collect()
        }
        "loras" => {
            let loras = diffusion.loras().into_iter();
            loras.map(|name| json!({"name": name, "alias": name, "path": format!("{name}.safetensors"), "metadata": {}})).collect()
        }
        "upscalers" => {
            let networks = registry.services.upscalers.list().into_iter();
            networks.map(|n| json!({"name": n.name, "model_name": n.name, "model_path": null, "model_url": null, "scale": n.scales.last()})).collect()
        }
        "options" => json!({
            "sd_model_checkpoint": diffusion.modes().default_name(),
            "CLIP_stop_at_last_layers": 1,
            "samples_format": "png",
        }),
        "progress" => progress(registry),
        "scripts" => json!({"txt2img": [], "img2img": []}),
        "cmd-flags" | "embeddings" => json!({}),
        "sd-vae" | "hypernetworks" | "face-restorers" | "prompt-styles" | "script-info" => json!([]),
        "memory" => json!({"ram": {}, "cuda": {}}),
        _ if WRITTEN.contains(&what) => return Err(by_another_method()),
        _ => return Err(Error::not_found(format!("/sdapi/v1/{what} is not served"))),
    };
    Ok(warp::reply::json(&answer).into_response())
}

async fn write(what: &str, body: &[u8], registry: &Arc<Registry>) -> Result<Response, Error> {
    let diffusion = &registry.services.diffusion;
    let answer = match what {
        "txt2img" | "img2img" => pictures(what == "img2img", &body::object(body)?, registry).await?,
        "options" => {
            if let Some(model) = body::text(&body::object(body)?, "sd_model_checkpoint")? {
                diffusion.switch(model)?;
            }
            json!(null)
        }
        "interrupt" | "skip" => {
            let jobs = &registry.services.jobs;
            for job in jobs.list(Some(OWNER)).iter().filter(|job| job.status.is_active()) {
                let _ = jobs.cancel(job.id);
            }
            json!({})
        }
        "refresh-checkpoints" | "refresh-loras" => {
            let registry = registry.clone();
            let reloaded =
                tokio::task::spawn_blocking(move || registry.services.diffusion.reload(false)).await;
            reloaded
                .map_err(|_| Error::internal("the modes could not be read (a fault of the server)"))??;
            json!(null)
        }
        _ if READ.contains(&what) => return Err(by_another_method()),
        _ => return Err(Error::not_found(format!("POST /sdapi/v1/{what} is not served"))),
    };
    Ok(warp::reply::json(&answer).into_response())
}

async fn pictures(
    from_picture: bool,
    asked: &Map<String, Value>,
    registry: &Arc<Registry>,
) -> Result<Value, Error> {
    let count = |name: &str| match asked.get(name) {
        None | Some(Value::Null) => Ok(1),
        Some(value) => body::integer(value)
            .filter(|n| *n > 0)
            .ok_or_else(|| Error::invalid(format!("{name}: must be an integer from 1 on"))),
    };
    let total = count("batch_size")?.saturating_mul(count("n_iter")?);
    if total > MAX_PICTURES {
        return Err(Error::invalid(format!(
            "batch_size times n_iter: at most {MAX_PICTURES} pictures, got {total}"
        )));
    }
    let params = params(from_picture, asked, registry).await?;
    let made = several(registry, &params, total, Some(OWNER)).await?;
    let images: Vec<String> = made.iter().map(|done| BASE64_STANDARD.encode(&done.content)).collect();
    let metas: Vec<&Map<String, Value>> = made.iter().map(|done| &done.job.meta).collect();
    let all = |key: &str| -> Vec<Value> {
        metas.iter().map(|meta| meta.get(key).cloned().unwrap_or_default()).collect()
    };
    let first = metas.first().copied();
    let of_first = |key: &str| first.and_then(|meta| meta.get(key)).cloned().unwrap_or_default();
    let prompt = asked.get("prompt").cloned().unwrap_or_else(|| "".into());
    let info = json!({
        "prompt": prompt,
        "all_prompts": vec![prompt.clone(); made.len()],
        "negative_prompt": asked.get("negative_prompt").cloned().unwrap_or_else(|| "".into()),
        "seed": of_first("seed"),
        "all_seeds": all("seed"),
        "width": of_first("width"),
        "height": of_first("height"),
        "sampler_name": of_first("scheduler"),
        "cfg_scale": of_first("guidance_scale"),
        "steps": of_first("num_inference_steps"),
        "batch_size": count("batch_size")?,
        "sd_model_name": first.map(|meta| text(meta, "model")),
        "infotexts": all("parameters"),
    });
    Ok(json!({"images": images, "parameters": asked, "info": info.to_string()}))
}

/// The job's parameters. What this API has beyond them is left out, as its clients send all fields always.
async fn params(
    from_picture: bool,
    asked: &Map<String, Value>,
    registry: &Arc<Registry>,
) -> Result<Map<String, Value>, Error> {
    let mut params = Map::new();
    params.insert("prompt".into(), asked.get("prompt").cloned().unwrap_or_else(|| "".into()));
    let copied = [
        ("negative_prompt", "negative_prompt"),
        ("steps", "num_inference_steps"),
        ("cfg_scale", "guidance_scale"),
        ("superres", "superres"),
        ("superres_magnitude", "superres_magnitude"),
    ];
    for (theirs, ours) in copied {
        if let Some(value) = asked.get(theirs).filter(|value| !value.is_null()) {
            params.insert(ours.into(), value.clone());
        }
    }
    // A negative seed means any.
    let signed = |value: &Value| value.as_i64().or_else(|| value.as_str()?.trim().parse().ok());
    if let Some(seed) = asked.get("seed").filter(|seed| signed(seed).is_none_or(|seed| seed >= 0)) {
        params.insert("seed".into(), seed.clone());
    }
    let sampler = body::text(asked, "sampler_name")?.or(body::text(asked, "sampler_index")?);
    if let Some(sampler) = sampler.filter(|name| !name.is_empty() && *name != "Automatic") {
        params.insert("scheduler".into(), sampler.into());
    }
    if let Some(spacing) = body::text(asked, "scheduler")?.filter(|name| !name.is_empty()) {
        params.insert("schedule_type".into(), spacing.into());
    }
    match (side(asked, "width")?, side(asked, "height")?) {
        (None, None) if from_picture => {}
        (width, height) if width.is_some() || height.is_some() => {
            let size = format!("{}x{}", width.unwrap_or(512), height.unwrap_or(512));
            params.insert("size".into(), size.into());
        }
        _ => {}
    }
    if let Some(settings) = asked.get("override_settings").and_then(Value::as_object) {
        if let Some(mode) = body::text(settings, "sd_model_checkpoint")? {
            params.insert("mode".into(), mode.into());
        }
        if let Some(layers) = settings.get("CLIP_stop_at_last_layers").filter(|layers| !layers.is_null()) {
            params.insert("clip_skip".into(), layers.clone());
        }
    }
    if from_picture {
        let pictures = asked.get("init_images").and_then(Value::as_array);
        let first = pictures.and_then(|pictures| pictures.first()).and_then(Value::as_str);
        let first = first.ok_or_else(|| Error::invalid("init_images: must hold a picture in base64"))?;
        let uploads = &registry.services.uploads;
        params.insert("image".into(), body::picture(uploads, "init_images", first)?.into());
        if let Some(mask) = body::text(asked, "mask")? {
            let mut mask = body::decoded("mask", mask)?;
            if flag(asked, "inpainting_mask_invert")? {
                mask = inverted(mask, registry.services.config.images.max_input_pixels).await?;
            }
            params.insert("mask".into(), body::upload(uploads, &mask)?.into());
        }
        let strength = asked.get("denoising_strength").filter(|strength| !strength.is_null());
        params.insert("strength".into(), strength.cloned().unwrap_or_else(|| 0.75.into()));
    }
    Ok(params)
}

fn by_another_method() -> Error {
    Error::new(ErrorKind::MethodNotAllowed, "this resource does not take that method")
}

/// A field that is 0 or 1, or false or true.
fn flag(asked: &Map<String, Value>, field: &str) -> Result<bool, Error> {
    match asked.get(field) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(set)) => Ok(*set),
        Some(value) => match value.as_u64() {
            Some(number @ (0 | 1)) => Ok(number == 1),
            _ => Err(Error::invalid(format!("{field}: accepted are 0 and 1, got {value}"))),
        },
    }
}

/// A mask with black and white exchanged, as a PNG.
async fn inverted(mask: Vec<u8>, limit: u64) -> Result<Vec<u8>, Error> {
    let made = tokio::task::spawn_blocking(move || {
        let mut mask = pictures::decode(&mask, limit)?.to_luma8();
        image::imageops::invert(&mut mask);
        pictures::encode(&DynamicImage::ImageLuma8(mask), Encoding { format: Format::Png, quality: 100 })
    });
    made.await.map_err(|_| Error::internal("the mask could not be read (a fault of the server)"))?
}

fn side(asked: &Map<String, Value>, name: &str) -> Result<Option<u64>, Error> {
    match asked.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            let side = body::integer(value).filter(|side| *side > 0);
            side.map(Some)
                .ok_or_else(|| Error::invalid(format!("{name}: must be a number of pixels, got {value}")))
        }
    }
}

fn progress(registry: &Registry) -> Value {
    let jobs = registry.services.jobs.list(Some(OWNER));
    let running = jobs.iter().find(|job| job.status == Status::Running);
    let waiting = jobs.iter().filter(|job| job.status.is_active()).count();
    let detail = |key: &str| running.and_then(|job| job.detail.get(key)).cloned();
    json!({
        "progress": running.map_or(0.0, |job| job.fraction),
        "eta_relative": detail("eta_s").unwrap_or_else(|| 0.0.into()),
        "state": {
            "skipped": false,
            "interrupted": false,
            "job": running.map_or_else(String::new, |job| job.id.to_string()),
            "job_count": waiting,
            "job_no": 0,
            "sampling_step": detail("step").unwrap_or_else(|| 0.into()),
            "sampling_steps": detail("steps").unwrap_or_else(|| 0.into()),
        },
        "current_image": null,
        "textinfo": null,
    })
}
