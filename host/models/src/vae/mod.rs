//! `AutoencoderKL`: from pictures to latents and back (Rombach et al. 2022, "High-Resolution Image Synthesis with Latent
//! Diffusion Models").

mod batches;
mod decoder;
mod encoder;
mod posterior;
mod scale;
mod stages;
mod tiled;

use std::sync::Arc;

use reverie_kernels::Backend;

pub use posterior::DiagonalGaussianDistribution;
pub use tiled::Tiling;

use crate::{
    config::AutoencoderKLConfig,
    error::{Error, Result},
    finite::Part,
    loader::Loader,
    unet::layers::conv1x1,
};
use batches::Activations;
use decoder::Decoder;
use encoder::Encoder;

/// The autoencoder of Stable Diffusion.
///
/// Pictures are (N, 3, H, W) in -1..1, latents (N, latent_channels, H / f, W / f). The latents here are the autoencoder's
/// own: the factor and shift that bring them to the scale of the UNet (`scaling_factor`, `shift_factor`) are the caller's.
pub struct AutoencoderKL<B: Backend> {
    encoder: Option<Encoder<B>>,
    quant_conv: Option<Arc<B::Conv2d>>,
    post_quant_conv: Option<Arc<B::Conv2d>>,
    decoder: Decoder<B>,
    /// f: how many pixels a latent is wide and high.
    factor: usize,
    sample_size: usize,
    encoded: Activations,
    decoded: Activations,
    part: Part,
}

impl<B: Backend> AutoencoderKL<B> {
    /// Both halves. Where `force_upcast` says that fp16 can't hold the activations, a device that has no more keeps a fraction
    /// of them, from which the same comes out.
    ///
    /// # Errors
    /// Configurations that are not supported, and tensors that are missing or of another shape.
    pub fn load(loader: &Loader<B>, config: &AutoencoderKLConfig) -> Result<Self> {
        Self::load_scaled(loader, config, scale::scale(loader.backend, config))
    }

    /// [`AutoencoderKL::load`] with activations that are multiplied by `scale`, a power of two, whatever device it is.
    ///
    /// # Errors
    /// As [`AutoencoderKL::load`].
    pub fn load_scaled(loader: &Loader<B>, config: &AutoencoderKLConfig, scale: f32) -> Result<Self> {
        let mut vae = Self::decoder(loader, config, scale)?;
        vae.encoder = Some(Encoder::load(&loader.sub("encoder"), config, scale)?);
        if config.use_quant_conv {
            let channels = 2 * config.latent_channels;
            vae.quant_conv = Some(conv1x1(loader, "quant_conv", channels, channels)?);
        }
        Ok(vae)
    }

    /// The half that makes pictures: all that text-to-image needs, in little more than half of the memory.
    ///
    /// # Errors
    /// As [`AutoencoderKL::load`].
    pub fn load_decoder(loader: &Loader<B>, config: &AutoencoderKLConfig) -> Result<Self> {
        Self::decoder(loader, config, scale::scale(loader.backend, config))
    }

    fn decoder(loader: &Loader<B>, config: &AutoencoderKLConfig, scale: f32) -> Result<Self> {
        stages::check(config)?;
        let channels = config.latent_channels;
        let post_quant_conv =
            config.use_post_quant_conv.then(|| conv1x1(loader, "post_quant_conv", channels, channels));
        Ok(Self {
            encoder: None,
            quant_conv: None,
            post_quant_conv: post_quant_conv.transpose()?,
            decoder: Decoder::load(&loader.sub("decoder"), config, scale)?,
            factor: 1 << (config.block_out_channels.len() - 1),
            sample_size: config.sample_size.as_slice().first().copied().unwrap_or(32),
            encoded: Activations::of_encoder(config),
            decoded: Activations::of_decoder(config),
            part: Part::new("the VAE", &loader.weights),
        })
    }

    /// How many pixels a latent is wide and high.
    pub fn factor(&self) -> usize {
        self.factor
    }

    /// Whether the device can encode a picture of so many rows and columns in one piece.
    pub fn encodes_whole(&self, backend: &B, rows: usize, columns: usize) -> bool {
        self.encoded.fit(backend, [rows, columns])
    }

    /// Whether the device can decode so many rows and columns of latents in one piece.
    pub fn decodes_whole(&self, backend: &B, rows: usize, columns: usize) -> bool {
        self.decoded.fit(backend, [rows, columns].map(|latents| latents.saturating_mul(self.factor)))
    }

    /// The distribution of the latents of `x`, (N, in_channels, H, W) in -1..1. Where the device can't take all N together, they
    /// are encoded one part after the other.
    ///
    /// # Errors
    /// [`Error::Invalid`] where only the decoder was loaded, and for pictures of which the device can't take one; the
    /// backend's, for shapes that do not fit.
    pub fn encode(&self, backend: &B, x: &B::Tensor) -> Result<DiagonalGaussianDistribution> {
        DiagonalGaussianDistribution::new(backend, &self.moments(backend, x)?)
    }

    /// [`AutoencoderKL::encode`] in tiles, as diffusers' `tiled_encode`: bounded memory for any size.
    ///
    /// `progress` is called before each tile and after the last, with how many are done of how many; where it returns an
    /// error, that is the result.
    ///
    /// # Errors
    /// Those of [`AutoencoderKL::encode`], of `progress`, [`Error::NotFinite`] for a tile whose values are not numbers, and
    /// [`Error::Invalid`] for a tiling that can't be.
    pub fn tiled_encode(
        &self,
        backend: &B,
        x: &B::Tensor,
        tiling: &Tiling,
        progress: &mut dyn FnMut(usize, usize) -> Result<()>,
    ) -> Result<DiagonalGaussianDistribution> {
        let plan = tiling.encode_plan()?;
        let moments =
            tiled::run(backend, x, &plan, &self.part, progress, |tile| self.moments(backend, tile))?;
        DiagonalGaussianDistribution::new(backend, &moments)
    }

    /// The pictures of the latents `z`: (N, latent_channels, H, W) to (N, out_channels, H·f, W·f), mostly in -1..1. Where the
    /// device can't take all N together, they are decoded one part after the other.
    ///
    /// # Errors
    /// [`Error::Invalid`] for pictures of which the device can't take one; the backend's, for shapes that do not fit.
    pub fn decode(&self, backend: &B, z: &B::Tensor) -> Result<B::Tensor> {
        let [.., rows, columns] = backend.shape(z);
        let size = [rows, columns].map(|latents| latents.saturating_mul(self.factor));
        self.decoded.run(backend, z, size, |z| match &self.post_quant_conv {
            Some(conv) => self.decoder.forward(backend, &backend.conv2d(z, conv)?),
            None => self.decoder.forward(backend, z),
        })
    }

    /// [`AutoencoderKL::decode`] in overlapping tiles which are blended, as diffusers' `tiled_decode`: bounded memory for
    /// any size. A tile's norms see less than the whole picture, so that the result differs a little from
    /// [`AutoencoderKL::decode`]'s.
    ///
    /// `progress` is called before each tile and after the last, with how many are done of how many; where it returns an
    /// error, that is the result.
    ///
    /// # Errors
    /// Those of [`AutoencoderKL::decode`], of `progress`, [`Error::NotFinite`] for a tile whose values are not numbers, and
    /// [`Error::Invalid`] for a tiling that can't be.
    pub fn tiled_decode(
        &self,
        backend: &B,
        z: &B::Tensor,
        tiling: &Tiling,
        progress: &mut dyn FnMut(usize, usize) -> Result<()>,
    ) -> Result<B::Tensor> {
        let plan = tiling.decode_plan()?;
        tiled::run(backend, z, &plan, &self.part, progress, |tile| self.decode(backend, tile))
    }

    /// The tiles that diffusers' `enable_tiling` takes: of the size that the model was trained with.
    pub fn default_tiling(&self) -> Tiling {
        Tiling::new(self.sample_size, self.factor)
    }

    fn moments(&self, backend: &B, x: &B::Tensor) -> Result<B::Tensor> {
        let encoder = self.encoder.as_ref().ok_or_else(|| {
            Error::Invalid("the VAE was loaded without its encoder, which pictures as input need".into())
        })?;
        let [.., rows, columns] = backend.shape(x);
        self.encoded.run(backend, x, [rows, columns], |x| {
            let encoded = encoder.forward(backend, x)?;
            Ok(match &self.quant_conv {
                Some(conv) => backend.conv2d(&encoded, conv)?,
                None => encoded,
            })
        })
    }
}
