//! The names that AUTOMATIC1111's web UI and ComfyUI give to samplers and to spacings of noise levels, and which schedulers
//! and settings of diffusers they are.
//!
//! After the table in diffusers' documentation of its schedulers. Where the two user interfaces draw noise or space noise
//! levels in a way of their own, pictures are those of diffusers.

use serde_json::Value;

use super::config::SchedulerName::{self, *};
use crate::error::{Error, Result};

/// A key's value that a name stands for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Setting {
    Bool(bool),
    Int(u64),
    Str(&'static str),
}

impl Setting {
    pub(super) fn to_value(self) -> Value {
        match self {
            Self::Bool(value) => value.into(),
            Self::Int(value) => value.into(),
            Self::Str(value) => value.into(),
        }
    }
}

type Keys = &'static [(&'static str, Setting)];

/// What a sampler's name stands for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sampler {
    pub(super) scheduler: SchedulerName,
    pub(super) keys: Keys,
}

/// What the name of a spacing stands for.
#[derive(Debug, Clone, Copy)]
pub(super) struct ScheduleType {
    pub(super) keys: Keys,
    /// Whether only schedulers with `use_karras_sigmas` and its like have it.
    pub(super) needs_sigmas: bool,
    /// Whether the schedulers of models trained by EDM have it.
    pub(super) of_edm: bool,
}

impl ScheduleType {
    /// Whether it is one of timesteps.
    pub(super) fn is_spacing(&self) -> bool {
        self.keys.iter().any(|(key, _)| *key == "timestep_spacing")
    }
}

/// The sampler of this name: a class of diffusers, or one of [`SAMPLERS`].
pub(super) fn find(name: &str) -> Result<Sampler> {
    if let Some(scheduler) = SchedulerName::from_class_name(name) {
        return Ok(Sampler { scheduler, keys: &[] });
    }
    let called = |sampler: &&(&str, &[&str], SchedulerName, Keys)| {
        let (id, names, ..) = **sampler;
        names.iter().chain([&id]).any(|other| other.eq_ignore_ascii_case(name))
    };
    let known = SAMPLERS.iter().find(called);
    known.map(|&(_, _, scheduler, keys)| Sampler { scheduler, keys }).ok_or_else(|| {
        let ids: Vec<&str> = sampler_ids().collect();
        let names = SAMPLERS.iter().flat_map(|(id, names, ..)| names.iter().filter(move |name| *name != id));
        let classes = SchedulerName::ALL.iter().map(|(name, _)| *name);
        let names: Vec<&str> = names.copied().chain(classes).collect();
        let (ids, names) = (ids.join(", "), names.join(", "));
        Error::Invalid(format!("there is no sampler '{name}'; accepted are {ids}, and the names {names}"))
    })
}

/// What a sampler's name stands for with a model trained by EDM.
///
/// # Errors
/// [`Error::Invalid`] for a sampler that there is no such variant of.
pub(super) fn for_edm(sampler: Sampler, name: &str) -> Result<Sampler> {
    let scheduler = match sampler.scheduler {
        EulerDiscrete => EdmEuler,
        DpmSolverMultistep => EdmDpmSolverMultistep,
        _ => {
            return Err(Error::Invalid(format!(
                "the sampler '{name}' is not for this model, which was trained by EDM; accepted are euler, dpmpp_2m, \
                 dpmpp_2m_karras, dpmpp_2m_sde and dpmpp_2m_sde_karras"
            )));
        }
    };
    Ok(Sampler { scheduler, ..sampler })
}

/// The spacing of this name: one of [`SCHEDULE_TYPES`].
pub(super) fn find_schedule_type(name: &str) -> Result<ScheduleType> {
    let known = SCHEDULE_TYPES.iter().find(|(names, ..)| names.iter().any(|n| n.eq_ignore_ascii_case(name)));
    let found = known.map(|&(_, needs_sigmas, keys)| {
        let of_edm = keys.is_empty() || keys.iter().any(|(key, _)| *key == "sigma_schedule");
        ScheduleType { keys, needs_sigmas, of_edm }
    });
    found.ok_or_else(|| {
        let names = SCHEDULE_TYPES.iter().flat_map(|(names, ..)| names.iter().copied());
        let accepted = names.collect::<Vec<_>>().join(", ");
        Error::Invalid(format!("there is no schedule type '{name}'; accepted are {accepted}"))
    })
}

/// Every sampler by the name that A1111's web UI gives it (or ComfyUI, where that one lacks it), with its id and other names.
pub fn sampler_names() -> impl Iterator<Item = (&'static str, Vec<&'static str>)> {
    SAMPLERS.iter().filter_map(|(id, names, ..)| {
        let (first, others) = names.split_first()?;
        let others = [id].into_iter().chain(others).filter(|name| *name != first);
        Some((*first, others.copied().collect()))
    })
}

/// Every sampler's id: lower-case letters, digits and `_`, as ComfyUI spells it where it has it.
pub fn sampler_ids() -> impl Iterator<Item = &'static str> {
    SAMPLERS.iter().map(|(id, ..)| *id)
}

/// Every spacing of noise levels: in lower case, as requests name it, and as A1111's web UI shows it.
pub fn schedule_type_names() -> impl Iterator<Item = (String, &'static str)> {
    SCHEDULE_TYPES.iter().filter_map(|(names, ..)| names.first().map(|name| (name.to_lowercase(), *name)))
}

const PLMS: Keys = &[("skip_prk_steps", Setting::Bool(true))];
const DPMPP_2M: Keys =
    &[("algorithm_type", Setting::Str("dpmsolver++")), ("solver_order", Setting::Int(2)), NOT_KARRAS];
const DPMPP_2M_KARRAS: Keys = &[
    ("algorithm_type", Setting::Str("dpmsolver++")),
    ("solver_order", Setting::Int(2)),
    KARRAS,
    NOT_EXPONENTIAL,
    NOT_BETA,
    NOT_LU,
    EDM_KARRAS,
];
const DPMPP_2M_SDE: Keys =
    &[("algorithm_type", Setting::Str("sde-dpmsolver++")), ("solver_order", Setting::Int(2)), NOT_KARRAS];
const DPMPP_2M_SDE_KARRAS: Keys = &[
    ("algorithm_type", Setting::Str("sde-dpmsolver++")),
    ("solver_order", Setting::Int(2)),
    KARRAS,
    NOT_EXPONENTIAL,
    NOT_BETA,
    NOT_LU,
    EDM_KARRAS,
];
const DPMPP_2S: Keys =
    &[("algorithm_type", Setting::Str("dpmsolver++")), ("solver_order", Setting::Int(2)), NOT_KARRAS];
const DPMPP_2S_KARRAS: Keys = &[
    ("algorithm_type", Setting::Str("dpmsolver++")),
    ("solver_order", Setting::Int(2)),
    KARRAS,
    NOT_EXPONENTIAL,
    NOT_BETA,
    NOT_LU,
    EDM_KARRAS,
];
const ONLY_KARRAS: Keys = &[KARRAS, NOT_EXPONENTIAL, NOT_BETA, NOT_LU, EDM_KARRAS];
const EVEN: Keys = &[NOT_KARRAS];
const BH1: Keys = &[("solver_type", Setting::Str("bh1"))];
const BH2: Keys = &[("solver_type", Setting::Str("bh2"))];

const NOT_KARRAS: (&str, Setting) = ("use_karras_sigmas", Setting::Bool(false));
const KARRAS: (&str, Setting) = ("use_karras_sigmas", Setting::Bool(true));
const NOT_EXPONENTIAL: (&str, Setting) = ("use_exponential_sigmas", Setting::Bool(false));
const EDM_KARRAS: (&str, Setting) = ("sigma_schedule", Setting::Str("karras"));
const EDM_EXPONENTIAL: (&str, Setting) = ("sigma_schedule", Setting::Str("exponential"));
const NOT_BETA: (&str, Setting) = ("use_beta_sigmas", Setting::Bool(false));
const BETA: (&str, Setting) = ("use_beta_sigmas", Setting::Bool(true));
const NOT_LU: (&str, Setting) = ("use_lu_lambdas", Setting::Bool(false));
const EXPONENTIAL: (&str, Setting) = ("use_exponential_sigmas", Setting::Bool(true));

/// One sampler's id; its names, AUTOMATIC1111's first; what it stands for. A name that says nothing of Karras' noise levels means
/// the even ones where the interface has both.
const SAMPLERS: &[(&str, &[&str], SchedulerName, Keys)] = &[
    ("euler", &["Euler"], EulerDiscrete, &[]),
    ("euler_a", &["Euler a", "euler_ancestral"], EulerAncestralDiscrete, &[]),
    ("heun", &["Heun"], HeunDiscrete, &[]),
    ("ddim", &["DDIM"], Ddim, &[]),
    ("ddpm", &["DDPM"], Ddpm, &[]),
    ("plms", &["PLMS", "pndm"], Pndm, PLMS),
    ("lcm", &["LCM"], Lcm, &[]),
    ("uni_pc", &["UniPC"], UniPcMultistep, BH1),
    ("uni_pc_bh2", &["uni_pc_bh2"], UniPcMultistep, BH2),
    ("dpmpp_2m", &["DPM++ 2M"], DpmSolverMultistep, DPMPP_2M),
    ("dpmpp_2m_karras", &["DPM++ 2M Karras"], DpmSolverMultistep, DPMPP_2M_KARRAS),
    ("dpmpp_2m_sde", &["DPM++ 2M SDE", "dpmpp_2m_sde_gpu"], DpmSolverMultistep, DPMPP_2M_SDE),
    ("dpmpp_2m_sde_karras", &["DPM++ 2M SDE Karras"], DpmSolverMultistep, DPMPP_2M_SDE_KARRAS),
    ("dpmpp_2s", &["DPM++ 2S"], DpmSolverSinglestep, DPMPP_2S),
    ("dpmpp_2s_karras", &["DPM++ 2S Karras"], DpmSolverSinglestep, DPMPP_2S_KARRAS),
    ("dpm_2", &["DPM2"], KDpm2Discrete, EVEN),
    ("dpm_2_karras", &["DPM2 Karras"], KDpm2Discrete, ONLY_KARRAS),
    ("dpm_2_ancestral", &["DPM2 a"], KDpm2AncestralDiscrete, EVEN),
    ("dpm_2_ancestral_karras", &["DPM2 a Karras"], KDpm2AncestralDiscrete, ONLY_KARRAS),
    ("lms", &["LMS"], LmsDiscrete, EVEN),
    ("lms_karras", &["LMS Karras"], LmsDiscrete, ONLY_KARRAS),
    ("deis", &["DEIS"], DeisMultistep, &[]),
    ("tcd", &["TCD"], Tcd, &[]),
];

/// Names of one spacing, AUTOMATIC1111's first; whether it needs sigmas; the keys.
const SCHEDULE_TYPES: &[(&[&str], bool, Keys)] = &[
    (&["Automatic"], false, &[]),
    (&["Uniform", "normal"], false, &[NOT_KARRAS, NOT_EXPONENTIAL, NOT_BETA, NOT_LU]),
    (&["Karras"], true, &[KARRAS, NOT_EXPONENTIAL, NOT_BETA, NOT_LU, EDM_KARRAS]),
    (&["Exponential"], true, &[NOT_KARRAS, EXPONENTIAL, NOT_BETA, NOT_LU, EDM_EXPONENTIAL]),
    (&["Beta"], true, &[NOT_KARRAS, NOT_EXPONENTIAL, BETA, NOT_LU]),
    (
        &["SGM Uniform", "sgm_uniform", "simple"],
        false,
        &[NOT_KARRAS, NOT_EXPONENTIAL, NOT_BETA, NOT_LU, ("timestep_spacing", Setting::Str("trailing"))],
    ),
    (
        &["DDIM", "ddim_uniform"],
        false,
        &[NOT_KARRAS, NOT_EXPONENTIAL, NOT_BETA, NOT_LU, ("timestep_spacing", Setting::Str("leading"))],
    ),
];
