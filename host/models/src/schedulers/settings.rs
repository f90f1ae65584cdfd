//! The settings of a configuration, with their types, and with the defaults of the scheduler's class.

use serde_json::Value;

use super::config::{
    SchedulerConfig,
    SchedulerName::{self, *},
};
use crate::error::{Error, Result};

/// Every setting that one of the schedulers knows, by diffusers' names.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Settings {
    pub(super) num_train_timesteps: usize,
    pub(super) beta_start: f64,
    pub(super) beta_end: f64,
    pub(super) beta_schedule: BetaSchedule,
    pub(super) trained_betas: Option<Vec<f32>>,
    pub(super) rescale_betas_zero_snr: bool,
    pub(super) prediction_type: PredictionType,
    pub(super) timestep_spacing: TimestepSpacing,
    pub(super) steps_offset: i64,
    pub(super) set_alpha_to_one: bool,
    /// `clip_sample_range` where `clip_sample` is on.
    pub(super) clip_sample: Option<f32>,
    /// `use_karras_sigmas` or `use_exponential_sigmas`.
    pub(super) sigma_schedule: SigmaSchedule,
    pub(super) sigma_min: Option<f64>,
    pub(super) sigma_max: Option<f64>,
    pub(super) final_sigmas_type: FinalSigmas,
    pub(super) interpolation_type: Interpolation,
    pub(super) original_inference_steps: usize,
    pub(super) timestep_scaling: f32,
    pub(super) solver_order: usize,
    /// `algorithm_type` of `DPMSolverMultistepScheduler`: true for `sde-dpmsolver++`.
    pub(super) sde: bool,
    pub(super) solver_type: SolverType,
    pub(super) lower_order_final: bool,
    pub(super) euler_at_final: bool,
    pub(super) lambda_min_clipped: f64,
    pub(super) disable_corrector: Vec<usize>,
    /// `variance_type` of `DDPMScheduler`: true for `fixed_large`.
    pub(super) large_variance: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum BetaSchedule {
    Linear,
    ScaledLinear,
    SquaredcosCapV2,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum PredictionType {
    Epsilon,
    VPrediction,
    Sample,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum TimestepSpacing {
    Leading,
    Trailing,
    Linspace,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum SigmaSchedule {
    /// Those of the timesteps.
    Interpolated,
    Karras,
    Exponential,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum FinalSigmas {
    Zero,
    SigmaMin,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Interpolation {
    Linear,
    LogLinear,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum SolverType {
    Midpoint,
    Heun,
    Bh1,
    Bh2,
}

impl Settings {
    pub(super) fn read(config: &SchedulerConfig) -> Result<Self> {
        let name = config.name();
        let keys = Keys(config);
        refuse_unsupported(&keys, name)?;
        // LCM and Heun came later than the others, with Stable Diffusion's schedule for a default.
        let (beta_start, beta_end) = match name {
            Lcm | HeunDiscrete => (0.00085, 0.012),
            _ => (0.0001, 0.02),
        };
        let num_train_timesteps = keys.integer("num_train_timesteps", 1000, 2, 1_000_000)?;
        let settings = Self {
            num_train_timesteps,
            beta_start: keys.number("beta_start", beta_start, 0.0, 1.0)?,
            beta_end: keys.number("beta_end", beta_end, 0.0, 1.0)?,
            beta_schedule: keys.choice(
                "beta_schedule",
                if name == Lcm { BetaSchedule::ScaledLinear } else { BetaSchedule::Linear },
                &[
                    ("linear", BetaSchedule::Linear),
                    ("scaled_linear", BetaSchedule::ScaledLinear),
                    ("squaredcos_cap_v2", BetaSchedule::SquaredcosCapV2),
                ],
            )?,
            trained_betas: keys.trained_betas(num_train_timesteps)?,
            // PNDM and Heun have no such setting.
            rescale_betas_zero_snr: !matches!(name, Pndm | HeunDiscrete)
                && keys.flag("rescale_betas_zero_snr", false)?,
            prediction_type: keys.prediction_type(name)?,
            timestep_spacing: keys.choice(
                "timestep_spacing",
                match name {
                    Ddim | Ddpm | Lcm | Pndm => TimestepSpacing::Leading,
                    _ => TimestepSpacing::Linspace,
                },
                &[
                    ("leading", TimestepSpacing::Leading),
                    ("trailing", TimestepSpacing::Trailing),
                    ("linspace", TimestepSpacing::Linspace),
                ],
            )?,
            steps_offset: keys.integer("steps_offset", 0, 0, num_train_timesteps)? as i64,
            set_alpha_to_one: keys.flag("set_alpha_to_one", name != Pndm)?,
            clip_sample: keys.clip_sample(matches!(name, Ddim | Ddpm))?,
            sigma_schedule: keys.sigma_schedule(name)?,
            sigma_min: keys.sigma_limit("sigma_min", name)?,
            sigma_max: keys.sigma_limit("sigma_max", name)?,
            final_sigmas_type: keys.choice(
                "final_sigmas_type",
                FinalSigmas::Zero,
                &[("zero", FinalSigmas::Zero), ("sigma_min", FinalSigmas::SigmaMin)],
            )?,
            interpolation_type: keys.choice(
                "interpolation_type",
                Interpolation::Linear,
                &[("linear", Interpolation::Linear), ("log_linear", Interpolation::LogLinear)],
            )?,
            original_inference_steps: keys.integer("original_inference_steps", 50, 1, num_train_timesteps)?,
            timestep_scaling: keys.number("timestep_scaling", 10.0, 0.0, 1e6)? as f32,
            solver_order: keys.integer("solver_order", 2, 1, 3)?,
            sde: name == DpmSolverMultistep
                && keys.choice(
                    "algorithm_type",
                    false,
                    // Diffusers takes DEIS' settings for DPM-Solver++, too.
                    &[("dpmsolver++", false), ("sde-dpmsolver++", true), ("deis", false)],
                )?,
            solver_type: keys.solver_type(name)?,
            lower_order_final: keys.flag("lower_order_final", true)?,
            euler_at_final: keys.flag("euler_at_final", false)?,
            lambda_min_clipped: keys.number("lambda_min_clipped", f64::MIN, f64::MIN, f64::MAX)?,
            disable_corrector: keys.list("disable_corrector", |value| value.as_u64().map(|i| i as usize))?,
            large_variance: name == Ddpm
                && keys.choice("variance_type", false, &[("fixed_small", false), ("fixed_large", true)])?,
        };
        Ok(settings)
    }
}

/// Settings that change the numbers and are not implemented, for the classes that know them.
fn refuse_unsupported(keys: &Keys, name: SchedulerName) -> Result<()> {
    let multistep = matches!(name, DpmSolverMultistep | UniPcMultistep);
    let never = |key: &str, knows: bool| {
        if knows && keys.flag(key, false)? { Err(unsupported(key, "true", "false")) } else { Ok(()) }
    };
    never("thresholding", multistep || matches!(name, Ddim | Ddpm | Lcm))?;
    never("use_beta_sigmas", name.has_sigma_schedules())?;
    never("use_flow_sigmas", multistep)?;
    never("use_dynamic_shifting", multistep)?;
    never("use_lu_lambdas", name == DpmSolverMultistep)?;
    if name == Pndm && !keys.flag("skip_prk_steps", false)? {
        return Err(unsupported("skip_prk_steps", "false", "true"));
    }
    if name == UniPcMultistep && !keys.flag("predict_x0", true)? {
        return Err(unsupported("predict_x0", "false", "true"));
    }
    if name == UniPcMultistep && keys.0.get("solver_p").is_some() {
        return Err(unsupported("solver_p", "a scheduler", "null"));
    }
    if name == DpmSolverMultistep && keys.0.get("variance_type").is_some() {
        return Err(unsupported("variance_type", "set", "null"));
    }
    if name == EulerDiscrete {
        keys.choice("timestep_type", (), &[("discrete", ())])?;
    }
    Ok(())
}

fn unsupported(key: &str, value: impl std::fmt::Display, accepted: &str) -> Error {
    Error::Unsupported(format!("the scheduler's {key} is {value}; accepted is {accepted}"))
}

/// Typed access to the keys of a configuration. A key that is null counts as missing.
struct Keys<'a>(&'a SchedulerConfig);

impl Keys<'_> {
    fn flag(&self, key: &str, default: bool) -> Result<bool> {
        let Some(value) = self.0.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| unsupported(key, value, "true or false"))
    }

    fn number(&self, key: &str, default: f64, least: f64, most: f64) -> Result<f64> {
        let Some(value) = self.0.get(key) else { return Ok(default) };
        let number = value.as_f64().filter(|number| (least..=most).contains(number));
        number.ok_or_else(|| unsupported(key, value, &format!("a number from {least} to {most}")))
    }

    fn integer(&self, key: &str, default: usize, least: usize, most: usize) -> Result<usize> {
        let Some(value) = self.0.get(key) else { return Ok(default) };
        let integer = value.as_u64().map(|i| i as usize).filter(|i| (least..=most).contains(i));
        integer.ok_or_else(|| unsupported(key, value, &format!("an integer from {least} to {most}")))
    }

    fn choice<T: Copy>(&self, key: &str, default: T, accepted: &[(&str, T)]) -> Result<T> {
        let Some(value) = self.0.get(key) else { return Ok(default) };
        let chosen = accepted.iter().find(|(name, _)| value.as_str() == Some(name));
        chosen.map(|(_, chosen)| *chosen).ok_or_else(|| {
            let names: Vec<_> = accepted.iter().map(|(name, _)| format!("\"{name}\"")).collect();
            unsupported(key, value, &names.join(" or "))
        })
    }

    fn list<T>(&self, key: &str, item: impl Fn(&Value) -> Option<T>) -> Result<Vec<T>> {
        let Some(value) = self.0.get(key) else { return Ok(Vec::new()) };
        let items = value.as_array().and_then(|items| items.iter().map(item).collect());
        items.ok_or_else(|| unsupported(key, value, "a list of numbers"))
    }

    fn trained_betas(&self, num_train_timesteps: usize) -> Result<Option<Vec<f32>>> {
        if self.0.get("trained_betas").is_none() {
            return Ok(None);
        }
        let betas = self.list("trained_betas", |value| value.as_f64().map(|beta| beta as f32))?;
        if betas.len() != num_train_timesteps {
            let accepted = format!("num_train_timesteps, {num_train_timesteps}, of them");
            return Err(unsupported("trained_betas", format!("a list of {}", betas.len()), &accepted));
        }
        Ok(Some(betas))
    }

    fn prediction_type(&self, name: SchedulerName) -> Result<PredictionType> {
        let accepted = [
            ("epsilon", PredictionType::Epsilon),
            ("v_prediction", PredictionType::VPrediction),
            ("sample", PredictionType::Sample),
        ];
        // These two lack the last one in diffusers.
        let count = if matches!(name, Pndm | EulerAncestralDiscrete) { 2 } else { 3 };
        self.choice("prediction_type", PredictionType::Epsilon, &accepted[..count])
    }

    fn clip_sample(&self, default: bool) -> Result<Option<f32>> {
        let clip = self.flag("clip_sample", default)?;
        let range = self.number("clip_sample_range", 1.0, 0.0, f64::from(f32::MAX))?;
        Ok(clip.then_some(range as f32))
    }

    fn sigma_schedule(&self, name: SchedulerName) -> Result<SigmaSchedule> {
        if !name.has_sigma_schedules() {
            return Ok(SigmaSchedule::Interpolated);
        }
        match (self.flag("use_karras_sigmas", false)?, self.flag("use_exponential_sigmas", false)?) {
            (false, false) => Ok(SigmaSchedule::Interpolated),
            (true, false) => Ok(SigmaSchedule::Karras),
            (false, true) => Ok(SigmaSchedule::Exponential),
            (true, true) => {
                Err(unsupported("use_exponential_sigmas", "true", "false with use_karras_sigmas"))
            }
        }
    }

    fn sigma_limit(&self, key: &str, name: SchedulerName) -> Result<Option<f64>> {
        if !matches!(name, EulerDiscrete | UniPcMultistep) || self.0.get(key).is_none() {
            return Ok(None);
        }
        self.number(key, 0.0, f64::MIN_POSITIVE, f64::from(f32::MAX)).map(Some)
    }

    /// Each of the two solvers takes the other's types for its own default.
    fn solver_type(&self, name: SchedulerName) -> Result<SolverType> {
        let unipc = name == UniPcMultistep;
        let default = if unipc { SolverType::Bh2 } else { SolverType::Midpoint };
        let own = |solver_type, is_own: bool| if is_own { solver_type } else { default };
        let accepted = [
            ("midpoint", own(SolverType::Midpoint, !unipc)),
            ("heun", own(SolverType::Heun, !unipc)),
            ("bh1", own(SolverType::Bh1, unipc)),
            ("bh2", own(SolverType::Bh2, unipc)),
            ("logrho", default),
        ];
        self.choice("solver_type", default, &accepted)
    }
}
