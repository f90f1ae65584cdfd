//! What a mode does when a request says nothing, told by its model's files without loading it.

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use reverie_models::{
    ModelFiles, ModelKind,
    schedulers::{SchedulerConfig, SchedulerName},
};

use super::{Diffusion, library, rules};
use crate::{
    config::{self, Mode},
    error::Error,
};

/// What a request takes where neither it nor its mode says: models made for few steps, and all others.
const FEW_STEPS: (u32, f64) = (4, 1.0);
const MANY_STEPS: (u32, f64) = (25, 7.5);

/// What a model's files tell.
pub struct Traits {
    kind: ModelKind,
    pub scheduler: SchedulerConfig,
    /// Whether it was made for few steps.
    few: bool,
    /// Of the pictures that it was trained with, in pixels.
    side: u32,
}

/// Those of models that were looked at, by the files of model and autoencoder.
pub type Known = HashMap<(PathBuf, Option<PathBuf>), Arc<Traits>>;

/// What a mode does when a request says nothing; none where its files don't tell.
pub struct Defaults {
    pub size: Option<(u32, u32)>,
    pub num_inference_steps: Option<u32>,
    pub guidance_scale: Option<f64>,
    pub scheduler_id: Option<&'static str>,
}

/// Steps and guidance with a scheduler where nobody says.
pub fn steps_and_guidance(few: bool, scheduler: SchedulerName) -> (u32, f64) {
    if few || scheduler == SchedulerName::Lcm { FEW_STEPS } else { MANY_STEPS }
}

impl Diffusion {
    /// What a mode does when a request says nothing. The model's files are looked at only for what the mode does not say itself.
    pub fn defaults(&self, name: &str, mode: &Mode) -> Defaults {
        // A broken model says nothing; whoever uses it is told why.
        let traits = || self.traits(mode).ok();
        let scheduler_id = match mode.default_scheduler() {
            Some(scheduler) => config::scheduler_id(scheduler).ok().flatten(),
            None => traits().and_then(|traits| traits.scheduler.sampler_id(&traits.scheduler)),
        };
        let chosen = || {
            let traits = traits()?;
            let scheduler = rules::scheduler(name, mode, None, None, &traits.scheduler).ok()?;
            Some(steps_and_guidance(traits.few, scheduler.name()))
        };
        Defaults {
            size: mode.default_size().or_else(|| traits().map(|traits| (traits.side, traits.side))),
            num_inference_steps: mode.num_inference_steps.or_else(|| chosen().map(|(steps, _)| steps)),
            guidance_scale: mode.guidance_scale.or_else(|| chosen().map(|(_, guidance)| guidance)),
            scheduler_id,
        }
    }

    /// The id of what a request with this scheduler and schedule type takes its steps with; none where no id says it all.
    ///
    /// # Errors
    /// `InvalidInput` for what is not known or not accepted; those of [`Diffusion::generate`] for the model's files.
    pub fn scheduler_id(
        &self,
        mode: &str,
        scheduler: Option<&str>,
        schedule_type: Option<&str>,
    ) -> Result<Option<&'static str>, Error> {
        let (name, mode) = {
            let modes = self.modes.read();
            let (name, mode) = modes.get(mode)?;
            (name.to_owned(), mode.clone())
        };
        let traits = self.traits(&mode)?;
        let chosen = rules::scheduler(&name, &mode, scheduler, schedule_type, &traits.scheduler)?;
        Ok(chosen.sampler_id(&traits.scheduler))
    }

    /// What a mode's model is.
    ///
    /// # Errors
    /// Those of [`Diffusion::generate`] for the mode and the model's files.
    pub fn kind(&self, mode: &str) -> Result<ModelKind, Error> {
        let mode = self.modes.read().get(mode)?.1.clone();
        Ok(self.traits(&mode)?.kind)
    }

    fn traits(&self, mode: &Mode) -> Result<Arc<Traits>, Error> {
        let key = (mode.model.clone(), mode.vae.clone());
        if let Some(known) = self.traits.lock().get(&key) {
            return Ok(known.clone());
        }
        self.unpack(mode)?;
        let mut files = ModelFiles::open(&mode.model).map_err(library::error)?;
        if let Some(vae) = &mode.vae {
            files.vae = ModelFiles::open_vae(vae).map_err(library::error)?;
        }
        let traits = Arc::new(Traits {
            kind: files.kind,
            scheduler: files.scheduler_config().map_err(library::error)?,
            few: files.is_lcm() || files.is_turbo(),
            side: files.default_size() as u32,
        });
        self.traits.lock().insert(key, traits.clone());
        Ok(traits)
    }
}
