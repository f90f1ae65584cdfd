//! A picture on its way out of the noise, and the step that many of them take together.

use reverie_kernels::Backend;

use crate::{
    error::{Error, Result},
    finite::are_finite,
    random::Generator,
    schedulers::Scheduler,
    unet::{Conditions, UNet2DConditionModel},
};

/// What the UNet is told of a prompt.
pub struct Conditioning<B: Backend> {
    /// The text encoders' hidden states, (1, 1, `tokens`, cross_attention_dim).
    pub hidden_states: B::Tensor,
    /// How many rows: 77 for each chunk of the prompt.
    pub tokens: usize,
    /// SDXL: the projected embedding of the whole prompt, (1, 1, 1, features).
    pub pooled: Option<B::Tensor>,
}

/// How a masked picture keeps what lies outside of its mask.
pub(crate) enum Inpaint<B: Backend> {
    /// By a UNet of nine channels: these further channels of its input, the mask and the masked picture's latents.
    Channels(B::Tensor),
    /// By any other: after every step the original's latents, as noisy as the step left the others, take the place of
    /// those where `mask` is 0. All are of the latents' shape; the mask is 1 where the picture is made anew.
    Blend { mask: B::Tensor, original: B::Tensor, noise: B::Tensor },
}

/// One picture between two steps. Its latents stay on the device, where they are fp16 if the device's tensors are, as in
/// diffusers' fp16 pipelines.
pub struct Denoise<B: Backend> {
    /// Channels, rows and columns of the latents.
    pub(crate) shape: [usize; 3],
    /// (1, channels, rows, columns).
    pub(crate) latents: B::Tensor,
    pub(crate) scheduler: Scheduler<B>,
    pub(crate) generator: Generator,
    pub(crate) guidance_scale: f32,
    pub(crate) guidance_rescale: f32,
    pub(crate) warnings: Vec<String>,
    pub(crate) positive: Conditioning<B>,
    /// Without it there is no classifier-free guidance and the UNet runs once a step instead of twice.
    pub(crate) negative: Option<Conditioning<B>>,
    /// LCM: the embedding of the guidance scale, (1, 1, 1, time_cond_proj_dim).
    pub(crate) timestep_cond: Option<B::Tensor>,
    /// SDXL: original size, crop and target size.
    pub(crate) time_ids: Option<[f32; 6]>,
    pub(crate) inpaint: Option<Inpaint<B>>,
    /// That its latents are no numbers any more, and since which step.
    pub(crate) fault: Option<Error>,
}

impl<B: Backend> Denoise<B> {
    /// How many steps there are in all: UNet calls, which are more than the steps asked for with a second-order scheduler and
    /// fewer with a `strength` below 1.
    pub fn steps(&self) -> usize {
        self.scheduler.timesteps().len()
    }

    /// What is done in another way than asked, in sentences.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// How many are done.
    pub fn position(&self) -> usize {
        self.scheduler.position()
    }

    /// Whether all steps are done.
    pub fn is_done(&self) -> bool {
        self.scheduler.timestep().is_none()
    }

    /// Why no picture will come of it: since the step that it names, as [`check`] found, its latents are not numbers.
    pub fn fault(&self) -> Option<&Error> {
        self.fault.as_ref()
    }

    /// How many entries of a batch it takes: 2 with classifier-free guidance.
    pub fn entries(&self) -> usize {
        1 + usize::from(self.negative.is_some())
    }

    /// (1, channels, rows, columns).
    pub fn shape(&self) -> [usize; 4] {
        [1, self.shape[0], self.shape[1], self.shape[2]]
    }

    /// The latents as they are now, at the scale of the UNet; in channel, row, column order. Waits for the device.
    ///
    /// # Errors
    /// The device's.
    pub fn latents(&self, backend: &B) -> Result<Vec<f32>> {
        Ok(backend.to_vec(&self.latents)?)
    }

    /// Whether both can take a step in one UNet call: they are of one size, and so are their prompts.
    pub fn fits(&self, other: &Self) -> bool {
        self.shape == other.shape && self.positive.tokens == other.positive.tokens
    }

    /// The prompts of its entries, unconditional first, as in diffusers.
    fn prompts(&self) -> impl Iterator<Item = &Conditioning<B>> {
        self.negative.iter().chain([&self.positive])
    }

    /// The UNet's input for one entry.
    fn sample(&self, backend: &B) -> Result<B::Tensor> {
        let sample = self.scheduler.scale_model_input(backend, &self.latents)?;
        match &self.inpaint {
            Some(Inpaint::Channels(channels)) => Ok(backend.concat(&[&sample, channels])?),
            Some(Inpaint::Blend { .. }) | None => Ok(sample),
        }
    }

    /// Takes the UNet's outputs for its entries, which begin with the one numbered `first`.
    fn advance(&mut self, backend: &B, outputs: &B::Tensor, first: usize) -> Result<()> {
        let mut output = backend.images(outputs, first, 1)?;
        if self.negative.is_some() {
            let (uncond, cond) = (output, backend.images(outputs, first + 1, 1)?);
            let scale = self.guidance_scale;
            output = backend.combine(&[(1.0 - scale, &uncond), (scale, &cond)])?;
            if self.guidance_rescale > 0.0 {
                output = rescaled(backend, &output, &cond, self.guidance_rescale)?;
            }
        }
        self.latents = self.scheduler.step(backend, &output, &self.latents, &mut self.generator)?;
        if let Some(Inpaint::Blend { mask, original, noise }) = &self.inpaint {
            let original = self.scheduler.add_noise(backend, original, noise)?;
            self.latents = backend.blend(&self.latents, &original, mask)?;
        }
        Ok(())
    }
}

/// Takes every one of `requests` one step on in a single UNet call. They may be at different steps and have different
/// schedulers, guidance and prompts; what becomes of one does not depend on the others. Nothing waits for the device: when
/// this returns, the step may still be running there.
///
/// # Errors
/// Those of [`predict`] and [`advance`].
pub fn step<B: Backend>(
    backend: &B,
    unet: &UNet2DConditionModel<B>,
    requests: &mut [&mut Denoise<B>],
) -> Result<()> {
    let outputs = predict(backend, unet, requests)?;
    advance(backend, &outputs, requests)
}

/// The first half of a step, which takes nearly all of its time and memory: what the UNet makes of all entries of
/// `requests`, of which it changes nothing, so that it can be tried again.
///
/// # Errors
/// [`Error::Invalid`] for none, for one that is done, and for those that do not [`Denoise::fits`]; the device's.
pub fn predict<B: Backend>(
    backend: &B,
    unet: &UNet2DConditionModel<B>,
    requests: &[&mut Denoise<B>],
) -> Result<B::Tensor> {
    let Some(first) = requests.first() else {
        return Err(Error::Invalid("a step of no requests".into()));
    };
    if requests.iter().any(|request| !request.fits(first)) {
        return Err(Error::Invalid("requests of different sizes can't share a step".into()));
    }
    let (mut samples, mut timesteps, mut hidden_states) = (Vec::new(), Vec::new(), Vec::new());
    let (mut timestep_cond, mut pooled, mut time_ids) = (Vec::new(), Vec::new(), Vec::new());
    for request in requests.iter() {
        let timestep = request.scheduler.timestep();
        let timestep = timestep.ok_or_else(|| Error::Invalid("all steps of the request are done".into()))?;
        let sample = request.sample(backend)?;
        for prompt in request.prompts() {
            samples.push(sample.clone());
            timesteps.push(timestep as f32);
            hidden_states.push(&prompt.hidden_states);
            timestep_cond.extend(&request.timestep_cond);
            pooled.extend(&prompt.pooled);
            time_ids.extend(request.time_ids.iter().flatten());
        }
    }
    let stacked = |xs: Vec<&B::Tensor>| (!xs.is_empty()).then(|| backend.stack(&xs)).transpose();
    let (timestep_cond, pooled) = (stacked(timestep_cond)?, stacked(pooled)?);
    let samples = backend.stack(&samples.iter().collect::<Vec<_>>())?;
    let hidden_states = backend.stack(&hidden_states)?;
    let conditions = Conditions {
        timestep_cond: timestep_cond.as_ref(),
        text_embeds: pooled.as_ref(),
        time_ids: (!time_ids.is_empty()).then_some(time_ids.as_slice()),
    };
    unet.forward(backend, &samples, &timesteps, &hidden_states, &conditions)
}

/// The other half: guidance and the schedulers' updates, by the `outputs` of [`predict`].
///
/// # Errors
/// The device's.
pub fn advance<B: Backend>(backend: &B, outputs: &B::Tensor, requests: &mut [&mut Denoise<B>]) -> Result<()> {
    let mut entry = 0;
    for request in requests {
        request.advance(backend, outputs, entry)?;
        entry += request.entries();
    }
    Ok(())
}

/// Looks whether the step just taken has left all latents numbers; those of which it has not have a [`Denoise::fault`] from now on,
/// while the others can go on. Waits for the device: for whoever waits for it after each step in any case.
///
/// # Errors
/// The device's.
pub fn check<B: Backend>(
    backend: &B,
    unet: &UNet2DConditionModel<B>,
    requests: &mut [&mut Denoise<B>],
) -> Result<()> {
    for request in requests {
        if request.fault.is_none() && !are_finite(&request.latents(backend)?) {
            let when = format!(" at step {} of {}", request.position(), request.steps());
            request.fault = Some(unet.part.not_finite(when));
        }
    }
    Ok(())
}

/// `rescale_noise_cfg`: the guided output with a part, `share`, of it brought back to the standard deviation of the prompt's
/// own output. Waits for the device.
fn rescaled<B: Backend>(backend: &B, guided: &B::Tensor, own: &B::Tensor, share: f32) -> Result<B::Tensor> {
    let deviation = |x: &B::Tensor| -> Result<f64> {
        let values = backend.to_vec(x)?;
        let count = values.len() as f64;
        let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
        let squares = values.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>();
        Ok((squares / (count - 1.0)).sqrt())
    };
    let ratio = deviation(own)? / deviation(guided)?;
    let factor = f64::from(share) * ratio + f64::from(1.0 - share);
    Ok(backend.combine(&[(factor as f32, guided)])?)
}
