//! From a request to latents that can be denoised, and from denoised latents to a picture.

mod autoencoder;
mod inputs;
mod load;
mod request;
mod text;

use reverie_kernels::Backend;

use crate::{
    checkpoint::{ModelKind, default_latents},
    config::UNet2DConditionConfig,
    denoise::{Conditioning, Denoise, Inpaint},
    error::{Error, Result},
    finite::are_finite,
    noise,
    prompt::Encodings,
    random::Generator,
    schedulers::{self, Plan, Scheduler, SchedulerConfig, SchedulerName},
    unet::UNet2DConditionModel,
};

use autoencoder::Autoencoder;
pub use inputs::{Mask, Picture};
pub use request::Request;
use text::TextEncoders;

/// A model with everything that it takes to make a picture.
pub struct Pipeline<B: Backend> {
    text: TextEncoders<B>,
    /// Predicts the noise: what [`crate::denoise::step`] runs.
    pub unet: UNet2DConditionModel<B>,
    unet_config: UNet2DConditionConfig,
    vae: Autoencoder<B>,
    scheduler: SchedulerConfig,
    /// In place of it where the request has a mask.
    inpaint_scheduler: SchedulerConfig,
    warnings: Vec<String>,
    kind: ModelKind,
    /// Pixels a latent is wide.
    factor: usize,
    latent_channels: usize,
    force_zeros_for_empty_prompt: bool,
    turbo: bool,
    /// Whether diffusers' pipeline of it is `LatentConsistencyModelPipeline`, which the UNet alone does not tell.
    lcm_pipeline: bool,
}

impl<B: Backend> Pipeline<B> {
    /// Pixels a latent is wide: sizes of pictures are multiples of it.
    pub fn factor(&self) -> usize {
        self.factor
    }

    /// What it is.
    pub fn kind(&self) -> ModelKind {
        self.kind
    }

    /// Whether the guidance scale is an input of the UNet: a latent consistency model.
    pub fn is_lcm(&self) -> bool {
        self.unet_config.time_cond_proj_dim.is_some()
    }

    /// Whether it was distilled for few steps; see [`crate::ModelFiles::is_turbo`].
    pub fn is_turbo(&self) -> bool {
        self.turbo
    }

    /// Whether the UNet itself takes masks.
    pub fn is_inpainting(&self) -> bool {
        self.unet_config.in_channels == 2 * self.latent_channels + 1
    }

    /// What its prompts were encoded to, as far as it is kept.
    pub fn encodings(&self) -> &Encodings<B> {
        &self.text.encodings
    }

    /// What its files and its adapters say that has no effect, in sentences that name it.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The scheduler that the model came with. It need not be one that is built: [`SchedulerConfig::usable`] tells.
    pub fn scheduler(&self) -> &SchedulerConfig {
        &self.scheduler
    }

    /// The scheduler that the model came with as it is with a mask: another pipeline of diffusers reads it, which corrects other
    /// settings of old files. What a request with a mask names is to be made of this one.
    pub fn inpaint_scheduler(&self) -> &SchedulerConfig {
        &self.inpaint_scheduler
    }

    /// The side of the pictures that it was trained with, in pixels.
    pub fn default_size(&self) -> usize {
        default_latents(&self.unet_config) * self.factor
    }

    /// Encodes the prompt, draws the noise and encodes the picture: everything before the first step.
    ///
    /// # Errors
    /// [`Error::Invalid`], which names the field and what is accepted; [`Error::NotFinite`] where the prompt's encoding or the
    /// picture's latents are not numbers; [`Error::Changed`]; the device's.
    pub fn prepare(&self, backend: &B, request: &Request) -> Result<Denoise<B>> {
        request.check(self.factor, self.is_inpainting())?;
        let (h, w) = (request.height / self.factor, request.width / self.factor);
        let shape = [self.latent_channels, h, w];
        let guided = request.guidance_scale > 1.0 && !self.is_lcm();
        let config = self.scheduler_for(request);
        config.usable()?;
        takes_eta(config, request.eta)?;
        let (positive, negative) = self.conditioning(backend, request, guided)?;
        let plan = self.plan(request);
        // Only the pipelines with a mask refuse it whatever the scheduler.
        if request.mask.is_some() && plan.run() == 0 {
            return Err(schedulers::no_steps(&plan));
        }
        let scheduler = Scheduler::new(config, &plan)?;
        let mut generator = Generator::new(request.seed);
        let (latents, inpaint) = self.first_latents(backend, request, shape, &scheduler, &mut generator)?;
        let timestep_cond = self.unet_config.time_cond_proj_dim.map(|features| {
            let embedding = guidance_scale_embedding(request.guidance_scale - 1.0, features);
            backend.tensor(embedding, [1, 1, 1, features])
        });
        let (height, width) = (request.height as f32, request.width as f32);
        let time_ids = (self.kind == ModelKind::Sdxl)
            .then(|| request.time_ids.unwrap_or([height, width, 0.0, 0.0, height, width]));
        Ok(Denoise {
            shape,
            latents,
            scheduler,
            generator,
            guidance_scale: request.guidance_scale,
            guidance_rescale: request.guidance_rescale,
            warnings: self.warnings_of(backend, request, [h, w]),
            positive,
            negative,
            timestep_cond: timestep_cond.transpose()?,
            time_ids,
            inpaint,
            fault: None,
        })
    }

    /// What the request or the model says. The model's own scheduler is another with a mask.
    fn scheduler_for<'a>(&'a self, request: &'a Request) -> &'a SchedulerConfig {
        let own = request.scheduler.as_ref().is_none_or(|asked| asked == &self.scheduler);
        match &request.scheduler {
            _ if own && request.mask.is_some() => &self.inpaint_scheduler,
            Some(asked) => asked,
            None => &self.scheduler,
        }
    }

    fn plan(&self, request: &Request) -> Plan {
        let mut plan = Plan { eta: request.eta, ..Plan::new(request.num_inference_steps) };
        if request.image.is_some() {
            plan.strength = request.strength;
            plan.strength_in_original_steps = self.lcm_pipeline && request.mask.is_none();
        }
        plan
    }

    /// What is done in another way than asked.
    fn warnings_of(&self, backend: &B, request: &Request, latents: [usize; 2]) -> Vec<String> {
        let tiles = self.vae.needs_tiles(backend, latents, request.image.is_some());
        let warning = || {
            format!(
                "{}x{} pixels do not fit the device at once: they are made in tiles, which differ a little from a whole",
                request.width, request.height
            )
        };
        tiles.then(warning).into_iter().collect()
    }

    fn conditioning<'a>(
        &self,
        backend: &B,
        request: &'a Request,
        guided: bool,
    ) -> Result<(Conditioning<B>, Option<Conditioning<B>>)> {
        // An empty second text means the first, as with diffusers.
        let second = |text: &'a Option<String>, first: &'a str| {
            text.as_deref().filter(|text| !text.is_empty()).unwrap_or(first)
        };
        let empty = request.negative_prompt.as_deref().unwrap_or_default();
        let negative = guided.then(|| [empty, second(&request.negative_prompt_2, empty)]);
        let prompt = [&*request.prompt, second(&request.prompt_2, &request.prompt)];
        let (positive, mut negative) = self.text.encode(backend, prompt, negative, request.clip_skip)?;
        if request.negative_prompt.is_none()
            && self.force_zeros_for_empty_prompt
            && let Some(negative) = &mut negative
        {
            for x in std::iter::once(&mut negative.hidden_states).chain(&mut negative.pooled) {
                let shape = backend.shape(x);
                *x = backend.tensor(vec![0.0; shape.iter().product()], shape)?;
            }
        }
        Ok((positive, negative))
    }

    /// The latents before the first step. Random numbers are drawn in diffusers' order: the picture's latents, the noise,
    /// the masked picture's latents.
    fn first_latents(
        &self,
        backend: &B,
        request: &Request,
        shape: [usize; 3],
        scheduler: &Scheduler<B>,
        generator: &mut Generator,
    ) -> Result<(B::Tensor, Option<Inpaint<B>>)> {
        let [channels, h, w] = shape;
        let len = channels * h * w;
        let upload = |values: Vec<f32>| backend.tensor(values, [1, channels, h, w]);
        let pure_noise =
            |noise: &[f32]| upload(noise.iter().map(|x| x * scheduler.init_noise_sigma()).collect());
        let Some(image) = &request.image else {
            return Ok((pure_noise(&first_noise(request, generator, len))?, None));
        };
        let encode = |x: &B::Tensor, generator: &mut Generator| {
            let with_moments = self.kind == ModelKind::Sdxl && request.mask.is_none();
            self.vae.encode(backend, x, generator, with_moments)
        };
        let Some(mask) = &request.mask else {
            let original = upload(encode(&image.tensor(backend)?, generator)?)?;
            let noise = upload(first_noise(request, generator, len))?;
            return Ok((scheduler.add_noise(backend, &original, &noise)?, None));
        };
        let from_noise = request.strength >= 1.0;
        let blended = !self.is_inpainting();
        let original = match blended || !from_noise {
            true => Some(upload(encode(&image.tensor(backend)?, generator)?)?),
            false => None,
        };
        let values = first_noise(request, generator, len);
        let noise = upload(values.clone())?;
        let latents = match &original {
            Some(original) if !from_noise => scheduler.add_noise(backend, original, &noise)?,
            _ => pure_noise(&values)?,
        };
        let small_mask = mask.at_latents(h, w);
        let inpaint = match original {
            Some(original) if blended => {
                // diffusers encodes the masked picture here too, and uses no more of it than the noise it draws.
                generator.randn(len);
                Inpaint::Blend { mask: upload(small_mask.repeat(channels))?, original, noise }
            }
            _ => {
                let masked = encode(&mask.cut_out(backend, image)?, generator)?;
                let channels = small_mask.into_iter().chain(masked).collect();
                Inpaint::Channels(backend.tensor(channels, [1, 1 + shape[0], h, w])?)
            }
        };
        Ok((latents, Some(inpaint)))
    }

    /// The picture of denoised latents. `progress` is called before each tile and after the last, with how many are done of
    /// how many; where it returns an error, that is the result.
    ///
    /// # Errors
    /// [`Error::NotFinite`] where the latents or the picture are not numbers; those of `progress` and of the device.
    pub fn decode(
        &self,
        backend: &B,
        request: &Denoise<B>,
        progress: &mut dyn FnMut(usize, usize) -> Result<()>,
    ) -> Result<Picture> {
        if let Some(fault) = request.fault() {
            return Err(fault.clone());
        }
        if !are_finite(&request.latents(backend)?) {
            return Err(self.unet.part.not_finite(format!(
                " by step {} of {}",
                request.position(),
                request.steps()
            )));
        }
        let picture = self.vae.decode(backend, &request.latents, progress)?;
        Picture::from_tensor(backend, &picture)
    }

    /// A picture of latents on their way, a pixel for each, by a linear projection of their channels: cheap enough for every
    /// step. None for latents of other than 4 channels. Waits for the device.
    ///
    /// # Errors
    /// The device's.
    pub fn preview(&self, backend: &B, request: &Denoise<B>) -> Result<Option<Picture>> {
        let [4, height, width] = request.shape else { return Ok(None) };
        let factors = match self.kind {
            ModelKind::Sdxl => &inputs::SDXL_RGB,
            ModelKind::Sd1 | ModelKind::Sd2 => &inputs::SD_RGB,
        };
        let rgb = inputs::project(&request.latents(backend)?, height * width, factors);
        Ok(Some(Picture { width, height, rgb }))
    }
}

/// # Errors
/// [`Error::Invalid`] where a scheduler would not be told of it.
fn takes_eta(config: &SchedulerConfig, eta: f32) -> Result<()> {
    let takes = matches!(config.name(), SchedulerName::Ddim | SchedulerName::Tcd);
    if eta == 0.0 || takes {
        return Ok(());
    }
    let name = config.name().as_str();
    Err(Error::Invalid(format!("eta: {name} takes none; DDIMScheduler and TCDScheduler do")))
}

/// The noise that a request begins with: its generator's, blended as it says. Generators of their own give what it is
/// blended with, so that what is drawn later does not depend on it.
fn first_noise(request: &Request, generator: &mut Generator, len: usize) -> Vec<f32> {
    noise::blend(generator.randn(len), &request.blends)
}

/// diffusers' `get_guidance_scale_embedding`, by which a latent consistency model is told the guidance scale `w` (less 1):
/// sines, then cosines, of 1000 w at frequencies from 1 down to 1/10000.
fn guidance_scale_embedding(w: f32, features: usize) -> Vec<f32> {
    let half = features / 2;
    let step = 10000f32.ln() / (half.max(2) - 1) as f32;
    let angles: Vec<f32> = (0..half).map(|i| w * 1000.0 * (-(i as f32) * step).exp()).collect();
    let sines = angles.iter().map(|x| x.sin());
    let mut embedding: Vec<f32> = sines.chain(angles.iter().map(|x| x.cos())).collect();
    embedding.resize(features, 0.0);
    embedding
}
