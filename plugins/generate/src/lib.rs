//! Text to image: the job `generate` makes a picture from a prompt, the message `generate:modes` lists what with.

#![forbid(unsafe_code)]

mod parameters;
mod request;

use request::{Config, Request};
use reverie_plugin_sdk::{
    Error, Handler, Job, Manifest, Message, config, diffusion, export, images, storage, uploads, upscale,
};
use serde_json::json;

struct Generate;

/// The number that was meant, where its nearest `f32` as an `f64` has many more digits.
fn decimal(x: f32) -> f64 {
    x.to_string().parse().unwrap_or_else(|_| x.into())
}

export!(Generate);

/// Shares of the job's progress: the picture, and its enlargement after it.
const GENERATED: f32 = 0.95;
const GENERATED_BEFORE_SUPERRES: f32 = 0.6;

impl Handler for Generate {
    fn manifest() -> Manifest {
        Manifest::new("generate", env!("CARGO_PKG_VERSION"), "Makes pictures from text.")
            .message("generate:modes", "Lists the modes, the default one first.", "")
            .job("generate", "Makes a picture from text.", include_str!("schema.json"))
            .capabilities(&["uploads", "storage", "images", "upscale", "diffusion"])
    }

    fn message(message: Message) -> Result<(), Error> {
        message.reply(&json!({"type": "generate:modes:result", "modes": diffusion::modes()}))
    }

    fn job(job: Job) -> Result<(), Error> {
        let request = Request::read(job.params()?)?;
        let config: Config = config()?;
        let upload = |file_ref: &Option<String>| match file_ref {
            Some(file_ref) => images::decode(&uploads::resolve(file_ref)?).map(Some),
            None => Ok(None),
        };
        let (image, mask) = (upload(&request.image)?, upload(&request.mask)?);
        let until = if request.superres() { GENERATED_BEFORE_SUPERRES } else { GENERATED };
        let asked = request.diffusion(&config, until)?;
        let made = diffusion::generate(&asked, image.as_ref(), mask.as_ref())?;

        let mut picture = &made.picture;
        let enlarged;
        if request.superres() {
            let options = upscale::Options {
                model: config.superres_model,
                scale: upscale::Scale::Passes(request.superres_magnitude()),
                progress_from: until,
                progress_to: GENERATED,
            };
            enlarged = upscale::run(picture, &options)?;
            picture = &enlarged;
        }
        let (format, quality) = request.encoding();
        let parameters = parameters::text(&request, &asked, &made);
        let content = picture.encode_with_parameters(format, quality, &parameters)?;
        let key = storage::put(&content)?;
        job.complete(
            &[&key],
            &json!({
                "seed": asked.seed,
                "backend": made.backend,
                "sr": request.superres(),
                "mode": made.mode,
                "model": made.model,
                "scheduler": made.scheduler,
                "num_inference_steps": made.num_inference_steps,
                "guidance_scale": decimal(made.guidance_scale),
                "width": picture.width(),
                "height": picture.height(),
                "parameters": parameters,
                "timings_ms": {
                    "load": made.load_ms,
                    "encode": made.encode_ms,
                    "denoise": made.denoise_ms,
                    "decode": made.decode_ms,
                },
            }),
        )
    }
}
