//! OpenAI's images API: `POST /v1/images/generations` and `/v1/images/edits`, as the `openai` packages call it.

mod fields;
mod parts;

use std::sync::Arc;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use reverie_access::Caller;
use reverie_memory::Kept;
use schemars::{JsonSchema, SchemaGenerator};
use serde::Serialize;
use serde_json::{Map, Value};
use warp::{Filter, Reply, http::StatusCode, reply::Response};

use super::{
    Content, Errors, File, Layer, Operation, Route, access, body,
    core::jobs::{self as run, Done},
    describe,
    error::or_error,
    multipart::{FormData, form},
    of,
    python::generate::{text, told},
    with,
};
use crate::{
    error::{Error, ErrorKind},
    jobs,
    plugins::Registry,
};

/// Pictures of one request.
const MAX_PICTURES: u64 = 10;
/// The range of seeds; after its end they go on from 0.
const SEEDS: u64 = 1 << 32;
/// Bytes of all parts of a form.
const MAX_FORM: usize = 128 << 20;

/// Fields of a request that mean the same here.
const PASSED_ON: &[&str] = &[
    "prompt",
    "negative_prompt",
    "seed",
    "steps",
    "num_inference_steps",
    "cfg",
    "guidance_scale",
    "guidance_rescale",
    "eta",
    "scheduler",
    "schedule_type",
    "clip_skip",
    "strength",
    "loras",
    "strict",
    "superres",
    "superres_magnitude",
];

/// Fields of a form that are numbers. Others are texts, whatever they look like.
const NUMBERS: &[&str] = &[
    "n",
    "seed",
    "steps",
    "num_inference_steps",
    "cfg",
    "guidance_scale",
    "guidance_rescale",
    "eta",
    "clip_skip",
    "strength",
    "output_compression",
];

pub fn layer() -> Layer {
    Layer {
        name: "OpenAI",
        description: "OpenAI's images API. A `model` is a mode; OpenAI's own names stand for the default one.",
        operations,
        errors: Some(Errors { prefix: "/v1/images/", shape, described: DESCRIBED }),
        routes,
    }
}

fn routes(registry: &Arc<Registry>) -> Route {
    let host = warp::header::optional::<String>("host");
    let generations = warp::path!("v1" / "images" / "generations")
        .and(warp::post())
        .and(access::caller(registry))
        .and(body::json(body::PLAIN, registry))
        .and(host)
        .and(with(registry))
        .then(
            |caller: Caller, body: Kept<Vec<u8>>, host: Option<String>, registry: Arc<Registry>| async move {
                let made = generations(&body, host.as_deref(), &caller, &registry).await;
                or_error(made.map(|made| warp::reply::json(&made)))
            },
        );
    let edits = warp::path!("v1" / "images" / "edits")
        .and(warp::post())
        .and(access::caller(registry))
        .and(form())
        .and(host)
        .and(with(registry))
        .then(|caller: Caller, form: FormData, host: Option<String>, registry: Arc<Registry>| async move {
            let made = edits(form, host.as_deref(), &caller, &registry).await;
            or_error(made.map(|made| warp::reply::json(&made)))
        });
    generations.or(edits).unify().boxed()
}

/// What is asked for. What would change the picture and is not supported comes back in `warnings`.
#[derive(JsonSchema)]
#[schemars(rename = "ImagesRequest")]
#[expect(dead_code, reason = "it describes bodies; most fields are passed on, for the job's schema to check")]
struct Request {
    prompt: String,
    /// A mode's name.
    model: Option<String>,
    /// How many pictures.
    #[schemars(range(min = 1, max = 10))]
    n: Option<u64>,
    /// `WIDTHxHEIGHT`, or `auto`.
    size: Option<String>,
    /// `url` or `b64_json`, which is the default of all models but `dall-e-*`.
    response_format: Option<String>,
    /// png, jpeg or webp.
    output_format: Option<String>,
    /// The quality of a JPEG, 1 to 100.
    output_compression: Option<u32>,
    negative_prompt: Option<String>,
    seed: Option<u64>,
    steps: Option<u32>,
    num_inference_steps: Option<u32>,
    cfg: Option<f64>,
    guidance_scale: Option<f64>,
    guidance_rescale: Option<f64>,
    eta: Option<f64>,
    scheduler: Option<String>,
    schedule_type: Option<String>,
    clip_skip: Option<u32>,
    strength: Option<f64>,
    /// Whether LoRAs that lose parts are an error.
    strict: Option<bool>,
    superres: Option<bool>,
    superres_magnitude: Option<u32>,
}

/// A picture to be changed, and how.
#[derive(JsonSchema)]
#[schemars(rename = "ImagesEditForm")]
#[expect(dead_code, reason = "it describes the form, which is read piece by piece")]
struct EditForm {
    image: File,
    /// Transparent where the picture is made anew; without it the transparent parts of `image` are.
    mask: Option<File>,
    #[serde(flatten)]
    request: Request,
}

/// The pictures that were made.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ImagesResponse")]
struct Made {
    /// Unix seconds.
    created: u64,
    data: Vec<Image>,
    /// What was asked for and does nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

#[derive(Serialize, JsonSchema)]
struct Image {
    #[serde(skip_serializing_if = "Option::is_none")]
    b64_json: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    seed: Value,
    mode: String,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "OpenAiError")]
struct Failure<'a> {
    error: Reason<'a>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "OpenAiReason")]
struct Reason<'a> {
    message: &'a str,
    r#type: &'static str,
    /// The field that was wrong.
    param: Option<&'a str>,
    code: &'static str,
}

const DESCRIBED: describe::Errors =
    describe::Errors { name: "openai", status, body: SchemaGenerator::subschema_for::<Failure<'static>> };

fn operations() -> Vec<Operation> {
    let made = |operation: Operation| operation.answers_json::<Made>("The pictures.").errors_of_plugin();
    vec![
        made(Operation::post("/v1/images/generations", "Make pictures from text"))
            .takes(Content::Json(of::<Request>())),
        made(Operation::post("/v1/images/edits", "Change a picture")).takes(Content::Form(of::<EditForm>())),
    ]
}

/// These clients know 400 for a bad request.
fn status(kind: ErrorKind) -> u16 {
    if kind == ErrorKind::InvalidInput { 400 } else { kind.status() }
}

/// Errors in the shape that OpenAI's clients read.
fn shape(error: &Error, answer: &mut Response) {
    let status = status(error.kind);
    let (kind, code) = match error.kind {
        ErrorKind::Busy => ("rate_limit_error", "rate_limit_exceeded"),
        kind if status < 500 => ("invalid_request_error", kind.code()),
        kind => ("server_error", kind.code()),
    };
    let reason = Reason { message: &error.message, r#type: kind, param: error.field(), code };
    let body = Failure { error: reason };
    *answer.body_mut() = warp::reply::json(&body).into_response().into_body();
    *answer.status_mut() = StatusCode::from_u16(status).expect("a valid status");
}

async fn generations(
    body: &[u8],
    host: Option<&str>,
    caller: &Caller,
    registry: &Arc<Registry>,
) -> Result<Made, Error> {
    make(&body::object(body)?, Map::new(), host, caller, registry).await
}

/// Makes the pictures that `asked` asks for; `params` are further ones of the jobs.
async fn make(
    asked: &Map<String, Value>,
    mut params: Map<String, Value>,
    host: Option<&str>,
    caller: &Caller,
    registry: &Arc<Registry>,
) -> Result<Made, Error> {
    if asked.get("stream").is_some_and(|stream| *stream != false && !stream.is_null()) {
        return Err(Error::invalid("stream: pictures are not streamed here; leave it out"));
    }
    for field in PASSED_ON {
        if let Some(value) = asked.get(*field) {
            params.insert((*field).into(), value.clone());
        }
    }
    params.insert("mode".into(), mode(asked, registry)?);
    if let Some(size) = asked.get("size").filter(|size| !size.is_null() && *size != "auto") {
        params.insert("size".into(), size.clone());
    }
    if let Some(format) = asked.get("output_format").filter(|format| !format.is_null()) {
        params.insert("out_format".into(), format.clone());
    }
    if let Some(quality) = asked.get("output_compression").filter(|quality| !quality.is_null()) {
        params.insert("quality".into(), quality.clone());
    }
    let in_line = match body::text(asked, "response_format")? {
        Some("b64_json") => true,
        Some("url") => false,
        // OpenAI's older models answer with addresses unless asked, all others with the content.
        None => !asked.get("model").and_then(Value::as_str).is_some_and(|model| model.starts_with("dall-e")),
        Some(other) => {
            return Err(Error::invalid(format!(
                "response_format: '{other}' is neither 'url' nor 'b64_json'"
            )));
        }
    };
    let count = match asked.get("n") {
        None | Some(Value::Null) => 1,
        Some(n) => body::integer(n).filter(|n| (1..=MAX_PICTURES).contains(n)).ok_or_else(|| {
            Error::invalid(format!("n: accepted are integers from 1 to {MAX_PICTURES}, got {n}"))
        })?,
    };
    let (mut data, mut warnings) = (Vec::new(), fields::ignored(asked));
    for Done { job, key, content } in several(registry, &params, count, caller.owner(None)).await? {
        let host = host.unwrap_or("localhost");
        for warning in told(&job.meta) {
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
        data.push(Image {
            b64_json: in_line.then(|| BASE64_STANDARD.encode(&content)),
            url: (!in_line).then(|| format!("http://{host}/storage/{key}")),
            seed: job.meta.get("seed").cloned().unwrap_or_default(),
            mode: text(&job.meta, "mode"),
        });
    }
    Ok(Made { created: jobs::now() as u64, data, warnings })
}

/// `count` pictures with seeds that follow one another, made at the same time.
///
/// # Errors
/// Of the first that fails; the others are then cancelled.
pub async fn several(
    registry: &Arc<Registry>,
    params: &Map<String, Value>,
    count: u64,
    owner: Option<String>,
) -> Result<Vec<Done>, Error> {
    let mut waiting = Vec::new();
    for i in 0..count {
        let mut params = params.clone();
        // The first one stays as it is: one out of range is refused with it. Whole floats are seeds too.
        let seed = params
            .get("seed")
            .and_then(|seed| seed.as_f64().map(|seed| seed as u64).or_else(|| body::integer(seed)));
        if let Some(seed) = seed.filter(|_| i > 0) {
            params.insert("seed".into(), (seed.saturating_add(i) % SEEDS).into());
        }
        waiting.push(run::submit(registry, "generate", params, owner.clone()).await?);
    }
    let mut done = Vec::new();
    for job in waiting {
        done.push(job.done().await?);
    }
    Ok(done)
}

/// The mode that `model` names. OpenAI's own names, which its clients fill in, stand for the default one.
fn mode(asked: &Map<String, Value>, registry: &Registry) -> Result<Value, Error> {
    match body::text(asked, "model")? {
        None => Ok(Value::Null),
        Some(name) if ["dall-e", "gpt-image"].iter().any(|own| name.starts_with(own)) => Ok(Value::Null),
        Some(name) => {
            let modes = registry.services.diffusion.modes();
            modes.get(name).map_err(|e| Error::new(e.kind, e.message.replacen("mode:", "model:", 1)))?;
            Ok(name.into())
        }
    }
}

async fn edits(
    mut form: FormData,
    host: Option<&str>,
    caller: &Caller,
    registry: &Arc<Registry>,
) -> Result<Made, Error> {
    let (uploads, tenant) = (&registry.services.uploads, caller.tenant());
    let (mut asked, mut image, mut mask) = (Map::new(), None, None);
    let mut room = MAX_FORM;
    while let Some(part) = form.next().await {
        let part = part?;
        let name = part.name().to_owned();
        let content = parts::read(part, room, uploads.memory()).await?;
        // A part without content takes room too, or there could be any number of them.
        room = room.saturating_sub(content.len() + name.len() + 64);
        match name.as_str() {
            "image" | "image[]" if image.is_some() => {
                return Err(Error::invalid("image: one picture is accepted"));
            }
            "image" | "image[]" => image = Some(content),
            "mask" => mask = Some(content),
            _ => {
                let text = String::from_utf8(content.to_vec()).map_err(|_| {
                    Error::new(ErrorKind::BadRequest, format!("the form field '{name}' is not UTF-8"))
                })?;
                let number: Option<Value> = serde_json::from_str(&text)
                    .ok()
                    .filter(|value: &Value| value.is_number() && NUMBERS.contains(&name.as_str()));
                asked.insert(name, number.unwrap_or(Value::String(text)));
            }
        }
    }
    let image = image.ok_or_else(|| Error::invalid("image: the field is missing"))?;
    let limit = registry.services.config.images.max_input_pixels;
    let memory = registry.services.memory.clone();
    let mask = {
        let image = image.clone();
        let edited = move || parts::edited(mask.as_deref().unwrap_or(&image), limit, &memory);
        let made = tokio::task::spawn_blocking(edited).await;
        made.map_err(|_| Error::internal("the mask could not be read (a fault of the server)"))??
    };
    let mut params = Map::new();
    params.insert("image".into(), body::upload(uploads, tenant, &image)?.into());
    if let Some(mask) = mask {
        params.insert("mask".into(), body::upload(uploads, tenant, &mask)?.into());
    }
    make(&asked, params, host, caller, registry).await
}
