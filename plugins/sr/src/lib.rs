//! Super-resolution: the job `sr` enlarges an uploaded picture, the message `sr:models` lists what it can use.

#![forbid(unsafe_code)]

mod plan;

use plan::{Config, Plan, Request};
use reverie_plugin_sdk::{
    Error, Handler, Job, Manifest, Message, clock, config, export, images, storage, uploads, upscale,
};
use serde_json::{Value, json};

struct SuperResolution;

export!(SuperResolution);

impl Handler for SuperResolution {
    fn manifest() -> Manifest {
        Manifest::new("sr", env!("CARGO_PKG_VERSION"), "Enlarges pictures with super-resolution networks.")
            .message("sr:models", "Lists the networks and resamplers.", "")
            .job("sr", "Enlarges an uploaded picture.", include_str!("schema.json"))
            .capabilities(&["uploads", "storage", "images", "upscale"])
    }

    fn message(message: Message) -> Result<(), Error> {
        let models: Vec<Value> = upscale::networks()
            .into_iter()
            .map(|n| json!({"name": n.name, "kind": n.kind, "scales": n.scales, "architecture": n.architecture}))
            .collect();
        let default = config::<Config>()?.model;
        message.reply(&json!({"type": "sr:models:result", "models": models, "default": default}))
    }

    fn job(job: Job) -> Result<(), Error> {
        let request = Request::read(job.params()?)?;
        let plan = Plan::new(&request, config()?, &upscale::networks())?;

        let start = Lap::start();
        let source = images::decode(&uploads::resolve(&request.file_ref)?)?;
        let decoded = start.lap();
        job.progress(0.05);

        let options = upscale::Options {
            model: plan.model.clone(),
            scale: plan.scale,
            progress_from: 0.05,
            progress_to: 0.9,
        };
        let result = upscale::run(&source, &options)?;
        let upscaled = decoded.lap();

        let content = result.encode(plan.format, plan.quality)?;
        let encoded = upscaled.lap();
        job.progress(0.97);

        let key = storage::put(&content)?;
        let mut meta = json!({
                "sr": true,
                "seed": null,
                "model": plan.model,
                "scale": plan.factor,
                "magnitude": plan.magnitude(),
                "passes": plan.passes,
                "scale_per_pass": plan.scale_per_pass,
                "format": plan.format_name(),
                "width": result.width(),
                "height": result.height(),
                "source_width": source.width(),
                "source_height": source.height(),
                "timings_ms": {"decode": decoded.ms, "upscale": upscaled.ms, "encode": encoded.ms},
        });
        if !request.warnings.is_empty() {
            meta["warnings"] = json!(request.warnings);
        }
        job.complete(&[&key], &meta)
    }
}

/// A moment, and the milliseconds (to a tenth) since the one before.
struct Lap {
    at_ns: u64,
    ms: f64,
}

impl Lap {
    fn start() -> Self {
        Self { at_ns: clock::monotonic_ns(), ms: 0.0 }
    }

    fn lap(&self) -> Self {
        let at_ns = clock::monotonic_ns();
        Self { at_ns, ms: ((at_ns - self.at_ns) / 100_000) as f64 / 10.0 }
    }
}
