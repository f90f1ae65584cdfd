//! The networks, and the pictures that they make.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use reverie_models::{
    AutoencoderKLConfig, LayerCache, Loader, Result, Weights,
    random::Generator,
    unet::{Conditions, UNet2DConditionModel},
    vae::AutoencoderKL,
};
use serde::de::DeserializeOwned;

use crate::machine::{Machine, cpu_seconds, memory_mb, reset_peak};

/// Of the noise that the pictures are made of; the driver's peers take the same.
const SEED: u64 = 7;
/// Pixels in a row of a latent.
const FACTOR: usize = 8;

pub struct Models<M: Machine> {
    pub backend: Arc<M>,
    unet: UNet2DConditionModel<M>,
    vae: AutoencoderKL<M>,
    /// Of the latents as the VAE takes them.
    scaling_factor: f32,
    /// Prompt, timesteps and noise levels, shared with the peers.
    inputs: Weights,
}

/// What a batch of pictures shows.
struct Prompt<M: Machine> {
    tokens: M::Tensor,
    /// SDXL's, as the sizes.
    text_embeds: Option<M::Tensor>,
    time_ids: Option<Vec<f32>>,
}

/// The pictures of a batch, and what they took.
pub struct Pictures {
    /// Of all of them, in picture, channel, row, column order.
    pub values: Vec<f32>,
    /// How long until the device had each step to do, and for the last, until all were done: where operations are done when
    /// they return, the time of each step.
    pub steps: Vec<Duration>,
    pub vae: Duration,
    /// Of all threads together.
    pub cpu_s: f64,
    /// Of the process, without the device's own memory.
    pub peak_mb: u64,
}

impl<M: Machine> Models<M> {
    pub fn load(backend: Arc<M>, folder: &Path) -> Result<Self> {
        let cache = LayerCache::default();
        let (config, weights) = open(&folder.join("unet"))?;
        let unet = UNet2DConditionModel::load(&Loader::new(&*backend, weights, &cache), &config)?;
        let cache = LayerCache::default();
        let (config, weights) = open::<AutoencoderKLConfig>(&folder.join("vae"))?;
        let scaling_factor = config.scaling_factor;
        let vae = AutoencoderKL::load_decoder(&Loader::new(&*backend, weights, &cache), &config)?;
        let inputs = Weights::open(&[folder.join("picture.safetensors")])?;
        backend.settle()?;
        Ok(Self { backend, unet, vae, scaling_factor, inputs })
    }

    fn prompt(&self, size: usize, batch: usize) -> Result<Prompt<M>> {
        let repeated = |name: &str| -> Result<M::Tensor> {
            let shape = self.inputs.shape(name)?;
            let (rows, features) = (shape[shape.len() - 2], shape[shape.len() - 1]);
            Ok(self.backend.tensor(self.inputs.values(name)?.repeat(batch), [batch, 1, rows, features])?)
        };
        let side = size as f32;
        let is_sdxl = self.inputs.has("text_embeds");
        Ok(Prompt {
            tokens: repeated("prompt")?,
            text_embeds: is_sdxl.then(|| repeated("text_embeds")).transpose()?,
            // The whole picture, uncropped.
            time_ids: is_sdxl.then(|| [side, side, 0.0, 0.0, side, side].repeat(batch)),
        })
    }

    /// What the network takes for the noise in `latents` at one timestep.
    fn noise(&self, latents: &M::Tensor, timestep: f32, prompt: &Prompt<M>) -> Result<M::Tensor> {
        let batch = self.backend.shape(latents)[0];
        let conditions = Conditions {
            text_embeds: prompt.text_embeds.as_ref(),
            time_ids: prompt.time_ids.as_deref(),
            ..Conditions::default()
        };
        self.unet.forward(&*self.backend, latents, &vec![timestep; batch], &prompt.tokens, &conditions)
    }

    /// Four steps and the decoding of `batch` pictures of `size` by `size` pixels.
    pub fn pictures(&self, size: usize, batch: usize) -> Result<Pictures> {
        reset_peak();
        let cpu = cpu_seconds();
        let backend = &*self.backend;
        let shape = [batch, 4, size / FACTOR, size / FACTOR];
        let prompt = self.prompt(size, batch)?;
        let timesteps = self.inputs.values("timesteps")?;
        let sigmas = self.inputs.values("sigmas")?;
        let noise = Generator::new(SEED).randn(shape.iter().product());
        let mut latents = backend.tensor(noise.iter().map(|x| x * sigmas[0]).collect(), shape)?;
        backend.settle()?;
        let mut steps = Vec::new();
        let mut start = Instant::now();
        // Euler's steps, with those timesteps and noise levels: the calls of the network are LCM's, and the picture does not
        // hang on how each program draws the noise that LCM adds.
        for (i, (timestep, levels)) in timesteps.iter().zip(sigmas.windows(2)).enumerate() {
            let (sigma, next) = (levels[0], levels[1]);
            let input = backend.combine(&[(1.0 / (sigma * sigma + 1.0).sqrt(), &latents)])?;
            let noise = self.noise(&input, *timestep, &prompt)?;
            latents = backend.combine(&[(1.0, &latents), (next - sigma, &noise)])?;
            if i + 1 == timesteps.len() {
                backend.settle()?;
            }
            let end = Instant::now();
            steps.push(end - start);
            start = end;
        }
        let latents = backend.combine(&[(1.0 / self.scaling_factor, &latents)])?;
        let pictures = self.vae.decode(backend, &latents)?;
        backend.settle()?;
        let (vae, cpu_s) = (start.elapsed(), cpu_seconds() - cpu);
        let values = backend.to_vec(&pictures)?;
        Ok(Pictures { values, steps, vae, cpu_s, peak_mb: memory_mb("VmHWM") })
    }

    /// The launches of one call of the network, a line for each. `ahead` are the same models on the same device, which have made
    /// pictures of this size: then its kernels are compiled, and their calls replay recordings. These models have made none yet.
    pub fn trace(&self, ahead: &Self, size: usize, batch: usize) -> Result<Vec<String>> {
        /// Calls that the device is busy with while the host launches: a launch that it has to wait for would seem longer.
        const AHEAD: usize = 8;
        let prompt = self.prompt(size, batch)?;
        let shape = [batch, 4, size / FACTOR, size / FACTOR];
        let latents = self.backend.tensor(Generator::new(SEED).randn(shape.iter().product()), shape)?;
        let timestep = self.inputs.values("timesteps")?[0];
        self.backend.trace(&mut || {
            for _ in 0..AHEAD {
                ahead.noise(&latents, timestep, &prompt)?;
            }
            self.noise(&latents, timestep, &prompt).map(drop)
        })
    }
}

fn open<C: DeserializeOwned>(folder: &Path) -> Result<(C, Weights)> {
    let config = std::fs::read(folder.join("config.json")).expect("a config.json");
    let config = serde_json::from_slice(&config).expect("a configuration of diffusers");
    Ok((config, Weights::open(&[folder.join("diffusion_pytorch_model.safetensors")])?))
}
