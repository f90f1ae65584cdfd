//! A picture on its way out of the noise, and the step that many of them take together.

use std::sync::Arc;

use reverie_kernels::Backend;

use crate::{
    error::{Error, Result},
    random::Generator,
    schedulers::Scheduler,
    unet::{Conditions, UNet2DConditionModel},
};

/// What the UNet is told of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Conditioning {
    /// The text encoders' hidden states, `tokens` rows of `cross_attention_dim` features.
    pub hidden_states: Vec<f32>,
    /// How many rows: 77 for each chunk of the prompt.
    pub tokens: usize,
    /// SDXL: the projected embedding of the whole prompt.
    pub pooled: Option<Vec<f32>>,
}

/// How a masked picture keeps what lies outside of its mask.
pub(crate) enum Inpaint {
    /// By a UNet of nine channels: these further channels of its input, the mask and the masked picture's latents.
    Channels(Vec<f32>),
    /// By any other: after every step the original's latents, as noisy as the step left the others, take the place of
    /// those where `mask` is 0.
    Blend {
        /// A value for each latent pixel, 1 where the picture is made anew.
        mask: Vec<f32>,
        original: Vec<f32>,
        noise: Vec<f32>,
    },
}

/// One picture between two steps.
pub struct Denoise {
    /// Channels, rows and columns of the latents.
    pub(crate) shape: [usize; 3],
    pub(crate) latents: Vec<f32>,
    pub(crate) scheduler: Scheduler,
    pub(crate) generator: Generator,
    pub(crate) guidance_scale: f32,
    pub(crate) positive: Arc<Conditioning>,
    /// Without it there is no classifier-free guidance and the UNet runs once a step instead of twice.
    pub(crate) negative: Option<Arc<Conditioning>>,
    /// LCM: the embedding of the guidance scale.
    pub(crate) timestep_cond: Option<Vec<f32>>,
    /// SDXL: original size, crop and target size.
    pub(crate) time_ids: Option<[f32; 6]>,
    pub(crate) inpaint: Option<Inpaint>,
}

impl Denoise {
    /// How many steps there are in all: UNet calls, which are more than the steps asked for with a second-order scheduler and
    /// fewer with a `strength` below 1.
    pub fn steps(&self) -> usize {
        self.scheduler.timesteps().len()
    }

    /// How many are done.
    pub fn position(&self) -> usize {
        self.scheduler.position()
    }

    /// Whether all steps are done.
    pub fn is_done(&self) -> bool {
        self.scheduler.timestep().is_none()
    }

    /// How many entries of a batch it takes: 2 with classifier-free guidance.
    pub fn entries(&self) -> usize {
        1 + usize::from(self.negative.is_some())
    }

    /// (1, channels, rows, columns).
    pub fn shape(&self) -> [usize; 4] {
        [1, self.shape[0], self.shape[1], self.shape[2]]
    }

    /// The latents as they are now, at the scale of the UNet.
    pub fn latents(&self) -> &[f32] {
        &self.latents
    }

    /// Whether both can take a step in one UNet call: they are of one size, and so are their prompts.
    pub fn fits(&self, other: &Self) -> bool {
        self.shape == other.shape && self.positive.tokens == other.positive.tokens
    }

    /// The prompts of its entries, unconditional first, as in diffusers.
    fn prompts(&self) -> impl Iterator<Item = &Conditioning> {
        self.negative.iter().chain([&self.positive]).map(Arc::as_ref)
    }

    /// The UNet's input for one entry.
    fn sample(&self) -> Vec<f32> {
        let mut sample = self.latents.clone();
        self.scheduler.scale_model_input(&mut sample);
        if let Some(Inpaint::Channels(channels)) = &self.inpaint {
            sample.extend_from_slice(channels);
        }
        sample
    }

    /// Takes the UNet's outputs for its entries.
    fn advance(&mut self, outputs: &[f32]) -> Result<()> {
        let len = self.latents.len();
        let guided: Vec<f32>;
        let output = match outputs.split_at_checked(len) {
            Some((uncond, cond)) if self.negative.is_some() => {
                let scale = self.guidance_scale;
                guided = uncond.iter().zip(cond).map(|(u, c)| u + scale * (c - u)).collect();
                &guided
            }
            _ => outputs,
        };
        self.scheduler.step(output, &mut self.latents, &mut self.generator)?;
        if let Some(Inpaint::Blend { mask, original, noise }) = &self.inpaint {
            let original = self.scheduler.add_noise(original, noise)?;
            for (latents, original) in
                self.latents.chunks_exact_mut(mask.len()).zip(original.chunks_exact(mask.len()))
            {
                for ((latent, original), mask) in latents.iter_mut().zip(original).zip(mask) {
                    *latent = (1.0 - mask) * original + mask * *latent;
                }
            }
        }
        Ok(())
    }
}

/// Takes every one of `requests` one step on in a single UNet call. They may be at different steps and have different
/// schedulers, guidance and prompts; what becomes of one does not depend on the others.
///
/// # Errors
/// [`Error::Invalid`] for none, for one that is done, and for those that do not [`Denoise::fits`]; the device's.
pub fn step<B: Backend>(
    backend: &B,
    unet: &UNet2DConditionModel<B>,
    requests: &mut [&mut Denoise],
) -> Result<()> {
    let Some(first) = requests.first() else {
        return Err(Error::Invalid("a step of no requests".into()));
    };
    if requests.iter().any(|request| !request.fits(first)) {
        return Err(Error::Invalid("requests of different sizes can't share a step".into()));
    }
    let ([channels, h, w], tokens) = (first.shape, first.positive.tokens);
    let (mut sample, mut timesteps, mut hidden_states) = (Vec::new(), Vec::new(), Vec::new());
    let (mut timestep_cond, mut pooled, mut time_ids) = (Vec::new(), Vec::new(), Vec::new());
    for request in requests.iter() {
        let timestep = request.scheduler.timestep();
        let timestep = timestep.ok_or_else(|| Error::Invalid("all steps of the request are done".into()))?;
        let input = request.sample();
        for prompt in request.prompts() {
            sample.extend_from_slice(&input);
            timesteps.push(timestep as f32);
            hidden_states.extend_from_slice(&prompt.hidden_states);
            timestep_cond.extend(request.timestep_cond.iter().flatten());
            pooled.extend(prompt.pooled.iter().flatten());
            time_ids.extend(request.time_ids.iter().flatten());
        }
    }
    let n = timesteps.len();
    let rows = |values: Vec<f32>| {
        let features = values.len() / n;
        (!values.is_empty()).then(|| backend.tensor(values, [n, 1, 1, features])).transpose()
    };
    let (timestep_cond, pooled) = (rows(timestep_cond)?, rows(pooled)?);
    let in_channels = sample.len() / (n * h * w);
    let features = hidden_states.len() / (n * tokens);
    let sample = backend.tensor(sample, [n, in_channels, h, w])?;
    let hidden_states = backend.tensor(hidden_states, [n, 1, tokens, features])?;
    let conditions = Conditions {
        timestep_cond: timestep_cond.as_ref(),
        text_embeds: pooled.as_ref(),
        time_ids: (!time_ids.is_empty()).then_some(time_ids.as_slice()),
    };
    let output = unet.forward(backend, &sample, &timesteps, &hidden_states, &conditions)?;
    let output = backend.to_vec(&output)?;
    let mut rest = output.as_slice();
    for request in requests {
        let own;
        (own, rest) = rest.split_at(request.entries() * channels * h * w);
        request.advance(own)?;
    }
    Ok(())
}
