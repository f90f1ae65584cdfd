//! A pipeline's autoencoder, and the scale at which the UNet has its latents.

use reverie_kernels::Backend;

use crate::{error::Result, finite::Part, random::Generator, taesd::AutoencoderTiny, vae::AutoencoderKL};

/// Either kind, with its latents' scale.
pub(super) struct Autoencoder<B: Backend> {
    pub(super) model: Model<B>,
    pub(super) scale: LatentScale,
    pub(super) part: Part,
}

pub(super) enum Model<B: Backend> {
    Kl(Box<AutoencoderKL<B>>),
    Tiny(AutoencoderTiny<B>),
}

/// What latents are brought to the scale of the UNet by.
pub(super) struct LatentScale {
    /// `scaling_factor`. Diffusers' pipelines of these models make nothing of a `shift_factor`.
    pub(super) factor: f32,
    /// `latents_mean` and `latents_std`, by channel: only the pipelines of SDXL make something of them, and only where there
    /// are both.
    pub(super) moments: Option<(Vec<f32>, Vec<f32>)>,
}

impl LatentScale {
    /// Latents of the autoencoder, channel by channel, for the UNet.
    fn scaled(&self, mut latents: Vec<f32>, with_moments: bool) -> Vec<f32> {
        let Some((mean, std)) = self.moments.as_ref().filter(|_| with_moments) else {
            latents.iter_mut().for_each(|x| *x *= self.factor);
            return latents;
        };
        let area = latents.len() / mean.len();
        for (channel, (mean, std)) in latents.chunks_exact_mut(area).zip(mean.iter().zip(std)) {
            channel.iter_mut().for_each(|x| *x = (*x - mean) * self.factor / std);
        }
        latents
    }

    /// Latents of the UNet, (1, channels, H, W), for the autoencoder.
    fn unscaled<B: Backend>(&self, backend: &B, latents: &B::Tensor) -> Result<B::Tensor> {
        let Some((mean, std)) = &self.moments else {
            return Ok(backend.combine(&[(1.0 / self.factor, latents)])?);
        };
        let shape = backend.shape(latents);
        let mut values = backend.to_vec(latents)?;
        let area = values.len() / mean.len();
        for (channel, (mean, std)) in values.chunks_exact_mut(area).zip(mean.iter().zip(std)) {
            channel.iter_mut().for_each(|x| *x = *x * std / self.factor + mean);
        }
        Ok(backend.tensor(values, shape)?)
    }
}

impl<B: Backend> Autoencoder<B> {
    /// The latents of a picture, (1, 3, H, W) in -1..1, at the scale of the UNet. `with_moments` says whether the pipeline is
    /// one that makes something of the latents' moments here.
    pub(super) fn encode(
        &self,
        backend: &B,
        x: &B::Tensor,
        generator: &mut Generator,
        with_moments: bool,
    ) -> Result<Vec<f32>> {
        let latents = match &self.model {
            Model::Kl(vae) => {
                let [.., height, width] = backend.shape(x);
                let posterior = match vae.encodes_whole(backend, height, width) {
                    true => vae.encode(backend, x)?,
                    false => vae.tiled_encode(backend, x, &vae.default_tiling(), &mut |_, _| Ok(()))?,
                };
                let noise = generator.randn(posterior.mode().len());
                posterior.sample(&noise)?
            }
            Model::Tiny(vae) => backend.to_vec(&vae.encode(backend, x)?)?,
        };
        let latents = self.scale.scaled(latents, with_moments);
        self.part.check(&latents)?;
        Ok(latents)
    }

    /// The picture of latents at the scale of the UNet, (1, 3, H, W) in -1..1. `progress` is called before each tile and after
    /// the last, with how many are done of how many; where it returns an error, that is the result.
    pub(super) fn decode(
        &self,
        backend: &B,
        latents: &B::Tensor,
        progress: &mut dyn FnMut(usize, usize) -> Result<()>,
    ) -> Result<B::Tensor> {
        let [.., h, w] = backend.shape(latents);
        let latents = self.scale.unscaled(backend, latents)?;
        let picture = match &self.model {
            // Tiles are looked at one by one.
            Model::Kl(vae) if !vae.decodes_whole(backend, h, w) => {
                return vae.tiled_decode(backend, &latents, &vae.default_tiling(), progress);
            }
            Model::Kl(vae) => {
                progress(0, 1)?;
                vae.decode(backend, &latents)?
            }
            Model::Tiny(vae) => {
                progress(0, 1)?;
                vae.decode(backend, &latents)?
            }
        };
        self.part.check_picture(backend, &picture)?;
        Ok(picture)
    }

    /// Whether a picture of so many rows and columns of latents is encoded or decoded in tiles, which makes another picture
    /// of it.
    pub(super) fn needs_tiles(&self, backend: &B, [h, w]: [usize; 2], encodes: bool) -> bool {
        match &self.model {
            Model::Kl(vae) => {
                let side = |latents: usize| latents.saturating_mul(vae.factor());
                !vae.decodes_whole(backend, h, w) || encodes && !vae.encodes_whole(backend, side(h), side(w))
            }
            Model::Tiny(_) => false,
        }
    }
}
