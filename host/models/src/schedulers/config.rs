//! `scheduler_config.json`: which scheduler a model is saved with, and its settings.

use serde_json::{Map, Value};

use super::{json, keys, samplers, settings::Settings};
use crate::error::{Error, Result};

/// The schedulers that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SchedulerName {
    /// `DDIMScheduler` (Song et al. 2020).
    Ddim,
    /// `DDPMScheduler` (Ho et al. 2020).
    Ddpm,
    /// `DEISMultistepScheduler` (Zhang and Chen 2022).
    DeisMultistep,
    /// `DPMSolverMultistepScheduler`: DPM-Solver, DPM-Solver++ and their SDE variants (Lu et al. 2022).
    DpmSolverMultistep,
    /// `DPMSolverSinglestepScheduler` (Lu et al. 2022).
    DpmSolverSinglestep,
    /// `EDMDPMSolverMultistepScheduler`: DPM-Solver++ for models trained by EDM (Karras et al. 2022).
    EdmDpmSolverMultistep,
    /// `EDMEulerScheduler`: Euler's method for models trained by EDM (Karras et al. 2022).
    EdmEuler,
    /// `EulerAncestralDiscreteScheduler`.
    EulerAncestralDiscrete,
    /// `EulerDiscreteScheduler` (Karras et al. 2022).
    EulerDiscrete,
    /// `HeunDiscreteScheduler` (Karras et al. 2022). It runs the model twice a step, but for the last.
    HeunDiscrete,
    /// `KDPM2AncestralDiscreteScheduler`: DPM-Solver-2 (Karras et al. 2022) with noise. It runs the model twice a step, but
    /// for the last.
    KDpm2AncestralDiscrete,
    /// `KDPM2DiscreteScheduler`: DPM-Solver-2 (Karras et al. 2022). It runs the model twice a step, but for the last.
    KDpm2Discrete,
    /// `LCMScheduler` (Luo et al. 2023).
    Lcm,
    /// `LMSDiscreteScheduler`: the linear multistep method of Katherine Crowson's k-diffusion.
    LmsDiscrete,
    /// `PNDMScheduler`: PLMS (Liu et al. 2022), after Runge-Kutta steps unless `skip_prk_steps` is on.
    Pndm,
    /// `TCDScheduler` (Zheng et al. 2024).
    Tcd,
    /// `UniPCMultistepScheduler` (Zhao et al. 2023).
    UniPcMultistep,
}

impl SchedulerName {
    /// All, by their class names in diffusers.
    pub const ALL: [(&str, Self); 17] = [
        ("DDIMScheduler", Self::Ddim),
        ("DDPMScheduler", Self::Ddpm),
        ("DEISMultistepScheduler", Self::DeisMultistep),
        ("DPMSolverMultistepScheduler", Self::DpmSolverMultistep),
        ("DPMSolverSinglestepScheduler", Self::DpmSolverSinglestep),
        ("EDMDPMSolverMultistepScheduler", Self::EdmDpmSolverMultistep),
        ("EDMEulerScheduler", Self::EdmEuler),
        ("EulerAncestralDiscreteScheduler", Self::EulerAncestralDiscrete),
        ("EulerDiscreteScheduler", Self::EulerDiscrete),
        ("HeunDiscreteScheduler", Self::HeunDiscrete),
        ("KDPM2AncestralDiscreteScheduler", Self::KDpm2AncestralDiscrete),
        ("KDPM2DiscreteScheduler", Self::KDpm2Discrete),
        ("LCMScheduler", Self::Lcm),
        ("LMSDiscreteScheduler", Self::LmsDiscrete),
        ("PNDMScheduler", Self::Pndm),
        ("TCDScheduler", Self::Tcd),
        ("UniPCMultistepScheduler", Self::UniPcMultistep),
    ];

    /// The class name in diffusers.
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, scheduler)| *scheduler == self).map_or("", |(name, _)| name)
    }

    /// The scheduler with this class name in diffusers.
    pub fn from_class_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(class_name, _)| *class_name == name).map(|(_, scheduler)| *scheduler)
    }
}

/// The settings of a model's scheduler. Keys that the file lacks have the defaults of the scheduler's class, also after a
/// change of the class, as with diffusers' `from_config`; keys that the class does not know mean nothing to it.
#[derive(Debug, Clone, PartialEq)]
pub struct SchedulerConfig {
    name: SchedulerName,
    keys: Map<String, Value>,
    /// What [`SchedulerConfig::corrected`] has put in place of the class's defaults: another class has its own.
    assumed: Map<String, Value>,
    /// Why it can't be used as it is: another scheduler in its place can.
    refused: Option<String>,
}

impl SchedulerConfig {
    /// Reads the text of a model's `scheduler_config.json`, which may be that of a scheduler that is not built: then
    /// [`SchedulerConfig::usable`] says so, and [`SchedulerConfig::with_name`] puts another in its place.
    ///
    /// # Errors
    /// [`Error::Invalid`] where it is not a JSON object; for a scheduler that is built, those of [`SchedulerConfig::from_json`].
    pub fn of_model(text: &str) -> Result<Self> {
        let keys = parse(text)?;
        let class_name = keys.get("_class_name").and_then(Value::as_str).unwrap_or_default();
        if SchedulerName::from_class_name(class_name).is_some() {
            return Self::from_json(text);
        }
        let refused = Self::from_json(text).err().map(|error| error.to_string());
        Ok(Self { name: SchedulerName::EulerDiscrete, keys, assumed: Map::new(), refused })
    }

    /// # Errors
    /// [`Error::Unsupported`] for a model's own scheduler that is not built.
    pub fn usable(&self) -> Result<()> {
        self.refused.as_ref().map_or(Ok(()), |why| Err(Error::Unsupported(why.clone())))
    }

    /// Reads the text of a `scheduler_config.json`.
    ///
    /// # Errors
    /// [`Error::Invalid`] where it is not a JSON object; [`Error::Unsupported`] where a key has a value of the wrong type or
    /// one that is not supported: the message names the key and what is accepted.
    pub fn from_json(text: &str) -> Result<Self> {
        let keys = parse(text)?;
        let class_name = keys.get("_class_name").and_then(Value::as_str).unwrap_or_default();
        let name = SchedulerName::from_class_name(class_name).ok_or_else(|| {
            let accepted: Vec<_> = SchedulerName::ALL.iter().map(|(name, _)| *name).collect();
            let accepted = accepted.join(", ");
            Error::Unsupported(format!(
                "the scheduler's _class_name is '{class_name}'; accepted are {accepted}"
            ))
        })?;
        Self { name, keys, assumed: Map::new(), refused: None }.checked()
    }

    /// Reads the text of a `scheduler_config.json` for another scheduler than its own, which may be one that is not
    /// supported. `name` is as for [`SchedulerConfig::with_name`].
    ///
    /// # Errors
    /// Those of [`SchedulerConfig::from_json`] and of [`SchedulerConfig::with_name`].
    pub fn from_json_with_name(text: &str, name: &str) -> Result<Self> {
        let (name_of_none, keys) = (SchedulerName::EulerDiscrete, parse(text)?);
        Self { name: name_of_none, keys, assumed: Map::new(), refused: None }.with_name(name)
    }

    /// Which scheduler it is.
    pub fn name(&self) -> SchedulerName {
        self.name
    }

    /// The same model with the sampler that a request names: a class name of diffusers (`EulerDiscreteScheduler`), or a
    /// sampler's id (`dpmpp_2m_karras`) or its name in AUTOMATIC1111's web UI (`DPM++ 2M Karras`) or in ComfyUI (`dpmpp_2m`), of
    /// any case. For a model trained by EDM these are that training's own, and most do not exist.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an unknown name and for one that does not go with the model's training; those of [`SchedulerConfig::from_json`] where the model's other settings do
    /// not go with the scheduler.
    pub fn with_name(&self, name: &str) -> Result<Self> {
        self.named(name)?.checked()
    }

    /// The same, and with a spacing as [`SchedulerConfig::with_schedule_type`] takes it. The file's own spacings need not go with
    /// the scheduler, or with one another.
    ///
    /// # Errors
    /// Those of both.
    pub fn with_name_and_schedule_type(&self, name: &str, schedule_type: &str) -> Result<Self> {
        self.named(name)?.with_schedule_type(schedule_type)
    }

    fn named(&self, name: &str) -> Result<Self> {
        let mut sampler = samplers::find(name)?;
        if self.name.is_edm() && SchedulerName::from_class_name(name).is_none() {
            sampler = samplers::for_edm(sampler, name)?;
        }
        let mut config = self.with_keys(sampler.keys);
        if config.name != sampler.scheduler {
            config.assumed.clear();
        }
        config.name = sampler.scheduler;
        config.refused = None;
        Ok(config)
    }

    /// The same with the spacing of noise levels that a request names: a schedule type of AUTOMATIC1111's web UI
    /// (`Karras`, `SGM Uniform`) or a scheduler of ComfyUI (`karras`, `sgm_uniform`), of any case. `automatic` changes
    /// nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an unknown name, and for one that the scheduler has no such noise levels for.
    pub fn with_schedule_type(&self, name: &str) -> Result<Self> {
        let schedule = samplers::find_schedule_type(name)?;
        let has = match self.name.is_edm() {
            true => schedule.of_edm,
            false => {
                (!schedule.needs_sigmas || self.name.has_sigma_schedules())
                    && (!schedule.is_spacing() || self.name.has_spacings())
            }
        };
        if !has {
            return Err(Error::Invalid(format!("{} has no '{name}' noise levels", self.name.as_str())));
        }
        self.with_keys(schedule.keys).checked()
    }

    /// The id of a sampler that makes of `model`'s own scheduler this one: none where no sampler alone does, as with a spacing
    /// of noise levels that has no sampler of its own.
    pub fn sampler_id(&self, model: &Self) -> Option<&'static str> {
        let same = |id: &&str| model.with_name(id).is_ok_and(|other| other.is_same(self));
        samplers::sampler_ids().find(same)
    }

    /// Whether both make the same steps, whatever keys they leave to the class's defaults.
    pub fn is_same(&self, other: &Self) -> bool {
        let settings = |config: &Self| config.usable().and_then(|()| Settings::read(config)).ok();
        self.name == other.name && settings(self).is_some_and(|own| settings(other).as_ref() == Some(&own))
    }

    /// What an old configuration of Stable Diffusion 1 and 2 is read as by the pipelines of diffusers: a `steps_offset` other
    /// than 1, be it the default of the scheduler's class, is 1, and `clip_sample` is off. With a mask it is another
    /// pipeline, which leaves `clip_sample` and turns `skip_prk_steps` on. A scheduler of another class in its place has that
    /// class's defaults, with what the file says corrected.
    pub fn corrected(&self, masked: bool) -> Self {
        let mut config = self.clone();
        let mut set = |key: &str, value: Value, knows: bool| {
            if config.get(key).is_some() {
                config.keys.insert(key.to_owned(), value);
            } else if knows && self.refused.is_none() {
                config.assumed.insert(key.to_owned(), value);
            }
        };
        let spaced = self.name.has_spacings() || matches!(self.name, SchedulerName::Lcm | SchedulerName::Tcd);
        set("steps_offset", 1.into(), spaced);
        match masked {
            true => set("skip_prk_steps", true.into(), self.name == SchedulerName::Pndm),
            false => set("clip_sample", false.into(), self.name.clips()),
        }
        config
    }

    /// The keys that no scheduler of diffusers knows, and so mean nothing here or there.
    pub fn unknown_keys(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str).filter(|key| is_unknown_key(key))
    }

    /// A setting as the file has it.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        let set = self.keys.get(key).filter(|value| !value.is_null());
        set.or_else(|| self.assumed.get(key))
    }

    fn with_keys(&self, keys: &[(&str, samplers::Setting)]) -> Self {
        let mut config = self.clone();
        for (key, setting) in keys {
            config.keys.insert((*key).to_owned(), setting.to_value());
        }
        config
    }

    /// Reads all settings once, for their errors.
    fn checked(self) -> Result<Self> {
        Settings::read(&self)?;
        Ok(self)
    }
}

/// Whether a key is of no scheduler of diffusers.
pub(crate) fn is_unknown_key(key: &str) -> bool {
    !key.starts_with('_') && !keys::KNOWN.contains(&key)
}

/// The keys of a `scheduler_config.json`.
///
/// # Errors
/// [`Error::Invalid`] where it is not a JSON object.
pub(crate) fn parse(text: &str) -> Result<Map<String, Value>> {
    match serde_json::from_str(&json::without_infinities(text)) {
        Ok(Value::Object(keys)) => Ok(keys),
        Ok(_) => Err(Error::Invalid("the scheduler's configuration is not a JSON object".into())),
        Err(e) => Err(Error::Invalid(format!("the scheduler's configuration is not JSON: {e}"))),
    }
}

impl SchedulerName {
    /// Whether the class knows `use_karras_sigmas` and its like.
    pub(super) fn has_sigma_schedules(self) -> bool {
        matches!(
            self,
            Self::DeisMultistep
                | Self::DpmSolverMultistep
                | Self::DpmSolverSinglestep
                | Self::EulerDiscrete
                | Self::HeunDiscrete
                | Self::KDpm2AncestralDiscrete
                | Self::KDpm2Discrete
                | Self::LmsDiscrete
                | Self::UniPcMultistep
        )
    }

    /// Whether the class knows `rescale_betas_zero_snr`.
    pub(super) fn rescales_betas(self) -> bool {
        matches!(
            self,
            Self::Ddim
                | Self::Ddpm
                | Self::DpmSolverMultistep
                | Self::EulerAncestralDiscrete
                | Self::EulerDiscrete
                | Self::Lcm
                | Self::Tcd
                | Self::UniPcMultistep
        )
    }

    /// Whether the class acts on `thresholding`.
    pub(super) fn thresholds(self) -> bool {
        matches!(
            self,
            Self::Ddim
                | Self::Ddpm
                | Self::DeisMultistep
                | Self::DpmSolverMultistep
                | Self::DpmSolverSinglestep
                | Self::EdmDpmSolverMultistep
                | Self::Lcm
                | Self::UniPcMultistep
        )
    }

    /// Whether the class knows `timestep_spacing`, and acts on it.
    pub(super) fn has_spacings(self) -> bool {
        !self.is_edm() && !matches!(self, Self::DpmSolverSinglestep | Self::Lcm | Self::Tcd)
    }

    /// Whether the class knows `clip_sample`.
    fn clips(self) -> bool {
        matches!(self, Self::Ddim | Self::Ddpm | Self::HeunDiscrete | Self::Lcm | Self::Tcd)
    }

    /// Whether it is for models that were trained by EDM.
    pub(super) fn is_edm(self) -> bool {
        matches!(self, Self::EdmDpmSolverMultistep | Self::EdmEuler)
    }
}
