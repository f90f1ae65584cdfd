//! What is read, each with its type, of which it is served and described.

use reverie_models::schedulers;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};
use warp::{Reply, reply::Response};

use super::{
    super::{Content, Operation, describe::SchemaOf, of},
    PREFIX, User,
};
use crate::{jobs::Status, plugins::Registry};

type Answer = Box<dyn Fn(&Registry, &User) -> Response + Send + Sync>;

/// A resource that is read.
pub struct Read {
    pub name: &'static str,
    summary: &'static str,
    schema: SchemaOf,
    answer: Answer,
}

impl Read {
    fn new<T: Serialize + JsonSchema + 'static>(
        name: &'static str,
        summary: &'static str,
        answer: fn(&Registry) -> T,
    ) -> Self {
        Self::of_user(name, summary, move |registry, _| answer(registry))
    }

    /// What is another thing for each user.
    fn of_user<T: Serialize + JsonSchema + 'static>(
        name: &'static str,
        summary: &'static str,
        answer: impl Fn(&Registry, &User) -> T + Send + Sync + 'static,
    ) -> Self {
        let answer = move |registry: &Registry, user: &User| {
            warp::reply::json(&answer(registry, user)).into_response()
        };
        Self { name, summary, schema: of::<T>(), answer: Box::new(answer) }
    }

    pub fn answer(&self, registry: &Registry, user: &User) -> Response {
        (self.answer)(registry, user)
    }

    pub fn operation(&self) -> Operation {
        let operation = Operation::get(format!("{PREFIX}/{}", self.name), self.summary);
        operation.answers(200, "As of now.", Content::Json(self.schema))
    }
}

pub fn all() -> Vec<Read> {
    let nothing = "Empty: there are none here";
    vec![
        Read::new("sd-models", "The modes", models),
        Read::new("samplers", "The samplers", samplers),
        Read::new("schedulers", "The schedule types", schedule_types),
        Read::new("loras", "The LoRAs", loras),
        Read::new("upscalers", "The networks and resamplers that enlarge", upscalers),
        Read::new("options", "The settings", options),
        Read::of_user("progress", "How far this API's requests are", progress),
        Read::new("scripts", nothing, |_| Scripts::default()),
        Read::new("cmd-flags", nothing, |_| Map::<String, Value>::new()),
        Read::new("embeddings", nothing, |_| Map::<String, Value>::new()),
        Read::new("sd-vae", nothing, |_| Vec::<Value>::new()),
        Read::new("hypernetworks", nothing, |_| Vec::<Value>::new()),
        Read::new("face-restorers", nothing, |_| Vec::<Value>::new()),
        Read::new("prompt-styles", nothing, |_| Vec::<Value>::new()),
        Read::new("script-info", nothing, |_| Vec::<Value>::new()),
        Read::new("memory", nothing, |_| Memory::default()),
    ]
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "SdModel")]
struct Model {
    title: String,
    /// The mode's name, as the title.
    model_name: String,
    hash: Option<String>,
    sha256: Option<String>,
    filename: String,
    config: Option<String>,
}

fn models(registry: &Registry) -> Vec<Model> {
    let modes = registry.services.diffusion.modes();
    let models = modes.iter().map(|(name, mode)| Model {
        title: name.to_owned(),
        model_name: name.to_owned(),
        hash: None,
        sha256: None,
        filename: mode.model.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        config: None,
    });
    models.collect()
}

#[derive(Serialize, JsonSchema)]
struct Sampler {
    name: String,
    aliases: Vec<String>,
    options: Map<String, Value>,
}

fn samplers(_: &Registry) -> Vec<Sampler> {
    let names = schedulers::sampler_names();
    let sampler = |(name, aliases): (&str, Vec<&str>)| Sampler {
        name: name.to_owned(),
        aliases: aliases.into_iter().map(str::to_owned).collect(),
        options: Map::new(),
    };
    names.map(sampler).collect()
}

#[derive(Serialize, JsonSchema)]
struct ScheduleType {
    name: String,
    label: String,
    aliases: Option<Vec<String>>,
}

fn schedule_types(_: &Registry) -> Vec<ScheduleType> {
    let names = schedulers::schedule_type_names();
    names.map(|(name, label)| ScheduleType { name, label: label.into(), aliases: None }).collect()
}

#[derive(Serialize, JsonSchema)]
struct Lora {
    name: String,
    alias: String,
    path: String,
    metadata: Map<String, Value>,
}

fn loras(registry: &Registry) -> Vec<Lora> {
    let loras = registry.services.diffusion.loras().into_iter();
    let lora = |name: String| Lora {
        alias: name.clone(),
        path: format!("{name}.safetensors"),
        name,
        metadata: Map::new(),
    };
    loras.map(lora).collect()
}

#[derive(Serialize, JsonSchema)]
struct Upscaler {
    name: String,
    model_name: String,
    model_path: Option<String>,
    model_url: Option<String>,
    /// The largest factor of one pass; none for a resampler.
    scale: Option<u32>,
}

fn upscalers(registry: &Registry) -> Vec<Upscaler> {
    let networks = registry.services.upscalers.list().into_iter();
    let upscaler = |network: crate::models::NetworkInfo| Upscaler {
        name: network.name.clone(),
        model_name: network.name,
        model_path: None,
        model_url: None,
        scale: network.scales.last().copied(),
    };
    networks.map(upscaler).collect()
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "SdOptions")]
struct Options {
    /// The default mode.
    sd_model_checkpoint: Option<String>,
    #[serde(rename = "CLIP_stop_at_last_layers")]
    clip_stop_at_last_layers: u32,
    samples_format: &'static str,
}

fn options(registry: &Registry) -> Options {
    Options {
        sd_model_checkpoint: registry.services.diffusion.modes().default_name().map(str::to_owned),
        clip_stop_at_last_layers: 1,
        samples_format: "png",
    }
}

#[derive(Default, Serialize, JsonSchema)]
#[schemars(rename = "SdScripts")]
struct Scripts {
    txt2img: Vec<String>,
    img2img: Vec<String>,
}

#[derive(Default, Serialize, JsonSchema)]
#[schemars(rename = "SdMemory")]
struct Memory {
    ram: Map<String, Value>,
    cuda: Map<String, Value>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "SdProgress")]
struct Progress {
    /// 0 to 1.
    progress: f32,
    /// Seconds.
    eta_relative: Value,
    state: State,
    current_image: Option<String>,
    textinfo: Option<String>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "SdState")]
struct State {
    skipped: bool,
    interrupted: bool,
    job: String,
    job_count: usize,
    job_no: u32,
    sampling_step: Value,
    sampling_steps: Value,
}

fn progress(registry: &Registry, user: &User) -> Progress {
    let jobs = registry.services.jobs.list(user.owner().as_deref());
    let running = jobs.iter().find(|job| job.status == Status::Running);
    let waiting = jobs.iter().filter(|job| job.status.is_active()).count();
    let detail = |key: &str| running.and_then(|job| job.detail.get(key)).cloned();
    Progress {
        progress: running.map_or(0.0, |job| job.fraction),
        eta_relative: detail("eta_s").unwrap_or_else(|| 0.0.into()),
        state: State {
            skipped: false,
            interrupted: false,
            job: running.map_or_else(String::new, |job| job.id.to_string()),
            job_count: waiting,
            job_no: 0,
            sampling_step: detail("step").unwrap_or_else(|| 0.into()),
            sampling_steps: detail("steps").unwrap_or_else(|| 0.into()),
        },
        current_image: None,
        textinfo: None,
    }
}
