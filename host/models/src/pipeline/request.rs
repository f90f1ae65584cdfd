//! What a pipeline is asked for.

use super::{Mask, Picture};
use crate::{
    error::{Error, Result},
    noise::{self, Blend},
    schedulers::SchedulerConfig,
};

/// What a picture shall be. The field names, their meaning and the order in which random numbers are drawn are those of
/// diffusers' pipelines: one seed gives one picture, here and there.
#[derive(Debug, Clone)]
pub struct Request {
    /// What it shall show; weights and `BREAK` as A1111 writes them.
    pub prompt: String,
    /// What it shall not show. None is not the same as empty for SDXL, whose unconditional embedding is then zero.
    pub negative_prompt: Option<String>,
    /// SDXL: another prompt for its second text encoder.
    pub prompt_2: Option<String>,
    /// The same for what the picture shall not show.
    pub negative_prompt_2: Option<String>,
    /// In pixels, a multiple of [`Pipeline::factor`].
    pub width: usize,
    /// In pixels, a multiple of [`Pipeline::factor`].
    pub height: usize,
    /// SDXL: what it is told of the picture that this one is as if cut out of: the original's height and width, the rows and
    /// columns cut off, the target's height and width. None: a whole picture of the size asked for.
    pub time_ids: Option<[f32; 6]>,
    /// 1 to the number of training steps.
    pub num_inference_steps: usize,
    /// At most 1: no classifier-free guidance. For latent consistency models it is an input of the UNet.
    pub guidance_scale: f32,
    /// The seed of the generator, of which the lower 32 bits count.
    pub seed: u64,
    /// What the seed's noise is blended with; with none it is the seed's own.
    pub blends: Vec<Blend>,
    /// Layers of the text encoders that are left out at their end, from 1 (none but those that the model always leaves out) on;
    /// None is 1.
    pub clip_skip: Option<usize>,
    /// In place of the model's own.
    pub scheduler: Option<SchedulerConfig>,
    /// The picture to begin with, of the size asked for.
    pub image: Option<Picture>,
    /// Which part of it is made anew.
    pub mask: Option<Mask>,
    /// With a picture: how much of it may change, over 0 to 1. In f64, since the number of steps is cut off behind the point.
    pub strength: f64,
    /// For `DDIMScheduler` and `TCDScheduler`: the noise that is added in each step, from 0 (none) to 1.
    pub eta: f32,
    /// How far guidance is brought back to the contrast of the prompt's own output, from 0 (not at all) to 1 (Lin et al. 2023,
    /// "Common Diffusion Noise Schedules and Sample Steps are Flawed", section 3.4).
    pub guidance_rescale: f32,
}

impl Request {
    /// # Errors
    /// [`Error::Invalid`], which names the field and what is accepted. Pixels come in multiples of `factor`.
    pub(super) fn check(&self, factor: usize, is_inpainting: bool) -> Result<()> {
        let request = self;
        let invalid = |message: String| Err(Error::Invalid(message));
        for (name, side) in [("width", request.width), ("height", request.height)] {
            if side == 0 || !side.is_multiple_of(factor) {
                return invalid(format!(
                    "{name}: {side} is not a multiple of {factor}, which this model needs"
                ));
            }
        }
        if !request.guidance_scale.is_finite() || request.guidance_scale < 0.0 {
            return invalid(format!("guidance_scale: {} is not a number from 0 on", request.guidance_scale));
        }
        if !(0.0..=1.0).contains(&request.guidance_rescale) {
            return invalid(format!("guidance_rescale: {} is not from 0 to 1", request.guidance_rescale));
        }
        if !(0.0..=1.0).contains(&request.eta) {
            return invalid(format!("eta: {} is not from 0 to 1", request.eta));
        }
        noise::check(&request.blends)?;
        if request.image.is_some() && !(request.strength > 0.0 && request.strength <= 1.0) {
            return invalid(format!("strength: {} is not over 0 and at most 1", request.strength));
        }
        match (&request.image, &request.mask) {
            (None, Some(_)) => return invalid("mask: needs an image whose part it names".into()),
            (_, None) if is_inpainting => {
                return invalid("this is an inpainting model: it needs an image and a mask".into());
            }
            (Some(image), _) if [image.width, image.height] != [request.width, request.height] => {
                return invalid(format!(
                    "image: is {}x{}, the request {}x{}",
                    image.width, image.height, request.width, request.height
                ));
            }
            _ => {}
        }
        if let Some(mask) = &request.mask
            && [mask.width, mask.height] != [request.width, request.height]
        {
            return invalid(format!(
                "mask: is {}x{}, the request {}x{}",
                mask.width, mask.height, request.width, request.height
            ));
        }
        Ok(())
    }
}
