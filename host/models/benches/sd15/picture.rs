//! The networks, and the pictures that they make.

use std::{
    path::Path,
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
    pub backend: M,
    unet: UNet2DConditionModel<M>,
    vae: AutoencoderKL<M>,
    /// Of the latents as the VAE takes them.
    scaling_factor: f32,
    /// Prompt, timesteps and noise levels, shared with the peers.
    inputs: Weights,
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
    pub fn load(backend: M, folder: &Path) -> Result<Self> {
        let cache = LayerCache::default();
        let (config, weights) = open(&folder.join("unet"))?;
        let unet = UNet2DConditionModel::load(&Loader::new(&backend, weights, &cache), &config)?;
        let cache = LayerCache::default();
        let (config, weights) = open::<AutoencoderKLConfig>(&folder.join("vae"))?;
        let scaling_factor = config.scaling_factor;
        let vae = AutoencoderKL::load_decoder(&Loader::new(&backend, weights, &cache), &config)?;
        let inputs = Weights::open(&[folder.join("picture.safetensors")])?;
        backend.settle()?;
        Ok(Self { backend, unet, vae, scaling_factor, inputs })
    }

    /// Four steps and the decoding of `batch` pictures of `size` by `size` pixels.
    pub fn pictures(&self, size: usize, batch: usize) -> Result<Pictures> {
        reset_peak();
        let cpu = cpu_seconds();
        let backend = &self.backend;
        let shape = [batch, 4, size / FACTOR, size / FACTOR];
        let prompt = backend.tensor(self.inputs.values("prompt")?.repeat(batch), [batch, 1, 77, 768])?;
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
            let timesteps_of_batch = vec![*timestep; batch];
            let noise =
                self.unet.forward(backend, &input, &timesteps_of_batch, &prompt, &Conditions::default())?;
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
}

fn open<C: DeserializeOwned>(folder: &Path) -> Result<(C, Weights)> {
    let config = std::fs::read(folder.join("config.json")).expect("a config.json");
    let config = serde_json::from_slice(&config).expect("a configuration of diffusers");
    Ok((config, Weights::open(&[folder.join("diffusion_pytorch_model.safetensors")])?))
}
