//! From what a request asks to what the model is told, with the mode's and the model's values where it says nothing.

use reverie_models::pipeline::{Mask, Picture, Request as Generation};

use super::{Diffusion, Request, library::Model, rules, size, traits::steps_and_guidance};
use crate::{config::Mode, error::Error, pictures::pillow};

/// The largest number of steps that a request may ask for.
const MAX_STEPS: u32 = 1000;

impl Diffusion {
    /// What the model is told, and the guidance scale, of which that is the nearest `f32`.
    ///
    /// # Errors
    /// `InvalidInput` names the field and what is accepted.
    pub(super) fn generation(
        &self,
        (name, mode): (&str, &Mode),
        request: &Request,
        model: &Model,
    ) -> Result<(Generation, f64), Error> {
        let pipeline = &model.pipeline;
        let (scheduler, spacing) = (request.scheduler.as_deref(), request.schedule_type.as_deref());
        // diffusers' pipeline with a mask reads old configurations in another way.
        let own = if request.mask.is_some() { pipeline.inpaint_scheduler() } else { pipeline.scheduler() };
        let scheduler = rules::scheduler(name, mode, scheduler, spacing, own)?;
        let few = pipeline.is_lcm() || pipeline.is_turbo();
        let (default_steps, default_guidance) = steps_and_guidance(few, scheduler.name());
        let steps = request.num_inference_steps.or(mode.num_inference_steps).unwrap_or(default_steps);
        if !(1..=MAX_STEPS).contains(&steps) {
            return Err(Error::invalid(format!(
                "num_inference_steps: accepted are 1 to {MAX_STEPS}, got {steps}"
            )));
        }
        let (width, height) = size::made_at(mode, self.size(mode, request, model)?);
        let (width, height) = (width as usize, height as usize);
        // As diffusers' VaeImageProcessor.
        let image = request.image.as_ref().map(|picture| Picture {
            width,
            height,
            rgb: pillow::fitted(picture, [width, height]),
        });
        let mask = request.mask.as_ref().map(|picture| Mask {
            width,
            height,
            grey: pillow::mask(picture, [width, height]),
        });
        let guidance_scale = request.guidance_scale.or(mode.guidance_scale).unwrap_or(default_guidance);
        let generation = Generation {
            prompt: request.prompt.clone(),
            negative_prompt: request.negative_prompt.clone().or_else(|| mode.negative_prompt.clone()),
            prompt_2: request.prompt_2.clone(),
            negative_prompt_2: request.negative_prompt_2.clone(),
            width,
            height,
            time_ids: None,
            num_inference_steps: steps as usize,
            guidance_scale: guidance_scale as f32,
            seed: request.seed,
            blends: request.blends.clone(),
            clip_skip: request.clip_skip.or(mode.clip_skip).map(|layers| layers as usize),
            scheduler: Some(scheduler),
            image,
            mask,
            strength: request.strength,
            eta: request.eta as f32,
            guidance_rescale: request.guidance_rescale as f32,
        };
        Ok((generation, guidance_scale))
    }

    /// Width and height of what a request gets.
    ///
    /// # Errors
    /// `InvalidInput` for sides that the model can't make, and over the limit.
    pub(super) fn size(&self, mode: &Mode, request: &Request, model: &Model) -> Result<(u32, u32), Error> {
        let (width, height) = size::asked(mode, request, &model.pipeline)?;
        let limit = self.settings.max_pixels;
        if u64::from(width) * u64::from(height) > limit {
            return Err(Error::invalid(format!(
                "size: {width}x{height} is over the limit of {limit} pixels (diffusion.max_pixels)"
            )));
        }
        Ok((width, height))
    }
}
