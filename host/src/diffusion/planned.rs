//! From what a request asks to what the model is told, with the mode's and the model's values where it says nothing.

use image::{DynamicImage, imageops::FilterType};
use reverie_models::pipeline::{Mask, Picture, Request as Generation};

use super::{Diffusion, Request, library::Model, rules, size, traits::steps_and_guidance};
use crate::{config::Mode, error::Error};

/// The largest number of steps that a request may ask for.
const MAX_STEPS: u32 = 1000;

impl Diffusion {
    /// What the model is told.
    ///
    /// # Errors
    /// `InvalidInput` names the field and what is accepted.
    pub(super) fn generation(
        &self,
        (name, mode): (&str, &Mode),
        request: &Request,
        model: &Model,
    ) -> Result<Generation, Error> {
        let pipeline = &model.pipeline;
        let (scheduler, spacing) = (request.scheduler.as_deref(), request.schedule_type.as_deref());
        let scheduler = rules::scheduler(name, mode, scheduler, spacing, pipeline.scheduler())?;
        let few = pipeline.is_lcm() || pipeline.is_turbo();
        let (default_steps, default_guidance) = steps_and_guidance(few, scheduler.name());
        let steps = request.num_inference_steps.or(mode.num_inference_steps).unwrap_or(default_steps);
        if !(1..=MAX_STEPS).contains(&steps) {
            return Err(Error::invalid(format!(
                "num_inference_steps: accepted are 1 to {MAX_STEPS}, got {steps}"
            )));
        }
        let (width, height) = size::made_at(mode, self.size(mode, request, model)?);
        let fit = |picture: &DynamicImage| match (picture.width(), picture.height()) == (width, height) {
            true => picture.clone(),
            // As diffusers' VaeImageProcessor.
            false => picture.resize_exact(width, height, FilterType::Lanczos3),
        };
        let (width_px, height_px) = (width as usize, height as usize);
        let image = request.image.as_ref().map(|picture| Picture {
            width: width_px,
            height: height_px,
            rgb: fit(picture).to_rgb8().into_raw(),
        });
        let mask = request.mask.as_ref().map(|picture| Mask {
            width: width_px,
            height: height_px,
            grey: fit(picture).to_luma8().into_raw(),
        });
        Ok(Generation {
            prompt: request.prompt.clone(),
            negative_prompt: request.negative_prompt.clone().or_else(|| mode.negative_prompt.clone()),
            prompt_2: request.prompt_2.clone(),
            negative_prompt_2: request.negative_prompt_2.clone(),
            width: width_px,
            height: height_px,
            time_ids: None,
            num_inference_steps: steps as usize,
            guidance_scale: request.guidance_scale.or(mode.guidance_scale).unwrap_or(default_guidance),
            seed: request.seed,
            blends: request.blends.clone(),
            clip_skip: request.clip_skip.or(mode.clip_skip).map(|layers| layers as usize),
            scheduler: Some(scheduler),
            image,
            mask,
            strength: f64::from(request.strength),
            eta: 0.0,
            guidance_rescale: 0.0,
        })
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
