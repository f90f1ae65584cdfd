//! The settings of a configuration, with their types, and with the defaults of the scheduler's class.

use super::{
    config::{
        SchedulerConfig,
        SchedulerName::{self, *},
    },
    keys::{Keys, unsupported},
};
use crate::error::Result;

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
    /// Where `thresholding` is on.
    pub(super) thresholding: Option<Threshold>,
    /// `use_karras_sigmas` and its like.
    pub(super) sigma_schedule: SigmaSchedule,
    pub(super) sigma_min: Option<f64>,
    pub(super) sigma_max: Option<f64>,
    pub(super) final_sigmas_type: FinalSigmas,
    pub(super) interpolation_type: Interpolation,
    /// `timestep_type` of `EulerDiscreteScheduler`: whether the model is told a quarter of the logarithm of the noise level.
    pub(super) continuous_timesteps: bool,
    /// Of the schedulers for models trained by EDM (Karras et al. 2022).
    pub(super) edm: Edm,
    pub(super) original_inference_steps: usize,
    pub(super) timestep_scaling: f32,
    pub(super) solver_order: usize,
    pub(super) algorithm_type: AlgorithmType,
    pub(super) solver_type: SolverType,
    pub(super) lower_order_final: bool,
    pub(super) euler_at_final: bool,
    pub(super) lambda_min_clipped: f64,
    pub(super) disable_corrector: Vec<usize>,
    /// `skip_prk_steps` of `PNDMScheduler`.
    pub(super) skip_prk_steps: bool,
    /// `variance_type` of `DDPMScheduler`: true for `fixed_large`.
    pub(super) large_variance: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum BetaSchedule {
    Linear,
    ScaledLinear,
    SquaredcosCapV2,
    Exp,
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
    /// `use_lu_lambdas`: even in the logarithm over all noise levels of the training.
    Lu,
    Exponential,
    /// Quantiles of the beta distribution (Lee et al. 2024, "Beta Sampling is All You Need").
    Beta,
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

/// What the solvers of diffusion ODEs and SDEs integrate: the predicted noise, or (`++`) the predicted picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum AlgorithmType {
    DpmSolver,
    DpmSolverPlusPlus,
    SdeDpmSolver,
    SdeDpmSolverPlusPlus,
}

impl AlgorithmType {
    /// Whether it integrates the predicted picture.
    pub(super) fn predicts_original(self) -> bool {
        matches!(self, Self::DpmSolverPlusPlus | Self::SdeDpmSolverPlusPlus)
    }

    /// Whether each step adds noise.
    pub(super) fn is_sde(self) -> bool {
        matches!(self, Self::SdeDpmSolver | Self::SdeDpmSolverPlusPlus)
    }
}

/// Dynamic thresholding (Saharia et al. 2022, "Photorealistic Text-to-Image Diffusion Models with Deep Language
/// Understanding", section 2.3).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Threshold {
    /// `dynamic_thresholding_ratio`: the quantile that is the limit.
    pub(super) ratio: f64,
    /// `sample_max_value`: the limit's own limit.
    pub(super) max: f32,
}

/// The noise levels that an EDM model was trained with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Edm {
    pub(super) sigma_min: f64,
    pub(super) sigma_max: f64,
    /// The standard deviation of the training's latents.
    pub(super) sigma_data: f32,
    pub(super) rho: f64,
    /// `sigma_schedule`: true for `exponential`.
    pub(super) exponential: bool,
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
        // These came later than the others, with Stable Diffusion's schedule for a default.
        let (beta_start, beta_end) = match name {
            Lcm | Tcd | HeunDiscrete | KDpm2Discrete | KDpm2AncestralDiscrete => (0.00085, 0.012),
            _ => (0.0001, 0.02),
        };
        let num_train_timesteps = keys.integer("num_train_timesteps", 1000, 2, 1_000_000)?;
        let settings = Self {
            num_train_timesteps,
            beta_start: keys.number("beta_start", beta_start, 0.0, 1.0)?,
            beta_end: keys.number("beta_end", beta_end, 0.0, 1.0)?,
            beta_schedule: keys.beta_schedule(name)?,
            trained_betas: keys.trained_betas(num_train_timesteps)?,
            rescale_betas_zero_snr: name.rescales_betas() && keys.flag("rescale_betas_zero_snr", false)?,
            prediction_type: keys.prediction_type(name)?,
            timestep_spacing: keys.timestep_spacing(name)?,
            steps_offset: keys.integer("steps_offset", 0, 0, num_train_timesteps)? as i64,
            set_alpha_to_one: keys.flag("set_alpha_to_one", name != Pndm)?,
            clip_sample: keys.clip_sample(matches!(name, Ddim | Ddpm))?,
            thresholding: keys.thresholding(name)?,
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
            continuous_timesteps: name == EulerDiscrete
                && keys.choice("timestep_type", false, &[("discrete", false), ("continuous", true)])?,
            edm: keys.edm(name)?,
            original_inference_steps: keys.integer("original_inference_steps", 50, 1, num_train_timesteps)?,
            timestep_scaling: keys.number("timestep_scaling", 10.0, 0.0, 1e6)? as f32,
            solver_order: keys.integer("solver_order", 2, 1, 3)?,
            algorithm_type: keys.algorithm_type(name)?,
            solver_type: keys.solver_type(name)?,
            lower_order_final: keys.flag("lower_order_final", name != DpmSolverSinglestep)?,
            euler_at_final: keys.flag("euler_at_final", false)?,
            lambda_min_clipped: keys.number("lambda_min_clipped", f64::MIN, f64::MIN, f64::MAX)?,
            disable_corrector: keys.list("disable_corrector", |value| value.as_u64().map(|i| i as usize))?,
            skip_prk_steps: keys.flag("skip_prk_steps", false)?,
            large_variance: name == Ddpm
                && keys.choice(
                    "variance_type",
                    false,
                    &[("fixed_small", false), ("fixed_small_log", false), ("fixed_large", true)],
                )?,
        };
        settings.check(name)?;
        Ok(settings)
    }

    /// Settings that do not go together, or not with the scheduler; diffusers fails with them, too.
    fn check(&self, name: SchedulerName) -> Result<()> {
        let solver = matches!(name, DpmSolverMultistep | DpmSolverSinglestep);
        let algorithm = self.algorithm_type;
        if solver && !algorithm.predicts_original() && self.final_sigmas_type == FinalSigmas::Zero {
            return Err(unsupported(
                "final_sigmas_type",
                "\"zero\"",
                "\"sigma_min\" with this algorithm_type",
            ));
        }
        let third = self.solver_order == 3;
        let no_third =
            algorithm == AlgorithmType::SdeDpmSolver || (name == EdmDpmSolverMultistep && algorithm.is_sde());
        if third && no_third && (solver || name == EdmDpmSolverMultistep) {
            return Err(unsupported("solver_order", 3, "1 and 2 with this algorithm_type"));
        }
        if name == DpmSolverSinglestep && self.thresholding.is_some() && !algorithm.predicts_original() {
            return Err(unsupported("thresholding", true, "false with this algorithm_type"));
        }
        Ok(())
    }
}

/// Settings that change the numbers and are not implemented, for the classes that know them.
fn refuse_unsupported(keys: &Keys, name: SchedulerName) -> Result<()> {
    let flows = matches!(name, DpmSolverMultistep | DpmSolverSinglestep | DeisMultistep | UniPcMultistep);
    let never = |key: &str, knows: bool| {
        if knows && keys.flag(key, false)? { Err(unsupported(key, "true", "false")) } else { Ok(()) }
    };
    never("use_flow_sigmas", flows)?;
    never("use_dynamic_shifting", flows)?;
    if name == UniPcMultistep && !keys.flag("predict_x0", true)? {
        return Err(unsupported("predict_x0", "false", "true"));
    }
    for key in ["solver_p", "shift_terminal"] {
        if name == UniPcMultistep && keys.0.get(key).is_some() {
            return Err(unsupported(key, "set", "null"));
        }
    }
    if matches!(name, DpmSolverMultistep | DpmSolverSinglestep) {
        // Those of DDPM mean nothing to it; of the learned ones it takes channels off the model's output.
        let fixed = ["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"].map(|key| (key, ()));
        keys.choice("variance_type", (), &fixed)?;
    }
    Ok(())
}
