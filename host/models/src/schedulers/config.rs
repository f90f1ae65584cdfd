//! `scheduler_config.json`: which scheduler a model is saved with, and its settings.

use serde_json::{Map, Value};

use super::{json, samplers, settings::Settings};
use crate::error::{Error, Result};

/// The schedulers that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SchedulerName {
    /// `DDIMScheduler` (Song et al. 2020).
    Ddim,
    /// `DDPMScheduler` (Ho et al. 2020).
    Ddpm,
    /// `DPMSolverMultistepScheduler`: DPM-Solver++ and its SDE variant (Lu et al. 2022).
    DpmSolverMultistep,
    /// `EulerAncestralDiscreteScheduler`.
    EulerAncestralDiscrete,
    /// `EulerDiscreteScheduler` (Karras et al. 2022).
    EulerDiscrete,
    /// `HeunDiscreteScheduler` (Karras et al. 2022). It runs the model twice a step, but for the last.
    HeunDiscrete,
    /// `LCMScheduler` (Luo et al. 2023).
    Lcm,
    /// `PNDMScheduler` without Runge-Kutta steps: PLMS (Liu et al. 2022).
    Pndm,
    /// `UniPCMultistepScheduler` (Zhao et al. 2023).
    UniPcMultistep,
}

impl SchedulerName {
    /// All, by their class names in diffusers.
    pub const ALL: [(&str, Self); 9] = [
        ("DDIMScheduler", Self::Ddim),
        ("DDPMScheduler", Self::Ddpm),
        ("DPMSolverMultistepScheduler", Self::DpmSolverMultistep),
        ("EulerAncestralDiscreteScheduler", Self::EulerAncestralDiscrete),
        ("EulerDiscreteScheduler", Self::EulerDiscrete),
        ("HeunDiscreteScheduler", Self::HeunDiscrete),
        ("LCMScheduler", Self::Lcm),
        ("PNDMScheduler", Self::Pndm),
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
}

impl SchedulerConfig {
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
        Self { name, keys }.checked()
    }

    /// Reads the text of a `scheduler_config.json` for another scheduler than its own, which may be one that is not
    /// supported. `name` is as for [`SchedulerConfig::with_name`].
    ///
    /// # Errors
    /// Those of [`SchedulerConfig::from_json`] and of [`SchedulerConfig::with_name`].
    pub fn from_json_with_name(text: &str, name: &str) -> Result<Self> {
        Self { name: SchedulerName::EulerDiscrete, keys: parse(text)? }.with_name(name)
    }

    /// Which scheduler it is.
    pub fn name(&self) -> SchedulerName {
        self.name
    }

    /// The same model with the sampler that a request names: a class name of diffusers (`EulerDiscreteScheduler`), or a
    /// sampler's id (`dpmpp_2m_karras`) or its name in AUTOMATIC1111's web UI (`DPM++ 2M Karras`) or in ComfyUI (`dpmpp_2m`), of
    /// any case.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an unknown name; those of [`SchedulerConfig::from_json`] where the model's other settings do
    /// not go with the scheduler.
    pub fn with_name(&self, name: &str) -> Result<Self> {
        let sampler = samplers::find(name)?;
        let mut config = self.with_keys(sampler.keys);
        config.name = sampler.scheduler;
        config.checked()
    }

    /// The same with the spacing of noise levels that a request names: a schedule type of AUTOMATIC1111's web UI
    /// (`Karras`, `SGM Uniform`) or a scheduler of ComfyUI (`karras`, `sgm_uniform`), of any case. `automatic` changes
    /// nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an unknown name, and for one that the scheduler has no such noise levels for.
    pub fn with_schedule_type(&self, name: &str) -> Result<Self> {
        let schedule = samplers::find_schedule_type(name)?;
        if schedule.needs_sigmas && !self.name.has_sigma_schedules() {
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
        let settings = |config: &Self| Settings::read(config).ok();
        self.name == other.name && settings(self).is_some_and(|own| settings(other).as_ref() == Some(&own))
    }

    /// A setting as the file has it.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.keys.get(key).filter(|value| !value.is_null())
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

fn parse(text: &str) -> Result<Map<String, Value>> {
    match serde_json::from_str(&json::without_infinities(text)) {
        Ok(Value::Object(keys)) => Ok(keys),
        Ok(_) => Err(Error::Invalid("the scheduler's configuration is not a JSON object".into())),
        Err(e) => Err(Error::Invalid(format!("the scheduler's configuration is not JSON: {e}"))),
    }
}

impl SchedulerName {
    /// Whether the class knows `use_karras_sigmas` and `use_exponential_sigmas`.
    pub(super) fn has_sigma_schedules(self) -> bool {
        matches!(
            self,
            Self::DpmSolverMultistep | Self::EulerDiscrete | Self::HeunDiscrete | Self::UniPcMultistep
        )
    }
}
