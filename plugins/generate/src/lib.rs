//! Text to image: the job `generate` makes a picture from a prompt, the message `generate:modes` lists what with.

#![forbid(unsafe_code)]

mod foreign;
mod names;
mod parameters;
mod recipe;
mod request;
mod schema;

use request::{Config, Request};
use reverie_plugin_sdk::{
    Error, Handler, Job, Manifest, Message, config, diffusion, export,
    images::{self, Image},
    storage, uploads, upscale,
};
use serde_json::json;

struct Generate;

export!(Generate);

/// Shares of the job's progress: the picture, and its enlargement after it.
const GENERATED: f32 = 0.95;
const GENERATED_BEFORE_SUPERRES: f32 = 0.6;

impl Handler for Generate {
    fn manifest() -> Manifest {
        Manifest::new("generate", env!("CARGO_PKG_VERSION"), "Makes pictures from text.")
            .message("generate:modes", "Lists the modes, the default one first.", "")
            .job("generate", "Makes a picture from text.", &schema::job())
            .capabilities(&["uploads", "storage", "images", "upscale", "diffusion"])
    }

    fn message(message: Message) -> Result<(), Error> {
        message.reply(&json!({"type": "generate:modes:result", "modes": diffusion::modes()}))
    }

    fn job(job: Job) -> Result<(), Error> {
        let request = Request::read(job.params()?)?;
        run(&job, &request).map_err(|error| request.as_spelt(error))
    }
}

fn run(job: &Job, request: &Request) -> Result<(), Error> {
    let config: Config = config()?;
    let upload = |file_ref: &Option<String>| match file_ref {
        Some(file_ref) => images::decode(&uploads::resolve(file_ref)?).map(Some),
        None => Ok(None),
    };
    let (image, mask) = (upload(&request.image)?, upload(&request.mask)?);
    let until = if request.superres() { GENERATED_BEFORE_SUPERRES } else { GENERATED };
    let asked = request.order(&config, until)?;
    let scheduler_id =
        diffusion::scheduler_id(&asked.mode, asked.scheduler.as_deref(), asked.schedule_type.as_deref())?;
    let made = diffusion::make(&asked, image.as_ref(), mask.as_ref())?;

    let (format, quality) = request.encoding();
    let enlarged = match request.superres() {
        true => Some(Enlarged::new(&made.picture, request, config.superres_model, until)?),
        false => None,
    };
    let picture = enlarged.as_ref().map_or(&made.picture, |enlarged| &enlarged.picture);
    let parameters = parameters::text(request, &asked, &made);
    let recipe = recipe::text(request, &asked, &made, scheduler_id.as_deref());
    let texts = [("parameters".to_owned(), parameters.clone()), ("lcm".to_owned(), recipe)];
    let key = storage::put(&picture.encode_with_texts(format, quality, &texts)?)?;
    let mut meta = json!({
        "seed": asked.seed,
        "backend": made.backend,
        "sr": request.superres(),
        "mode": made.mode,
        "model": made.model,
        "scheduler": made.scheduler,
        "scheduler_id": scheduler_id,
        "num_inference_steps": made.num_inference_steps,
        "guidance_scale": made.guidance_scale,
        "guidance_rescale": asked.guidance_rescale,
        "eta": asked.eta,
        "width": picture.width(),
        "height": picture.height(),
        "parameters": parameters,
        "timings_ms": {
            "load": made.load_ms,
            "encode": made.encode_ms,
            "denoise": made.denoise_ms,
            "decode": made.decode_ms,
        },
    });
    if let Some(enlarged) = &enlarged {
        meta["superres"] = json!({
            "model": enlarged.model,
            "magnitude": request.superres_magnitude(),
            "passes": request.superres_magnitude(),
            "scale_per_pass": enlarged.scale_per_pass,
            "format": request::name(format),
        });
    }
    if request.image.is_some() {
        meta["strength"] = asked.strength.into();
    }
    let warnings = [&request.warnings[..], &made.warnings].concat();
    if !warnings.is_empty() {
        meta["warnings"] = json!(warnings);
    }
    job.complete(&[&key], &meta)
}

/// A picture after `superres`, and by what.
struct Enlarged {
    picture: Image,
    model: String,
    scale_per_pass: u32,
}

impl Enlarged {
    fn new(picture: &Image, request: &Request, model: String, progress_from: f32) -> Result<Self, Error> {
        let options = upscale::Options {
            model,
            scale: upscale::Scale::Passes(request.superres_magnitude()),
            progress_from,
            progress_to: GENERATED,
        };
        let enlarged = upscale::run(picture, &options)?;
        // A pass is by the smallest factor of a network, or by 2.
        let network = upscale::networks().into_iter().find(|network| network.name == options.model);
        let scale_per_pass = network.and_then(|network| network.scales.into_iter().min()).unwrap_or(2);
        Ok(Self { picture: enlarged, model: options.model, scale_per_pass })
    }
}
