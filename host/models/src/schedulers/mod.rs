//! Schedulers: which noise levels a picture passes through, and how a model's output takes it from one to the next.
//!
//! They have diffusers' names, settings and numbers, in the precision in which diffusers computes them: the tensors of a
//! schedule in f32, what NumPy does in f64. The latents stay on the device: every update is a linear combination of the
//! latents, the model's outputs and noise, whose factors are computed here. On a GPU the latents are fp16 between steps, as
//! in diffusers' fp16 pipelines, and sums are fp32.
//!
//! A [`Scheduler`] is the state of one request, so that requests which stand at different steps, with different schedulers,
//! can share a batch of the model.

mod beta;
mod combination;
mod config;
mod ddim;
mod ddpm;
mod deis_multistep;
mod dpmsolver;
mod dpmsolver_multistep;
mod dpmsolver_singlestep;
mod edm;
mod edm_euler;
mod euler_ancestral_discrete;
mod euler_discrete;
mod heun_discrete;
mod json;
mod k_dpm_2_discrete;
mod keys;
mod lcm;
mod lms_discrete;
mod noise_schedule;
mod pndm;
mod prediction;
mod samplers;
mod settings;
mod sigmas;
mod tcd;
mod timesteps;
mod unipc_multistep;

pub use config::{SchedulerConfig, SchedulerName};
pub(crate) use config::{is_unknown_key, parse as parse_keys};
pub use samplers::{sampler_ids, sampler_names, schedule_type_names};

use reverie_kernels::Backend;

use crate::{
    error::{Error, Result},
    random::Generator,
};
use combination::Combination;
use settings::Settings;

/// What a request asks of a scheduler.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// `num_inference_steps`: at least 1, at most the model's training timesteps.
    pub steps: usize,
    /// Image to image: the share of the steps that is run, of 0 (exclusive) to 1; the first ones are left out.
    pub strength: f64,
    /// For `LCMScheduler`: from how many steps of the distillation the steps are chosen. None takes the configuration's.
    pub original_inference_steps: Option<usize>,
    /// For `LCMScheduler`, what `strength` means. False: `StableDiffusionImg2ImgPipeline`'s way, as with every other
    /// scheduler. True: `LatentConsistencyModelImg2ImgPipeline`'s, where all of the steps are run, chosen from the last
    /// part of the distillation's.
    pub strength_in_original_steps: bool,
    /// For `DDIMScheduler` and `TCDScheduler`: the noise that is added in each step, from 0 (none) to 1 (as much as in DDPM).
    pub eta: f32,
}

impl Plan {
    /// All of `steps` steps: text to image.
    pub fn new(steps: usize) -> Self {
        Self {
            steps,
            strength: 1.0,
            original_inference_steps: None,
            strength_in_original_steps: false,
            eta: 0.0,
        }
    }

    /// How many of the steps the strength leaves.
    pub(crate) fn run(&self) -> usize {
        ((self.steps as f64 * self.strength) as usize).min(self.steps)
    }
}

/// The way of one request from noise to picture.
pub struct Scheduler<B: Backend> {
    algorithm: Box<dyn Algorithm<B>>,
    /// Where the request begins in the algorithm's timesteps: beyond 0 with a strength below 1.
    begin: usize,
    /// The step that comes next.
    index: usize,
}

impl<B: Backend> Scheduler<B> {
    /// A request's scheduler, before its first step.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a plan that can't be: no steps or too many, a strength that leaves none of them.
    /// [`Error::Unsupported`] for a configuration that asks for what is not implemented.
    pub fn new(config: &SchedulerConfig, plan: &Plan) -> Result<Self> {
        let settings = Settings::read(config)?;
        check(plan, &settings)?;
        let algorithm = algorithm(config.name(), &settings, plan)?;
        let begin = if config.name() == SchedulerName::Lcm && plan.strength_in_original_steps {
            0
        } else {
            skipped_steps(plan) * algorithm.order()
        };
        // `PNDMScheduler` has more timesteps than steps, of which some are left even so, as with diffusers.
        if begin >= algorithm.timesteps().len() {
            return Err(no_steps(plan));
        }
        Ok(Self { algorithm, begin, index: begin })
    }

    /// The timesteps of the steps that are run, from the noisiest to the last: what the model is told. `len()` is how many
    /// times the model runs. `EulerDiscreteScheduler` and `HeunDiscreteScheduler` have fractional ones.
    pub fn timesteps(&self) -> &[f64] {
        &self.algorithm.timesteps()[self.begin..]
    }

    /// The noise levels of the whole schedule, in diffusers' order, where the scheduler has them; empty otherwise.
    pub fn sigmas(&self) -> &[f32] {
        self.algorithm.sigmas()
    }

    /// How many of [`Scheduler::timesteps`] are done.
    pub fn position(&self) -> usize {
        self.index - self.begin
    }

    /// The timestep of the step that comes next; none after the last.
    pub fn timestep(&self) -> Option<f64> {
        self.algorithm.timesteps().get(self.index).copied()
    }

    /// What pure noise is multiplied with to be the latents of the first step.
    pub fn init_noise_sigma(&self) -> f32 {
        self.algorithm.init_noise_sigma()
    }

    /// The latents at the scale that the model expects at the next step. After the last step, and with schedulers whose
    /// latents the model takes as they are, they are unchanged.
    ///
    /// # Errors
    /// The device's.
    pub fn scale_model_input(&self, backend: &B, latents: &B::Tensor) -> Result<B::Tensor> {
        let divisor = self.timestep().map_or(1.0, |_| self.algorithm.input_divisor(self.index));
        match divisor {
            1.0 => Ok(latents.clone()),
            _ => (Combination::of(latents) / divisor).compute(backend),
        }
    }

    /// The latents one step on from `latents`, by what the model made of them (after guidance). Schedulers that add noise draw
    /// it from `noise`: the generator that the request's first noise came from. After an error nothing has changed.
    ///
    /// # Errors
    /// [`Error::Invalid`] after the last step; the device's, also where `model_output` and `latents` differ in shape from each
    /// other or from those of the steps before.
    pub fn step(
        &mut self,
        backend: &B,
        model_output: &B::Tensor,
        latents: &B::Tensor,
        noise: &mut Generator,
    ) -> Result<B::Tensor> {
        if self.timestep().is_none() {
            return Err(Error::Invalid(format!(
                "all {} steps of the scheduler are done",
                self.timesteps().len()
            )));
        }
        let mut drawn = noise.clone();
        let step = Step { backend, index: self.index, model_output, sample: latents, noise: &mut drawn };
        let next = self.algorithm.step(step)?;
        *noise = drawn;
        self.index += 1;
        Ok(next)
    }

    /// `original` with as much of `noise` as the latents have before the next step.
    ///
    /// Before the first step these are the latents that image-to-image begins with. After a step they are what inpainting
    /// puts where the mask says to keep the picture. After the last step it is `original` itself.
    ///
    /// # Errors
    /// The device's, also where the two differ in shape.
    pub fn add_noise(&self, backend: &B, original: &B::Tensor, noise: &B::Tensor) -> Result<B::Tensor> {
        if self.timestep().is_none() {
            return Ok(original.clone());
        }
        let (signal, sigma) = self.algorithm.noise_level(self.index);
        (signal * Combination::of(original) + sigma * Combination::of(noise)).compute(backend)
    }
}

/// The algorithm of the name.
fn algorithm<B: Backend>(
    name: SchedulerName,
    settings: &Settings,
    plan: &Plan,
) -> Result<Box<dyn Algorithm<B>>> {
    use SchedulerName::*;
    Ok(match name {
        Ddim => Box::new(ddim::DdimScheduler::new(settings, plan)?),
        Ddpm => Box::new(ddpm::DdpmScheduler::new(settings, plan)?),
        DeisMultistep => Box::new(deis_multistep::DeisMultistepScheduler::new(settings, plan)?),
        DpmSolverMultistep => {
            Box::new(dpmsolver_multistep::DpmSolverMultistepScheduler::new(settings, plan)?)
        }
        DpmSolverSinglestep => {
            Box::new(dpmsolver_singlestep::DpmSolverSinglestepScheduler::new(settings, plan)?)
        }
        EdmDpmSolverMultistep => {
            Box::new(dpmsolver_multistep::DpmSolverMultistepScheduler::edm(settings, plan))
        }
        EdmEuler => Box::new(edm_euler::EdmEulerScheduler::new(settings, plan)),
        EulerAncestralDiscrete => {
            Box::new(euler_ancestral_discrete::EulerAncestralDiscreteScheduler::new(settings, plan)?)
        }
        EulerDiscrete => Box::new(euler_discrete::EulerDiscreteScheduler::new(settings, plan)?),
        HeunDiscrete => Box::new(heun_discrete::HeunDiscreteScheduler::new(settings, plan)?),
        KDpm2AncestralDiscrete => {
            Box::new(k_dpm_2_discrete::KDpm2DiscreteScheduler::new(settings, plan, true))
        }
        KDpm2Discrete => Box::new(k_dpm_2_discrete::KDpm2DiscreteScheduler::new(settings, plan, false)),
        Lcm => Box::new(lcm::LcmScheduler::new(settings, plan)?),
        LmsDiscrete => Box::new(lms_discrete::LmsDiscreteScheduler::new(settings, plan)),
        Pndm => Box::new(pndm::PndmScheduler::new(settings, plan)?),
        Tcd => Box::new(tcd::TcdScheduler::new(settings, plan)?),
        UniPcMultistep => Box::new(unipc_multistep::UniPcMultistepScheduler::new(settings, plan)?),
    })
}

/// What an algorithm has to take a step with.
struct Step<'a, B: Backend> {
    backend: &'a B,
    /// Within [`Algorithm::timesteps`].
    index: usize,
    model_output: &'a B::Tensor,
    sample: &'a B::Tensor,
    noise: &'a mut Generator,
}

impl<'a, B: Backend> Step<'a, B> {
    fn sample(&self) -> Combination<'a, B::Tensor> {
        Combination::of(self.sample)
    }

    fn model_output(&self) -> Combination<'a, B::Tensor> {
        Combination::of(self.model_output)
    }

    /// Fresh noise, as much as the sample.
    fn draw(&mut self) -> Result<B::Tensor> {
        let shape = self.backend.shape(self.sample);
        Ok(self.backend.tensor(self.noise.randn(shape.iter().product()), shape)?)
    }
}

/// One scheduler's numbers.
trait Algorithm<B: Backend>: Send + Sync {
    /// Of all steps, those that a strength leaves out as well.
    fn timesteps(&self) -> &[f64];

    /// See [`Scheduler::sigmas`].
    fn sigmas(&self) -> &[f32] {
        &[]
    }

    /// How many timesteps there are to a step: diffusers' `order`.
    fn order(&self) -> usize {
        1
    }

    /// See [`Scheduler::init_noise_sigma`].
    fn init_noise_sigma(&self) -> f32 {
        1.0
    }

    /// See [`Scheduler::scale_model_input`]: what the latents are divided by before step `index`.
    fn input_divisor(&self, _index: usize) -> f32 {
        1.0
    }

    /// See [`Scheduler::step`]. Changes `self` only once nothing can fail any more.
    fn step(&mut self, step: Step<B>) -> Result<B::Tensor>;

    /// The factors of the picture and of the noise in the latents before step `index`.
    fn noise_level(&self, index: usize) -> (f32, f32);
}

fn check(plan: &Plan, settings: &Settings) -> Result<()> {
    let most = settings.num_train_timesteps;
    if plan.steps == 0 || plan.steps > most {
        return Err(Error::Invalid(format!("steps is {}; accepted are 1 to {most}", plan.steps)));
    }
    if !(plan.strength > 0.0 && plan.strength <= 1.0) {
        return Err(Error::Invalid(format!(
            "strength is {}; accepted is more than 0, up to 1",
            plan.strength
        )));
    }
    if !(0.0..=1.0).contains(&plan.eta) {
        return Err(Error::Invalid(format!("eta is {}; accepted are 0 to 1", plan.eta)));
    }
    Ok(())
}

/// How many steps a strength leaves out: `get_timesteps` of diffusers' image-to-image pipelines.
fn skipped_steps(plan: &Plan) -> usize {
    plan.steps - plan.run()
}

/// That a strength leaves none of the steps.
pub(crate) fn no_steps(plan: &Plan) -> Error {
    let (steps, strength) = (plan.steps, plan.strength);
    let least = (1.0 / strength).ceil();
    Error::Invalid(format!(
        "strength {strength} leaves none of {steps} steps to run; it needs {least} steps or more"
    ))
}
