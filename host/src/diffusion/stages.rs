//! The stages of a picture on the device.

use std::sync::Arc;

use image::RgbImage;
use reverie_models::{denoise, pipeline::Request as Generation};

use super::{
    Control, Diffusion, lease,
    library::Model,
    steps::{DENOISED, ENCODED, Steps, steps_of},
};
use crate::{
    error::Error,
    execution::{Denoise, Device, Ended},
};

impl Diffusion {
    /// Everything before the first step.
    pub(super) fn prepare(
        &self,
        device: &Device,
        model: &Model,
        generation: &Generation,
        control: &dyn Control,
    ) -> Result<Denoise, Error> {
        let prepared = {
            let _lease = lease(&device.ticket(), control).ok_or_else(Error::cancelled)?;
            device.room.retry(|| model.pipeline.prepare(model.backend(), generation))
        };
        let prepared = prepared.map_err(|error| model.error(error))?;
        control.progress(ENCODED, steps_of(&prepared, "denoising"));
        Ok(prepared)
    }

    /// All steps, together with the other pictures of the model.
    pub(super) fn denoise(
        &self,
        device: &Device,
        model: &Arc<Model>,
        picture: Denoise,
        control: &Arc<dyn Control>,
    ) -> Result<Denoise, Error> {
        let watch = Arc::new(Steps::new(control.clone(), model.clone()));
        let step = |pictures: &mut [&mut Denoise]| {
            let (backend, unet) = (model.backend(), &model.pipeline.unet);
            let outputs = device.room.retry(|| denoise::predict(backend, unet, pictures))?;
            denoise::advance(backend, &outputs, pictures)?;
            // The device is given back after a step, and its client told of it: it has to be done by then, not just launched. This
            // waits for it.
            denoise::check(backend, unet, pictures)
        };
        let done = model.lane.run(device, picture, watch, self.settings.max_batch, &step);
        done.map_err(|ended| match ended {
            Ended::Stopped => Error::cancelled(),
            Ended::Failed(error) => model.error(error),
            Ended::Fault => Error::internal("the model failed (a fault of the server)"),
        })
    }

    /// From denoised latents to pixels; its share of the progress ends at `until`.
    pub(super) fn decode(
        &self,
        device: &Device,
        model: &Model,
        picture: &Denoise,
        until: f32,
        control: &dyn Control,
    ) -> Result<RgbImage, Error> {
        let ticket = device.ticket();
        let mut leased = None;
        let mut stopped = false;
        // The device is given back and asked for again between tiles.
        let mut progress = |done: usize, tiles: usize| {
            leased = None;
            let share = done as f32 / tiles.max(1) as f32;
            control.progress(DENOISED + (until - DENOISED) * share, steps_of(picture, "decoding"));
            if done < tiles {
                leased = lease(&ticket, control);
                stopped = leased.is_none();
            }
            match stopped {
                true => Err(reverie_models::Error::Invalid("stopped".into())),
                false => Ok(()),
            }
        };
        let decoded = device.room.retry(|| model.pipeline.decode(model.backend(), picture, &mut progress));
        if stopped {
            return Err(Error::cancelled());
        }
        let decoded = decoded.map_err(|error| model.error(error))?;
        RgbImage::from_raw(decoded.width as u32, decoded.height as u32, decoded.rgb)
            .ok_or_else(|| Error::internal("the picture has not as many pixels as it should"))
    }
}
