//! AUTOMATIC1111's web UI API, `/sdapi/v1/…`, as its clients use it.

mod fields;
mod read;

use std::{net::IpAddr, sync::Arc};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use image::{DynamicImage, RgbImage};
use reverie_access::{Caller, api_user};
use reverie_memory::Kept;
use reverie_models::ModelKind;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};
use warp::{Filter, Reply, reply::Response};

use super::{
    Content, Layer, Operation, Route, access, body,
    error::{self, or_error},
    of,
    openai::several,
    python::generate::{text, told},
    with,
};
use crate::{
    error::{Error, ErrorKind},
    pictures::{self, Encoding, Format, pillow},
    plugins::Registry,
};
use read::Read;

/// Under which name jobs of this API are listed, for its `progress` and `interrupt`.
const CLIENT: &str = "sdapi";

/// Who asks: the holder of a key, or whoever asks from an address.
struct User {
    caller: Caller,
    address: Option<IpAddr>,
}

impl User {
    /// Whose its jobs are. Nobody else can give the name.
    fn owner(&self) -> Option<String> {
        if self.caller.key().is_some() {
            return self.caller.owner(Some(CLIENT));
        }
        let address = self.address.map_or_else(|| "-".into(), |address| address.to_string());
        Some(api_user(CLIENT, &address))
    }
}
/// Pictures of one request: `batch_size` times `n_iter`.
const MAX_PICTURES: u64 = 32;

const PREFIX: &str = "/sdapi/v1";

/// What is written alone.
const WRITTEN: &[&str] = &["txt2img", "img2img", "interrupt", "skip", "refresh-checkpoints", "refresh-loras"];

pub fn layer() -> Layer {
    Layer {
        name: "AUTOMATIC1111",
        description: "The API of AUTOMATIC1111's web UI. A checkpoint is a mode.",
        operations,
        errors: None,
        routes,
    }
}

fn routes(registry: &Arc<Registry>) -> Route {
    let base = warp::path("sdapi").and(warp::path("v1"));
    let user = access::caller(registry).and(access::address());
    let user = user.map(|caller: Caller, address: Option<IpAddr>| User { caller, address });
    let get = base
        .and(warp::path::param::<String>())
        .and(warp::path::end())
        .and(warp::get())
        .and(with(&Arc::new(read::all())))
        .and(user.clone())
        .and(with(registry))
        .map(|what: String, read: Arc<Vec<Read>>, user: User, registry: Arc<Registry>| {
            match read.iter().find(|read| read.name == what) {
                Some(read) => read.answer(&registry, &user),
                None if WRITTEN.contains(&what.as_str()) => error::response(&by_another_method()),
                None => error::response(&Error::not_found(format!("{PREFIX}/{what} is not served"))),
            }
        });
    let post = base
        .and(warp::path::param::<String>())
        .and(warp::path::end())
        .and(warp::post())
        .and(user)
        .and(body::json(body::WITH_PICTURES, registry))
        .and(with(registry))
        .then(|what: String, user: User, body: Kept<Vec<u8>>, registry: Arc<Registry>| async move {
            or_error(write(&what, &user, &body, &registry).await)
        });
    get.or(post).unify().boxed()
}

/// What is asked for. What would change the picture and is not supported comes back in `warnings`.
#[derive(JsonSchema)]
#[schemars(rename = "Txt2Img")]
#[expect(dead_code, reason = "it describes bodies; most fields are passed on, for the job's schema to check")]
struct FromText {
    prompt: Option<String>,
    negative_prompt: Option<String>,
    steps: Option<u32>,
    cfg_scale: Option<f64>,
    /// -1: any.
    seed: Option<i64>,
    width: Option<u32>,
    height: Option<u32>,
    sampler_name: Option<String>,
    scheduler: Option<String>,
    /// For DDIM and TCD: the noise of each step.
    eta: Option<f64>,
    batch_size: Option<u64>,
    n_iter: Option<u64>,
    superres: Option<bool>,
    superres_magnitude: Option<u32>,
    override_settings: Option<Settings>,
}

#[derive(JsonSchema)]
#[schemars(rename = "Img2Img")]
#[expect(dead_code, reason = "likewise")]
struct FromPicture {
    /// One picture in base64.
    init_images: Vec<String>,
    denoising_strength: Option<f64>,
    /// A picture in base64, white where the picture is made anew.
    mask: Option<String>,
    /// 1: black there.
    inpainting_mask_invert: Option<u32>,
    #[serde(flatten)]
    asked: FromText,
}

#[derive(JsonSchema)]
#[schemars(rename = "OverrideSettings")]
#[expect(dead_code, reason = "likewise")]
struct Settings {
    /// A mode's name.
    sd_model_checkpoint: Option<String>,
    #[serde(rename = "CLIP_stop_at_last_layers")]
    clip_stop_at_last_layers: Option<u32>,
}

#[derive(Serialize, JsonSchema)]
struct Pictures {
    /// In base64.
    images: Vec<String>,
    /// What was asked for.
    parameters: Map<String, Value>,
    /// A JSON object, as a text.
    info: String,
    /// What was asked for and does nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

fn operations() -> Vec<Operation> {
    let post = |what: &str, summary: &str| Operation::post(format!("{PREFIX}/{what}"), summary);
    let nothing = |operation: Operation| operation.answers_json::<()>("Done.");
    let stopped = |operation: Operation| operation.answers_json::<Map<String, Value>>("Done.");
    let reload = &[ErrorKind::InvalidInput, ErrorKind::Unavailable, ErrorKind::Internal];
    let pictures =
        |operation: Operation| operation.answers_json::<Pictures>("The pictures.").errors_of_plugin();
    let written = [
        pictures(post("txt2img", "Make pictures from text")).takes(Content::Json(of::<FromText>())),
        pictures(post("img2img", "Make pictures from a picture")).takes(Content::Json(of::<FromPicture>())),
        nothing(post("options", "Make another mode the default one"))
            .takes(Content::Json(of::<Settings>()))
            .errors(&[ErrorKind::InvalidInput, ErrorKind::Unavailable]),
        stopped(post("interrupt", "Cancel the requests of this API")),
        stopped(post("skip", "The same")),
        nothing(post("refresh-checkpoints", "Read modes and models again")).errors(reload),
        nothing(post("refresh-loras", "The same")).errors(reload),
    ];
    read::all().iter().map(Read::operation).chain(written).collect()
}

async fn write(what: &str, user: &User, body: &[u8], registry: &Arc<Registry>) -> Result<Response, Error> {
    let diffusion = &registry.services.diffusion;
    let answer = match what {
        "txt2img" | "img2img" => {
            json!(pictures(what == "img2img", body::object(body)?, user, registry).await?)
        }
        "options" => {
            if let Some(model) = body::text(&body::object(body)?, "sd_model_checkpoint")? {
                diffusion.switch(model)?;
            }
            json!(null)
        }
        "interrupt" | "skip" => {
            let services = &registry.services;
            for job in services.jobs.list(user.owner().as_deref()).iter().filter(|job| job.status.is_active())
            {
                let _ = services.cancel(job.id).await;
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
        _ if read::all().iter().any(|read| read.name == what) => return Err(by_another_method()),
        _ => return Err(Error::not_found(format!("POST {PREFIX}/{what} is not served"))),
    };
    Ok(warp::reply::json(&answer).into_response())
}

async fn pictures(
    from_picture: bool,
    asked: Map<String, Value>,
    user: &User,
    registry: &Arc<Registry>,
) -> Result<Pictures, Error> {
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
    let mut warnings = fields::ignored(&asked);
    let params = params(from_picture, &asked, user.caller.tenant(), registry, &mut warnings).await?;
    let made = several(registry, &params, total, user.owner()).await?;
    let images: Vec<String> = made.iter().map(|done| BASE64_STANDARD.encode(&done.content)).collect();
    let metas: Vec<&Map<String, Value>> = made.iter().map(|done| &done.job.meta).collect();
    let all = |key: &str| -> Vec<Value> {
        metas.iter().map(|meta| meta.get(key).cloned().unwrap_or_default()).collect()
    };
    let first = metas.first().copied();
    let of_first = |key: &str| first.and_then(|meta| meta.get(key)).cloned().unwrap_or_default();
    let prompt = asked.get("prompt").cloned().unwrap_or_else(|| "".into());
    let mut info = json!({
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
    for warning in metas.iter().flat_map(|meta| told(meta)) {
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }
    if !warnings.is_empty() {
        info["warnings"] = json!(warnings);
    }
    Ok(Pictures { images, parameters: asked, info: info.to_string(), warnings })
}

/// The job's parameters. What this API has beyond them is left out, as its clients send all fields always, and told in
/// `warnings`.
async fn params(
    from_picture: bool,
    asked: &Map<String, Value>,
    tenant: Option<&str>,
    registry: &Arc<Registry>,
    warnings: &mut Vec<String>,
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
    if let Some(eta) = asked.get("eta").filter(|eta| !eta.is_null()) {
        // There it is of ancestral samplers, too, which are those of diffusers with 1.
        let ancestral = sampler
            .is_some_and(|name| name.contains(" a") || name.ends_with("_a") || name.contains("ncestral"));
        if !(ancestral && eta.as_f64() == Some(1.0)) {
            params.insert("eta".into(), eta.clone());
        }
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
            let mode = params.get("mode").and_then(Value::as_str).unwrap_or_default().to_owned();
            match is_sdxl(mode, registry).await {
                false => _ = params.insert("clip_skip".into(), layers.clone()),
                true if layers.as_u64() == Some(1) => {}
                true => warnings.push(
                    "override_settings.CLIP_stop_at_last_layers: ignored: SDXL has its own layer, as in the web UI".into(),
                ),
            }
        }
    }
    if from_picture {
        let pictures = asked.get("init_images").and_then(Value::as_array);
        let first = pictures.and_then(|pictures| pictures.first()).and_then(Value::as_str);
        let first = first.ok_or_else(|| Error::invalid("init_images: must hold a picture in base64"))?;
        let uploads = &registry.services.uploads;
        params.insert("image".into(), body::picture(uploads, tenant, "init_images", first)?.into());
        if let Some(mask) = body::text(asked, "mask")? {
            let mut mask = body::decoded("mask", mask, uploads.memory())?;
            if flag(asked, "inpainting_mask_invert")? {
                mask = inverted(mask, registry).await?;
            }
            params.insert("mask".into(), body::upload(uploads, tenant, &mask)?.into());
        }
        let strength = asked.get("denoising_strength").filter(|strength| !strength.is_null());
        params.insert("strength".into(), strength.cloned().unwrap_or_else(|| 0.75.into()));
    }
    Ok(params)
}

/// Whether a mode's model is of SDXL. One that can't be read is told of when it is used.
async fn is_sdxl(mode: String, registry: &Arc<Registry>) -> bool {
    let registry = registry.clone();
    let kind = tokio::task::spawn_blocking(move || registry.services.diffusion.kind(&mode));
    matches!(kind.await, Ok(Ok(ModelKind::Sdxl)))
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
async fn inverted(mask: Kept<Vec<u8>>, registry: &Registry) -> Result<Kept<Vec<u8>>, Error> {
    let memory = registry.services.memory.clone();
    let limit = registry.services.config.images.max_input_pixels;
    let made = tokio::task::spawn_blocking(move || {
        let mut mask = pictures::decode(&mask, limit, &memory)?;
        let (width, height) = (mask.width(), mask.height());
        mask.held.grow(pillow::bytes_to_resize(&mask, width, height))?;
        // Its colours stay: it is resized before it becomes grey.
        let mask = mask.map(|mask| {
            let inverted = pillow::rgb(&mask).into_iter().map(|value| 255 - value).collect();
            RgbImage::from_raw(width, height, inverted)
                .map(DynamicImage::ImageRgb8)
                .expect("three bytes a pixel")
        });
        let encoding = Encoding { format: Format::Png, quality: 100 };
        pictures::encode(&mask, encoding, &memory)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_written_is_described() {
        let described = operations();
        let posts = || described.iter().filter(|operation| operation.method == "post");
        for name in WRITTEN.iter().chain(&["options"]) {
            assert!(posts().any(|operation| operation.path == format!("{PREFIX}/{name}")), "{name}");
        }
        assert_eq!(posts().count(), WRITTEN.len() + 1);
    }
}
