//! Typed access to the keys of a `scheduler_config.json`.

use serde_json::Value;

use super::{
    config::{
        SchedulerConfig,
        SchedulerName::{self, *},
    },
    settings::{
        AlgorithmType, BetaSchedule, Edm, PredictionType, SigmaSchedule, SolverType, Threshold,
        TimestepSpacing,
    },
};
use crate::error::{Error, Result};

pub(super) fn unsupported(key: &str, value: impl std::fmt::Display, accepted: &str) -> Error {
    Error::Unsupported(format!("the scheduler's {key} is {value}; accepted is {accepted}"))
}

/// Typed access to the keys of a configuration. A key that is null counts as missing.
pub(super) struct Keys<'a>(pub(super) &'a SchedulerConfig);

impl Keys<'_> {
    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool> {
        let Some(value) = self.0.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| unsupported(key, value, "true or false"))
    }

    pub(super) fn number(&self, key: &str, default: f64, least: f64, most: f64) -> Result<f64> {
        let Some(value) = self.0.get(key) else { return Ok(default) };
        let number = value.as_f64().filter(|number| (least..=most).contains(number));
        number.ok_or_else(|| unsupported(key, value, &format!("a number from {least} to {most}")))
    }

    pub(super) fn integer(&self, key: &str, default: usize, least: usize, most: usize) -> Result<usize> {
        let Some(value) = self.0.get(key) else { return Ok(default) };
        let integer = value.as_u64().map(|i| i as usize).filter(|i| (least..=most).contains(i));
        integer.ok_or_else(|| unsupported(key, value, &format!("an integer from {least} to {most}")))
    }

    pub(super) fn choice<T: Copy>(&self, key: &str, default: T, accepted: &[(&str, T)]) -> Result<T> {
        let Some(value) = self.0.get(key) else { return Ok(default) };
        let chosen = accepted.iter().find(|(name, _)| value.as_str() == Some(name));
        chosen.map(|(_, chosen)| *chosen).ok_or_else(|| {
            let names: Vec<_> = accepted.iter().map(|(name, _)| format!("\"{name}\"")).collect();
            unsupported(key, value, &names.join(" or "))
        })
    }

    pub(super) fn list<T>(&self, key: &str, item: impl Fn(&Value) -> Option<T>) -> Result<Vec<T>> {
        let Some(value) = self.0.get(key) else { return Ok(Vec::new()) };
        let items = value.as_array().and_then(|items| items.iter().map(item).collect());
        items.ok_or_else(|| unsupported(key, value, "a list of numbers"))
    }

    pub(super) fn trained_betas(&self, num_train_timesteps: usize) -> Result<Option<Vec<f32>>> {
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

    pub(super) fn beta_schedule(&self, name: SchedulerName) -> Result<BetaSchedule> {
        let default =
            if matches!(name, Lcm | Tcd) { BetaSchedule::ScaledLinear } else { BetaSchedule::Linear };
        let accepted = [
            ("linear", BetaSchedule::Linear),
            ("scaled_linear", BetaSchedule::ScaledLinear),
            ("squaredcos_cap_v2", BetaSchedule::SquaredcosCapV2),
            ("exp", BetaSchedule::Exp),
        ];
        // The last one is Heun's alone.
        let count = if name == HeunDiscrete { 4 } else { 3 };
        self.choice("beta_schedule", default, &accepted[..count])
    }

    pub(super) fn timestep_spacing(&self, name: SchedulerName) -> Result<TimestepSpacing> {
        let default = match name {
            Ddim | Ddpm | Lcm | Pndm | Tcd => TimestepSpacing::Leading,
            _ => TimestepSpacing::Linspace,
        };
        // It has no such setting.
        if name == DpmSolverSinglestep {
            return Ok(default);
        }
        let accepted = [
            ("leading", TimestepSpacing::Leading),
            ("trailing", TimestepSpacing::Trailing),
            ("linspace", TimestepSpacing::Linspace),
        ];
        self.choice("timestep_spacing", default, &accepted)
    }

    pub(super) fn prediction_type(&self, name: SchedulerName) -> Result<PredictionType> {
        let accepted = [
            ("epsilon", PredictionType::Epsilon),
            ("v_prediction", PredictionType::VPrediction),
            ("sample", PredictionType::Sample),
        ];
        // These lack the last one in diffusers.
        let count = match name {
            Pndm | EulerAncestralDiscrete | KDpm2Discrete | KDpm2AncestralDiscrete => 2,
            EdmEuler | EdmDpmSolverMultistep => 2,
            _ => 3,
        };
        self.choice("prediction_type", PredictionType::Epsilon, &accepted[..count])
    }

    pub(super) fn clip_sample(&self, default: bool) -> Result<Option<f32>> {
        let clip = self.flag("clip_sample", default)?;
        let range = self.number("clip_sample_range", 1.0, 0.0, f64::from(f32::MAX))?;
        Ok(clip.then_some(range as f32))
    }

    pub(super) fn thresholding(&self, name: SchedulerName) -> Result<Option<Threshold>> {
        if !name.thresholds() || !self.flag("thresholding", false)? {
            return Ok(None);
        }
        let ratio = self.number("dynamic_thresholding_ratio", 0.995, 0.0, 1.0)?;
        let max = self.number("sample_max_value", 1.0, f64::MIN_POSITIVE, f64::from(f32::MAX))? as f32;
        Ok(Some(Threshold { ratio, max }))
    }

    pub(super) fn sigma_schedule(&self, name: SchedulerName) -> Result<SigmaSchedule> {
        if !name.has_sigma_schedules() {
            return Ok(SigmaSchedule::Interpolated);
        }
        let schedules = [
            ("use_karras_sigmas", SigmaSchedule::Karras),
            ("use_exponential_sigmas", SigmaSchedule::Exponential),
            ("use_beta_sigmas", SigmaSchedule::Beta),
        ];
        let mut chosen = Vec::new();
        for (key, schedule) in schedules {
            if self.flag(key, false)? {
                chosen.push((key, schedule));
            }
        }
        let lu = name == DpmSolverMultistep && self.flag("use_lu_lambdas", false)?;
        match chosen[..] {
            [] if lu => Ok(SigmaSchedule::Lu),
            [] => Ok(SigmaSchedule::Interpolated),
            // As in diffusers, Karras' come before these, and these before the others.
            [(_, schedule)] if lu && schedule != SigmaSchedule::Karras => Ok(SigmaSchedule::Lu),
            [(_, schedule)] => Ok(schedule),
            [(first, _), (second, _), ..] => Err(unsupported(second, "true", &format!("false with {first}"))),
        }
    }

    /// The limits of [`SigmaSchedule`]'s noise levels, which all schedulers with such take from their configuration in
    /// diffusers, also those whose constructor does not name them.
    pub(super) fn sigma_limit(&self, key: &str, name: SchedulerName) -> Result<Option<f64>> {
        if !name.has_sigma_schedules() || self.0.get(key).is_none() {
            return Ok(None);
        }
        self.number(key, 0.0, f64::MIN_POSITIVE, f64::from(f32::MAX)).map(Some)
    }

    pub(super) fn edm(&self, name: SchedulerName) -> Result<Edm> {
        let most = f64::from(f32::MAX);
        let default =
            Edm { sigma_min: 0.002, sigma_max: 80.0, sigma_data: 0.5, rho: 7.0, exponential: false };
        if !name.is_edm() {
            return Ok(default);
        }
        Ok(Edm {
            sigma_min: self.number("sigma_min", default.sigma_min, f64::MIN_POSITIVE, most)?,
            sigma_max: self.number("sigma_max", default.sigma_max, f64::MIN_POSITIVE, most)?,
            sigma_data: self.number("sigma_data", 0.5, 0.0, most)? as f32,
            rho: self.number("rho", default.rho, f64::MIN_POSITIVE, most)?,
            exponential: self.choice("sigma_schedule", false, &[("karras", false), ("exponential", true)])?,
        })
    }

    /// Each of the solvers takes the others' types for its own default.
    pub(super) fn solver_type(&self, name: SchedulerName) -> Result<SolverType> {
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

    pub(super) fn algorithm_type(&self, name: SchedulerName) -> Result<AlgorithmType> {
        use AlgorithmType::*;
        let accepted: &[(&str, AlgorithmType)] = match name {
            // Diffusers takes DEIS' settings for DPM-Solver++, too.
            DpmSolverMultistep => &[
                ("dpmsolver++", DpmSolverPlusPlus),
                ("sde-dpmsolver++", SdeDpmSolverPlusPlus),
                ("dpmsolver", DpmSolver),
                ("sde-dpmsolver", SdeDpmSolver),
                ("deis", DpmSolverPlusPlus),
            ],
            DpmSolverSinglestep => &[
                ("dpmsolver++", DpmSolverPlusPlus),
                ("sde-dpmsolver++", SdeDpmSolverPlusPlus),
                ("dpmsolver", DpmSolver),
                ("deis", DpmSolverPlusPlus),
            ],
            EdmDpmSolverMultistep => &[
                ("dpmsolver++", DpmSolverPlusPlus),
                ("sde-dpmsolver++", SdeDpmSolverPlusPlus),
                ("deis", DpmSolverPlusPlus),
            ],
            // It integrates the predicted noise, by DPM-Solver's formula where the order is 1.
            DeisMultistep => &[("deis", DpmSolver), ("dpmsolver", DpmSolver), ("dpmsolver++", DpmSolver)],
            _ => return Ok(DpmSolverPlusPlus),
        };
        let default = if name == DeisMultistep { DpmSolver } else { DpmSolverPlusPlus };
        self.choice("algorithm_type", default, accepted)
    }
}

/// All keys of the schedulers of diffusers that there are here, and of those that are saved with their like.
pub(super) const KNOWN: [&str; 46] = [
    "algorithm_type",
    "beta_end",
    "beta_schedule",
    "beta_start",
    "clip_sample",
    "clip_sample_range",
    "disable_corrector",
    "dynamic_thresholding_ratio",
    "euler_at_final",
    "final_sigmas_type",
    "flow_shift",
    "interpolation_type",
    "lambda_min_clipped",
    "lower_order_final",
    "noise_sampler_seed",
    "num_train_timesteps",
    "original_inference_steps",
    "predict_x0",
    "prediction_type",
    "rescale_betas_zero_snr",
    "rho",
    "sample_max_value",
    "set_alpha_to_one",
    "shift_terminal",
    "sigma_data",
    "sigma_max",
    "sigma_min",
    "sigma_schedule",
    "skip_prk_steps",
    "solver_order",
    "solver_p",
    "solver_type",
    "steps_offset",
    "thresholding",
    "time_shift_type",
    "timestep_scaling",
    "timestep_spacing",
    "timestep_type",
    "trained_betas",
    "use_beta_sigmas",
    "use_dynamic_shifting",
    "use_exponential_sigmas",
    "use_flow_sigmas",
    "use_karras_sigmas",
    "use_lu_lambdas",
    "variance_type",
];
