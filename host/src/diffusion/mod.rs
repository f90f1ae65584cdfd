//! Text to image: from a request of a plugin to a picture, by the mode's model.

mod control;
mod inspect;
mod library;
mod modes;
mod prompt;
mod size;
mod steps;
mod watch;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, RwLock},
    time::Instant,
};

use image::{DynamicImage, RgbImage, imageops::FilterType};
use reverie_kernels::{Backend, nvml};
use reverie_models::{
    denoise,
    noise::Blend,
    pipeline::{Mask, Picture, Request as Generation},
    prompt::Prompt,
    schedulers::SchedulerName,
};

use crate::{
    config::{self, Config, Mode},
    embedded::Embedded,
    error::Error,
    execution::{AnyBackend, Denoise, Device, Ended, backend},
};
pub use control::Control;
use control::lease;
pub use inspect::Inspected;
pub use library::error;
use library::{Adapter, Library, Model};
pub use modes::Modes;
use steps::{DENOISED, ENCODED, Steps, steps_of};
pub use watch::{Watcher, watch};

/// What a request takes where neither it nor its mode says: models made for few steps, and all others.
const FEW_STEPS: (u32, f32) = (4, 1.0);
const MANY_STEPS: (u32, f32) = (25, 7.5);

/// The largest number of steps that a request may ask for.
const MAX_STEPS: u32 = 1000;

/// What a picture shall be. None, and a size of 0, take the mode's value.
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub mode: String,
    pub prompt: String,
    pub negative_prompt: Option<String>,
    pub prompt_2: Option<String>,
    pub negative_prompt_2: Option<String>,
    pub width: u32,
    pub height: u32,
    pub num_inference_steps: Option<u32>,
    pub guidance_scale: Option<f32>,
    pub seed: u64,
    pub blends: Vec<Blend>,
    pub scheduler: Option<String>,
    pub schedule_type: Option<String>,
    pub clip_skip: Option<u32>,
    pub strength: f32,
    pub loras: Vec<(String, f32)>,
    pub image: Option<Arc<DynamicImage>>,
    pub mask: Option<Arc<DynamicImage>>,
}

/// A picture and what it was made with.
pub struct Generated {
    pub picture: RgbImage,
    pub mode: String,
    pub model: String,
    pub scheduler: &'static str,
    pub num_inference_steps: u32,
    pub guidance_scale: f32,
    pub negative_prompt: Option<String>,
    pub loras: Vec<(String, f32)>,
    pub timings: Timings,
}

/// Milliseconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Timings {
    pub load: f64,
    pub encode: f64,
    pub denoise: f64,
    pub decode: f64,
}

/// Models, modes and the device they run on.
pub struct Diffusion {
    backend: Arc<AnyBackend>,
    library: Library,
    modes: RwLock<Modes>,
    embedded: Option<Embedded>,
    settings: config::Diffusion,
    sources: config::Sources,
    /// The mode whose model was used last, for `system:status`.
    current: Mutex<Option<String>>,
}

impl Diffusion {
    pub fn new(config: &Config, backend: Arc<AnyBackend>) -> Self {
        let embedded = config.diffusion.embedded.then(|| Embedded::new(&config.diffusion.embedded_dir));
        let modes = Modes::read(config, embedded.as_ref());
        match modes.get("") {
            Ok((default, _)) => {
                tracing::info!(default, "modes: {}", modes.names().collect::<Vec<_>>().join(", "))
            }
            Err(error) => tracing::warn!("generate: {}", error.message),
        }
        Self {
            backend,
            library: Library::new(config.diffusion.memory_mb << 20),
            modes: RwLock::new(modes),
            embedded,
            settings: config.diffusion.clone(),
            sources: config.sources.clone(),
            current: Mutex::default(),
        }
    }

    /// The device in words.
    pub fn backend(&self) -> &str {
        self.backend.name()
    }

    /// Figures of its GPU, where there is one.
    pub fn gpu(&self) -> Option<nvml::Status> {
        backend::status(&self.backend)
    }

    /// The modes as they are now.
    pub fn modes(&self) -> Modes {
        self.modes.read().unwrap().clone()
    }

    /// Makes another mode the default one.
    ///
    /// # Errors
    /// Those of [`Modes::get`].
    pub fn switch(&self, name: &str) -> Result<(), Error> {
        self.modes.write().unwrap().switch(name)
    }

    /// Reads the configuration's modes and the folder of models again. Requests in flight finish as they began. Models stay in
    /// memory, unless `anew`.
    ///
    /// # Errors
    /// What is wrong with the configuration; the old modes then stay.
    pub fn reload(&self, anew: bool) -> Result<(), Error> {
        let config = config::load(&self.sources).map_err(Error::invalid)?;
        let modes = Modes::read(&config, self.embedded.as_ref());
        if anew {
            self.library.clear();
        }
        let mut current = self.modes.write().unwrap();
        let modes = modes.switched_as(&current);
        if *current != modes {
            tracing::info!("modes: {}", modes.names().collect::<Vec<_>>().join(", "));
            *current = modes;
        }
        Ok(())
    }

    /// What lies in memory: path and bytes.
    pub fn loaded(&self) -> Vec<(PathBuf, u64)> {
        self.library.loaded()
    }

    /// Drops the models that no request has; whether there were any.
    pub fn drop_idle(&self) -> bool {
        self.library.drop_idle()
    }

    /// The mode that was used last.
    pub fn current(&self) -> Option<String> {
        let used = self.current.lock().unwrap().clone();
        used.or_else(|| self.modes.read().unwrap().default_name().map(str::to_owned))
    }

    /// The LoRA files there are, by name.
    pub fn loras(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.settings.loras_dir).into_iter().flatten().flatten();
        let files = entries.map(|entry| entry.path());
        let mut names: Vec<String> = files
            .filter(|path| path.extension().is_some_and(|e| e == "safetensors"))
            .map(|p| modes::name(&p))
            .collect();
        names.sort();
        names
    }

    /// Whether pictures can be made from a prompt: there is the mode, and the LoRAs that the prompt names, and its brackets and
    /// weights are sound. Returns the prompt without the LoRAs. Loads nothing.
    ///
    /// # Errors
    /// `InvalidInput` with what is wrong; `Unavailable` without a model.
    pub fn check(&self, mode: &str, prompt: &str) -> Result<String, Error> {
        let mode = self.modes.read().unwrap().get(mode)?.1.clone();
        let (plain, loras) = prompt::loras(prompt)?;
        self.adapters(&mode, &Request { loras, ..Request::default() })?;
        Prompt::parse(&plain).map_err(library::error)?;
        Ok(plain)
    }

    /// Makes a picture. Blocks; the device is shared step by step.
    ///
    /// # Errors
    /// `InvalidInput` names the field and what is accepted; `Unavailable` without a model; `Cancelled`.
    pub fn generate(
        &self,
        device: &Device,
        mut request: Request,
        control: Arc<dyn Control>,
    ) -> Result<Generated, Error> {
        let (prompt, named) = prompt::loras(&request.prompt)?;
        request.prompt = prompt;
        request.loras.extend(named);
        let (mode_name, mode) = {
            let modes = self.modes.read().unwrap();
            let (name, mode) = modes.get(&request.mode)?;
            (name.to_owned(), mode.clone())
        };
        let adapters = self.adapters(&mode, &request)?;
        let began = Instant::now();
        let model = self.model(device, &mode, &adapters)?;
        *self.current.lock().unwrap() = Some(mode_name.clone());
        let loaded = Instant::now();

        let size = self.size(&mode, &request, &model)?;
        let generation = self.generation(&mode, &request, &model)?;
        let (steps, guidance_scale) = (generation.num_inference_steps, generation.guidance_scale);
        let negative_prompt = generation.negative_prompt.clone();
        let scheduler = generation.scheduler.as_ref().unwrap_or(model.pipeline.scheduler()).name().as_str();
        let picture = {
            let _lease = lease(&device.ticket(), &*control).ok_or_else(Error::cancelled)?;
            let prepared = device.room.retry(|| model.pipeline.prepare(model.backend(), &generation));
            prepared.map_err(|error| model.error(error))?
        };
        let encoded = Instant::now();
        control.progress(ENCODED, steps_of(&picture));

        let watch = Arc::new(Steps::new(control.clone(), model.clone()));
        let step = |pictures: &mut [&mut Denoise]| {
            let (backend, unet) = (model.backend(), &model.pipeline.unet);
            let outputs = device.room.retry(|| denoise::predict(backend, unet, pictures))?;
            denoise::advance(backend, &outputs, pictures)?;
            // The device is given back after a step, and its client told of it: it has to be done by then, not just launched.
            pictures.last().map_or(Ok(()), |picture| picture.latents(model.backend()).map(drop))
        };
        let picture =
            model.lane.run(device, picture, watch, self.settings.max_batch, &step).map_err(|ended| {
                match ended {
                    Ended::Stopped => Error::cancelled(),
                    Ended::Failed(error) => model.error(error),
                    Ended::Fault => Error::internal("the model failed (a fault of the server)"),
                }
            })?;
        let denoised = Instant::now();
        let decoded = self.decode(device, &model, &picture, &*control)?;
        let decoded = size::fitted(decoded, size, request.image.is_some());
        let ms = |from: Instant, to: Instant| (to - from).as_secs_f64() * 1e3;
        Ok(Generated {
            picture: decoded,
            mode: mode_name,
            model: modes::name(&mode.model),
            scheduler,
            num_inference_steps: steps as u32,
            guidance_scale,
            negative_prompt,
            loras: adapters.into_iter().map(|adapter| (adapter.name, adapter.strength)).collect(),
            timings: Timings {
                load: ms(began, loaded),
                encode: ms(loaded, encoded),
                denoise: ms(encoded, denoised),
                decode: ms(denoised, Instant::now()),
            },
        })
    }

    /// Width and height of a mode's own pictures, and what both must be multiples of. Loads the model.
    ///
    /// # Errors
    /// Those of [`Diffusion::generate`].
    pub fn own_size(&self, device: &Device, mode: &str) -> Result<(u32, u32, u32), Error> {
        let mode = self.modes.read().unwrap().get(mode)?.1.clone();
        let request = Request::default();
        let adapters = self.adapters(&mode, &request)?;
        let model = self.model(device, &mode, &adapters)?;
        let (width, height) = size::made_at(&mode, self.size(&mode, &request, &model)?);
        Ok((width, height, model.pipeline.factor() as u32))
    }

    fn model(&self, device: &Device, mode: &Mode, adapters: &[Adapter]) -> Result<Arc<Model>, Error> {
        if let Some(embedded) = &self.embedded
            && mode.model == embedded.model()
        {
            embedded.unpack()?;
        }
        self.library.get(&self.backend, &device.room, &mode.model, mode.vae.as_deref(), adapters)
    }

    fn adapters(&self, mode: &Mode, request: &Request) -> Result<Vec<Adapter>, Error> {
        let own = mode.loras.iter().map(|lora| (&lora.name, lora.strength));
        let further = request.loras.iter().map(|(name, strength)| (name, *strength));
        let named = own.chain(further).filter(|(_, strength)| *strength != 0.0);
        named
            .map(|(name, strength)| {
                let plain = !name.is_empty() && !name.contains(['/', '\\']) && !name.starts_with('.');
                let path = self.settings.loras_dir.join(format!("{name}.safetensors"));
                if !plain || !path.is_file() {
                    let known = self.loras();
                    let known = if known.is_empty() { "none".into() } else { known.join(", ") };
                    return Err(Error::invalid(format!("loras: there is no '{name}'; there are: {known}")));
                }
                Ok(Adapter { name: name.clone(), path, strength })
            })
            .collect()
    }

    /// The request with the mode's and the model's values where it has none.
    fn generation(&self, mode: &Mode, request: &Request, model: &Model) -> Result<Generation, Error> {
        let pipeline = &model.pipeline;
        let mut scheduler = pipeline.scheduler().clone();
        if let Some(name) = request.scheduler.as_ref().or(mode.scheduler.as_ref()) {
            scheduler = scheduler.with_name(name).map_err(|e| Error::invalid(format!("scheduler: {e}")))?;
        }
        if let Some(name) = &request.schedule_type {
            scheduler = scheduler
                .with_schedule_type(name)
                .map_err(|e| Error::invalid(format!("schedule_type: {e}")))?;
        }
        let few = pipeline.is_lcm() || pipeline.is_turbo() || scheduler.name() == SchedulerName::Lcm;
        let (default_steps, default_guidance) = if few { FEW_STEPS } else { MANY_STEPS };
        let steps = request.num_inference_steps.or(mode.num_inference_steps).unwrap_or(default_steps);
        if !(1..=MAX_STEPS).contains(&steps) {
            return Err(Error::invalid(format!(
                "num_inference_steps: accepted are 1 to {MAX_STEPS}, got {steps}"
            )));
        }
        let (width, height) = size::made_at(mode, self.size(mode, request, model)?);
        let fit = |picture: &DynamicImage| match (picture.width(), picture.height()) == (width, height) {
            true => picture.clone(),
            // As diffusers' VaeImageProcessor.
            false => picture.resize_exact(width, height, FilterType::Lanczos3),
        };
        let (width_px, height_px) = (width as usize, height as usize);
        let image = request.image.as_ref().map(|picture| Picture {
            width: width_px,
            height: height_px,
            rgb: fit(picture).to_rgb8().into_raw(),
        });
        let mask = request.mask.as_ref().map(|picture| Mask {
            width: width_px,
            height: height_px,
            grey: fit(picture).to_luma8().into_raw(),
        });
        Ok(Generation {
            prompt: request.prompt.clone(),
            negative_prompt: request.negative_prompt.clone().or_else(|| mode.negative_prompt.clone()),
            prompt_2: request.prompt_2.clone(),
            negative_prompt_2: request.negative_prompt_2.clone(),
            width: width_px,
            height: height_px,
            time_ids: None,
            num_inference_steps: steps as usize,
            guidance_scale: request.guidance_scale.or(mode.guidance_scale).unwrap_or(default_guidance),
            seed: request.seed,
            blends: request.blends.clone(),
            clip_skip: request.clip_skip.or(mode.clip_skip).map(|layers| layers as usize),
            scheduler: Some(scheduler),
            image,
            mask,
            strength: request.strength,
        })
    }

    /// Width and height of what a request gets.
    fn size(&self, mode: &Mode, request: &Request, model: &Model) -> Result<(u32, u32), Error> {
        let (width, height) = size::asked(mode, request, &model.pipeline)?;
        let limit = self.settings.max_pixels;
        if u64::from(width) * u64::from(height) > limit {
            return Err(Error::invalid(format!(
                "size: {width}x{height} is over the limit of {limit} pixels (diffusion.max_pixels)"
            )));
        }
        Ok((width, height))
    }

    fn decode(
        &self,
        device: &Device,
        model: &Model,
        picture: &Denoise,
        control: &dyn Control,
    ) -> Result<RgbImage, Error> {
        let ticket = device.ticket();
        let mut leased = None;
        let mut stopped = false;
        // The device is given back and asked for again between tiles.
        let mut progress = |done: usize, tiles: usize| {
            leased = None;
            let share = done as f32 / tiles.max(1) as f32;
            control.progress(DENOISED + (1.0 - DENOISED) * share, steps_of(picture));
            if done < tiles {
                leased = lease(&ticket, control);
                stopped = leased.is_none();
            }
            match stopped {
                true => Err(reverie_models::Error::Invalid("stopped".into())),
                false => Ok(()),
            }
        };
        let decoded = device.room.retry(|| model.pipeline.decode(model.backend(), picture, &mut progress));
        if stopped {
            return Err(Error::cancelled());
        }
        let decoded = decoded.map_err(|error| model.error(error))?;
        RgbImage::from_raw(decoded.width as u32, decoded.height as u32, decoded.rgb)
            .ok_or_else(|| Error::internal("the picture has not as many pixels as it should"))
    }
}
