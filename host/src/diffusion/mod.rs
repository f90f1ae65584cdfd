//! Text to image: from a request of a plugin to a picture, by the mode's model.

mod control;
mod enlarge;
mod inspect;
mod library;
mod modes;
mod planned;
mod prompt;
mod request;
mod rules;
mod size;
mod stages;
mod steps;
mod traits;
mod watch;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use image::RgbImage;
use parking_lot::{Mutex, RwLock};
use reverie_kernels::{Backend, gpu::cuda::Warming, nvml};
use reverie_memory::{Budget, Use};
use reverie_models::prompt::Prompt;

use crate::{
    config::{self, Config, Mode},
    embedded::Embedded,
    error::Error,
    execution::{AnyBackend, Device, backend},
    models::Upscalers,
    pictures::pillow,
};
pub use control::Control;
use control::lease;
pub use inspect::Inspected;
pub use library::error;
use library::{Adapter, For, Library, Model};
pub use modes::Modes;
pub use request::{Generated, Request, Timings};
use request::{bytes, bytes_to_resize};
use steps::{DECODED, LOADED, stage};
pub use traits::Defaults;
pub use watch::{Watcher, watch};

/// Models, modes and the device they run on.
pub struct Diffusion {
    backend: Arc<AnyBackend>,
    memory: Arc<Budget>,
    upscalers: Arc<Upscalers>,
    library: Library,
    modes: RwLock<Modes>,
    traits: Mutex<traits::Known>,
    embedded: Option<Embedded>,
    settings: config::Diffusion,
    sources: config::Sources,
    /// The mode whose model was used last, for `system:status`.
    current: Mutex<Option<String>>,
}

impl Diffusion {
    /// # Errors
    /// A mode's network that is not there, by name.
    pub fn new(
        config: &Config,
        backend: Arc<AnyBackend>,
        upscalers: Arc<Upscalers>,
        memory: Arc<Budget>,
    ) -> Result<Self, String> {
        let embedded = config.diffusion.embedded.then(|| Embedded::new(&config.diffusion.embedded_dir));
        let modes = Modes::read(config, embedded.as_ref());
        check_upscalers(&modes, &upscalers).map_err(|error| error.message)?;
        match modes.get("") {
            Ok((default, _)) => {
                tracing::info!(default, "modes: {}", modes.names().collect::<Vec<_>>().join(", "))
            }
            Err(error) => tracing::warn!("generate: {}", error.message),
        }
        Ok(Self {
            backend,
            memory,
            upscalers,
            library: Library::new(config.diffusion.memory_mb << 20),
            modes: RwLock::new(modes),
            traits: Mutex::default(),
            embedded,
            settings: config.diffusion.clone(),
            sources: config.sources.clone(),
            current: Mutex::default(),
        })
    }

    /// The device in words.
    pub fn backend(&self) -> &str {
        self.backend.name()
    }

    /// Has its kernels compiled in the background; see [`backend::warm`].
    pub fn warm(&self) -> Option<Warming> {
        backend::warm(&self.backend)
    }

    /// Whether its locks are given free within `patience` each; see [`Library::answers`].
    pub fn answers(&self, patience: Duration) -> bool {
        self.library.answers(patience)
    }

    /// Why its GPU is of no more use, once it is not.
    pub fn lost(&self) -> Option<String> {
        backend::lost(&self.backend).map(str::to_owned)
    }

    /// Figures of its GPU, where there is one.
    pub fn gpu(&self) -> Option<nvml::Status> {
        backend::status(&self.backend)
    }

    /// The modes as they are now.
    pub fn modes(&self) -> Modes {
        self.modes.read().clone()
    }

    /// Makes another mode the default one, and the current one.
    ///
    /// # Errors
    /// Those of [`Modes::get`].
    pub fn switch(&self, name: &str) -> Result<(), Error> {
        self.modes.write().switch(name)?;
        *self.current.lock() = Some(name.to_owned());
        Ok(())
    }

    /// Reads the configuration's modes and the folder of models again. Requests in flight finish as they began. Models stay in
    /// memory, unless `anew`.
    ///
    /// # Errors
    /// What is wrong with the configuration; the old modes then stay.
    pub fn reload(&self, anew: bool) -> Result<(), Error> {
        let config = config::load(&self.sources).map_err(Error::invalid)?;
        let modes = Modes::read(&config, self.embedded.as_ref());
        check_upscalers(&modes, &self.upscalers)?;
        if anew {
            self.library.clear();
        }
        // Files may be others by now.
        self.traits.lock().clear();
        let mut current = self.modes.write();
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
        let used = self.current.lock().clone();
        used.or_else(|| self.modes.read().default_name().map(str::to_owned))
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
        let mode = self.modes.read().get(mode)?.1.clone();
        prompt::check_length("prompt", Some(prompt))?;
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
        for (name, text) in [
            ("prompt", Some(&*request.prompt)),
            ("negative_prompt", request.negative_prompt.as_deref()),
            ("prompt_2", request.prompt_2.as_deref()),
            ("negative_prompt_2", request.negative_prompt_2.as_deref()),
        ] {
            prompt::check_length(name, text)?;
        }
        let (prompt, named) = prompt::loras(&request.prompt)?;
        request.prompt = prompt;
        request.loras.extend(named);
        let (mode_name, mode) = {
            let modes = self.modes.read();
            let (name, mode) = modes.get(&request.mode)?;
            (name.to_owned(), mode.clone())
        };
        // What a mode accepts is for what clients ask: the small pictures of dreams are of no size that it lists.
        if !control.background() {
            rules::check(&mode_name, &mode, &request)?;
        }
        let adapters = self.adapters(&mode, &request)?;
        let began = Instant::now();
        control.progress(0.0, stage("loading"));
        let tell = |part: f32| {
            let mut detail = stage("loading");
            detail.insert("loaded".into(), ((f64::from(part) * 100.0).round() / 100.0).into());
            control.progress(LOADED * part, detail);
        };
        let model = self.model(device, &mode, &adapters, Some((&*control, &tell)))?;
        if request.strict
            && let Some(lost) = model.adapter_warnings.first()
        {
            return Err(Error::invalid(format!(
                "loras: {lost}; strict accepts those alone of which every part fits"
            )));
        }
        *self.current.lock() = Some(mode_name.clone());
        let loaded = Instant::now();

        let size = self.size(&mode, &request, &model)?;
        let mut held = self.memory.hold(Use::Pictures, bytes(size, &request))?;
        let to_resize = bytes_to_resize(size::made_at(&mode, size), &request);
        held.grow(to_resize)?;
        let (generation, guidance_scale) = self.generation((&mode_name, &mode), &request, &model)?;
        held.shrink(to_resize);
        let steps = generation.num_inference_steps;
        let negative_prompt = generation.negative_prompt.clone();
        let scheduler = generation.scheduler.as_ref().unwrap_or(model.pipeline.scheduler()).name().as_str();
        let mut warnings = model.pipeline.warnings().to_vec();
        let (mut encoded, mut denoised) = (loaded, loaded);
        let picture = match &request.image {
            // diffusers refuses this, as no step is left to run. The picture is what comes out when nothing of it may change.
            Some(image) if request.strength == 0.0 => {
                let rgb = pillow::fitted(image, [size.0 as usize, size.1 as usize]);
                RgbImage::from_raw(size.0, size.1, rgb).expect("three bytes a pixel")
            }
            image => {
                control.progress(LOADED, stage("encoding"));
                let picture = self.prepare(device, &model, &generation, &*control)?;
                warnings.extend_from_slice(picture.warnings());
                encoded = Instant::now();
                let picture = self.denoise(device, &model, picture, &control)?;
                denoised = Instant::now();
                let made = size::made_at(&mode, size);
                let until = if made == size { 1.0 } else { DECODED };
                let decoded = self.decode(device, &model, &picture, until, &*control)?;
                let inside = size::inside(made, size, image.is_some());
                let inner = match made == inside {
                    true => decoded,
                    false => {
                        let with = modes::enlarges_with(&mode);
                        enlarge::enlarged(&self.upscalers, device, with, decoded, inside, until, &*control)?
                    }
                };
                size::framed(inner, size)
            }
        };
        let mut picture = held.with(picture);
        picture.held.shrink(picture.held.bytes().saturating_sub(picture.as_raw().len()));
        let ms = |from: Instant, to: Instant| (to - from).as_secs_f64() * 1e3;
        Ok(Generated {
            picture,
            mode: mode_name,
            model: modes::name(&mode.model),
            scheduler,
            num_inference_steps: steps as u32,
            guidance_scale,
            negative_prompt,
            loras: adapters.into_iter().map(|adapter| (adapter.name, adapter.strength)).collect(),
            warnings,
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
        let mode = self.modes.read().get(mode)?.1.clone();
        let request = Request::default();
        let adapters = self.adapters(&mode, &request)?;
        let model = self.model(device, &mode, &adapters, None)?;
        let (width, height) = size::made_at(&mode, self.size(&mode, &request, &model)?);
        Ok((width, height, model.pipeline.factor() as u32))
    }

    fn model(
        &self,
        device: &Device,
        mode: &Mode,
        adapters: &[Adapter],
        whom: For,
    ) -> Result<Arc<Model>, Error> {
        self.unpack(mode)?;
        self.library.get(&self.backend, &device.room, &mode.model, mode.vae.as_deref(), adapters, whom)
    }

    /// Writes the embedded model to its folder where it is the mode's.
    fn unpack(&self, mode: &Mode) -> Result<(), Error> {
        match &self.embedded {
            Some(embedded) if mode.model == embedded.model() => embedded.unpack(),
            _ => Ok(()),
        }
    }

    fn adapters(&self, mode: &Mode, request: &Request) -> Result<Vec<Adapter>, Error> {
        let own = mode.loras.iter().map(|lora| (&lora.name, lora.strength));
        let further = request.loras.iter().map(|(name, strength)| (name, *strength));
        let named = own.chain(further).filter(|(_, strength)| *strength != 0.0);
        named
            .map(|(name, strength)| {
                let plain = !name.is_empty() && !name.contains(['/', '\\']) && !name.starts_with('.');
                let path = self.settings.loras_dir.join(format!("{name}.safetensors"));
                let file = path.metadata().ok().filter(|about| plain && about.is_file());
                let Some(file) = file else {
                    let known = self.loras();
                    let known = if known.is_empty() { "none".into() } else { known.join(", ") };
                    return Err(Error::invalid(format!("loras: there is no '{name}'; there are: {known}")));
                };
                let version = (file.len(), file.modified().unwrap_or(SystemTime::UNIX_EPOCH));
                Ok(Adapter { name: name.clone(), path, version, strength })
            })
            .collect()
    }
}

/// Checks the names of what enlarges the modes' pictures.
fn check_upscalers(modes: &Modes, upscalers: &Upscalers) -> Result<(), Error> {
    for (name, mode) in modes.iter().filter(|(_, mode)| mode.native_size.is_some()) {
        enlarge::scales(upscalers, modes::enlarges_with(mode))
            .map_err(|error| Error::invalid(format!("modes.{name}.{}", error.message)))?;
    }
    Ok(())
}
