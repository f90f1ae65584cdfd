//! From a request to latents that can be denoised, and from denoised latents to a picture.

mod inputs;
mod load;
mod text;

use reverie_kernels::Backend;

use crate::{
    checkpoint::{ModelKind, default_latents},
    config::UNet2DConditionConfig,
    denoise::{Conditioning, Denoise, Inpaint},
    error::{Error, Result},
    noise::{self, Blend},
    random::Generator,
    schedulers::{Plan, Scheduler, SchedulerConfig},
    taesd::AutoencoderTiny,
    unet::UNet2DConditionModel,
    vae::AutoencoderKL,
};

pub use inputs::{Mask, Picture};
use text::TextEncoders;

/// Latents of more pixels than this are decoded and encoded in tiles, so that memory stays bounded: 1024x1024 pixels.
const UNTILED_LATENTS: usize = 128 * 128;

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
    /// Layers of the text encoder that are left out at its end, from 1 (none) on; None takes the model's way.
    pub clip_skip: Option<usize>,
    /// In place of the model's own.
    pub scheduler: Option<SchedulerConfig>,
    /// The picture to begin with, of the size asked for.
    pub image: Option<Picture>,
    /// Which part of it is made anew.
    pub mask: Option<Mask>,
    /// With a picture: how much of it may change, over 0 to 1.
    pub strength: f32,
}

enum Vae<B: Backend> {
    Kl { vae: Box<AutoencoderKL<B>>, scaling_factor: f32, shift_factor: f32 },
    Tiny { vae: AutoencoderTiny<B>, scaling_factor: f32, shift_factor: f32 },
}

/// A model with everything that it takes to make a picture.
pub struct Pipeline<B: Backend> {
    text: TextEncoders<B>,
    /// Predicts the noise: what [`crate::denoise::step`] runs.
    pub unet: UNet2DConditionModel<B>,
    unet_config: UNet2DConditionConfig,
    vae: Vae<B>,
    scheduler: SchedulerConfig,
    kind: ModelKind,
    /// Pixels a latent is wide.
    factor: usize,
    latent_channels: usize,
    force_zeros_for_empty_prompt: bool,
    turbo: bool,
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

    /// Whether it was distilled for few steps and is told so by its scheduler: the Turbo models' timesteps begin at the last.
    pub fn is_turbo(&self) -> bool {
        self.turbo
    }

    /// Whether the UNet itself takes masks.
    pub fn is_inpainting(&self) -> bool {
        self.unet_config.in_channels == 2 * self.latent_channels + 1
    }

    /// The scheduler that the model came with.
    pub fn scheduler(&self) -> &SchedulerConfig {
        &self.scheduler
    }

    /// The side of the pictures that it was trained with, in pixels.
    pub fn default_size(&self) -> usize {
        default_latents(&self.unet_config) * self.factor
    }

    /// Encodes the prompt, draws the noise and encodes the picture: everything before the first step.
    ///
    /// # Errors
    /// [`Error::Invalid`], which names the field and what is accepted; the device's.
    pub fn prepare(&self, backend: &B, request: &Request) -> Result<Denoise<B>> {
        self.check(request)?;
        let (h, w) = (request.height / self.factor, request.width / self.factor);
        let shape = [self.latent_channels, h, w];
        let guided = request.guidance_scale > 1.0 && !self.is_lcm();
        let (positive, negative) = self.conditioning(backend, request, guided)?;
        let scheduler =
            Scheduler::new(request.scheduler.as_ref().unwrap_or(&self.scheduler), &self.plan(request))?;
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
            positive,
            negative,
            timestep_cond: timestep_cond.transpose()?,
            time_ids,
            inpaint,
        })
    }

    fn check(&self, request: &Request) -> Result<()> {
        let invalid = |message: String| Err(Error::Invalid(message));
        let factor = self.factor;
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
        noise::check(&request.blends)?;
        if request.image.is_some() && !(request.strength > 0.0 && request.strength <= 1.0) {
            return invalid(format!("strength: {} is not over 0 and at most 1", request.strength));
        }
        match (&request.image, &request.mask) {
            (None, Some(_)) => return invalid("mask: needs an image whose part it names".into()),
            (_, None) if self.is_inpainting() => {
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

    fn plan(&self, request: &Request) -> Plan {
        let mut plan = Plan::new(request.num_inference_steps);
        if request.image.is_some() {
            plan.strength = f64::from(request.strength);
            // Which of diffusers' pipelines a model has depends on its UNet.
            plan.strength_in_original_steps = self.is_lcm() && request.mask.is_none();
        }
        plan
    }

    fn conditioning(
        &self,
        backend: &B,
        request: &Request,
        guided: bool,
    ) -> Result<(Conditioning<B>, Option<Conditioning<B>>)> {
        let empty = request.negative_prompt.as_deref().unwrap_or_default();
        let negative = guided.then_some([empty, request.negative_prompt_2.as_deref().unwrap_or(empty)]);
        let prompt = [&*request.prompt, request.prompt_2.as_deref().unwrap_or(&request.prompt)];
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
        let Some(mask) = &request.mask else {
            let original = upload(self.encode(backend, &image.tensor(backend)?, generator)?)?;
            let noise = upload(first_noise(request, generator, len))?;
            return Ok((scheduler.add_noise(backend, &original, &noise)?, None));
        };
        let from_noise = request.strength >= 1.0;
        let blended = !self.is_inpainting();
        let original = match blended || !from_noise {
            true => Some(upload(self.encode(backend, &image.tensor(backend)?, generator)?)?),
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
                let masked = self.encode(backend, &mask.cut_out(backend, image)?, generator)?;
                let channels = small_mask.into_iter().chain(masked).collect();
                Inpaint::Channels(backend.tensor(channels, [1, 1 + shape[0], h, w])?)
            }
        };
        Ok((latents, Some(inpaint)))
    }

    /// The latents of a picture, (1, 3, H, W) in -1..1, at the scale of the UNet.
    fn encode(&self, backend: &B, x: &B::Tensor, generator: &mut Generator) -> Result<Vec<f32>> {
        match &self.vae {
            Vae::Kl { vae, scaling_factor, shift_factor } => {
                let [.., height, width] = backend.shape(x);
                let small = height * width <= UNTILED_LATENTS * self.factor * self.factor
                    && vae.encodes_whole(backend, height, width);
                let posterior = match small {
                    true => vae.encode(backend, x)?,
                    false => vae.tiled_encode(backend, x, &vae.default_tiling(), &mut |_, _| Ok(()))?,
                };
                let noise = generator.randn(posterior.mode().len());
                let sample = posterior.sample(&noise)?;
                Ok(sample.into_iter().map(|x| (x - shift_factor) * scaling_factor).collect())
            }
            Vae::Tiny { vae, scaling_factor, shift_factor } => {
                let latents = backend.to_vec(&vae.encode(backend, x)?)?;
                Ok(latents.into_iter().map(|x| (x - shift_factor) * scaling_factor).collect())
            }
        }
    }

    /// The picture of denoised latents. `progress` is called before each tile and after the last, with how many are done of
    /// how many; where it returns an error, that is the result.
    ///
    /// # Errors
    /// Those of `progress` and of the device.
    pub fn decode(
        &self,
        backend: &B,
        request: &Denoise<B>,
        progress: &mut dyn FnMut(usize, usize) -> Result<()>,
    ) -> Result<Picture> {
        let [channels, h, w] = request.shape;
        let unscaled = |scaling_factor: f32, shift_factor: f32| {
            let shift = backend.tensor(vec![shift_factor; channels], [1, 1, 1, channels])?;
            backend.add_channels(&backend.combine(&[(1.0 / scaling_factor, &request.latents)])?, &shift)
        };
        let picture = match &self.vae {
            Vae::Kl { vae, scaling_factor, shift_factor } => {
                let latents = unscaled(*scaling_factor, *shift_factor)?;
                if h * w <= UNTILED_LATENTS && vae.decodes_whole(backend, h, w) {
                    progress(0, 1)?;
                    vae.decode(backend, &latents)?
                } else {
                    vae.tiled_decode(backend, &latents, &vae.default_tiling(), progress)?
                }
            }
            Vae::Tiny { vae, scaling_factor, shift_factor } => {
                progress(0, 1)?;
                vae.decode(backend, &unscaled(*scaling_factor, *shift_factor)?)?
            }
        };
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
