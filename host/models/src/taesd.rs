//! `AutoencoderTiny`: Ollin Boer Bohan's TAESD, an autoencoder of convolutions only, for previews and for speed.

use std::sync::Arc;

use reverie_kernels::{Activation, Backend, Conv2dDesc, Filter, Unary};

use crate::{
    config::AutoencoderTinyConfig,
    error::{Error, Result},
    loader::Loader,
};

/// The tiny autoencoder.
///
/// Pictures are (N, 3, H, W) in -1..1. Its latents are at the scale of the UNet: unlike those of the large one they are
/// neither multiplied nor divided by a `scaling_factor`.
pub struct AutoencoderTiny<B: Backend> {
    encoder: Vec<Layer<B>>,
    decoder: Vec<Layer<B>>,
    latent_magnitude: f32,
    latent_shift: f32,
}

/// One of diffusers' `layers.{n}`.
enum Layer<B: Backend> {
    Conv(Arc<B::Conv2d>),
    Block([Arc<B::Conv2d>; 3]),
    /// Enlarges by repeating pixels.
    Upsample(usize),
}

impl<B: Backend> AutoencoderTiny<B> {
    /// Both halves.
    ///
    /// # Errors
    /// Configurations that are not supported, and tensors that are missing or of another shape.
    pub fn load(loader: &Loader<B>, config: &AutoencoderTinyConfig) -> Result<Self> {
        check(config)?;
        Ok(Self {
            encoder: encoder(&loader.sub("encoder"), config)?,
            decoder: decoder(&loader.sub("decoder"), config)?,
            latent_magnitude: config.latent_magnitude,
            latent_shift: config.latent_shift,
        })
    }

    /// (N, in_channels, H, W) in -1..1 to latents of (N, latent_channels, H / 8, W / 8), rounded up.
    ///
    /// # Errors
    /// The backend's, for shapes that do not fit.
    pub fn encode(&self, backend: &B, x: &B::Tensor) -> Result<B::Tensor> {
        // The network's pictures are in 0..1.
        run(backend, affine(backend, x, 0.5, 0.5)?, &self.encoder)
    }

    /// Latents of (N, latent_channels, H, W) to pictures of (N, out_channels, 8H, 8W), mostly in -1..1.
    ///
    /// # Errors
    /// The backend's, for shapes that do not fit.
    pub fn decode(&self, backend: &B, z: &B::Tensor) -> Result<B::Tensor> {
        // Squeezes latents beyond ±3, where the network was not trained.
        let tanh = backend.unary(&affine(backend, z, 1.0 / 3.0, 0.0)?, Unary::Tanh)?;
        let picture = run(backend, affine(backend, &tanh, 3.0, 0.0)?, &self.decoder)?;
        affine(backend, &picture, 2.0, -1.0)
    }

    /// Latents to 0..1, for storing them as pictures of bytes.
    pub fn scale_latents(&self, latent: f32) -> f32 {
        (latent / (2.0 * self.latent_magnitude) + self.latent_shift).clamp(0.0, 1.0)
    }

    /// The inverse of [`AutoencoderTiny::scale_latents`].
    pub fn unscale_latents(&self, scaled: f32) -> f32 {
        (scaled - self.latent_shift) * (2.0 * self.latent_magnitude)
    }
}

fn check(config: &AutoencoderTinyConfig) -> Result<()> {
    let unsupported = |key: &str, value: &dyn std::fmt::Debug, accepted: &str| {
        Err(Error::Unsupported(format!("tiny VAE config: {key} is {value:?}; accepted is {accepted}")))
    };
    for (key, widths, counts) in [
        ("encoder_block_out_channels", &config.encoder_block_out_channels, &config.num_encoder_blocks),
        ("decoder_block_out_channels", &config.decoder_block_out_channels, &config.num_decoder_blocks),
    ] {
        // The convolutions between the stages have as many channels at their input as at their output.
        if widths.is_empty()
            || widths.len() != counts.len()
            || widths.windows(2).any(|pair| pair[0] != pair[1])
        {
            return unsupported(key, widths, "one number, repeated for each stage of the blocks");
        }
    }
    if config.act_fn != "relu" {
        return unsupported("act_fn", &config.act_fn, "relu");
    }
    if config.upsample_fn != "nearest" {
        return unsupported("upsample_fn", &config.upsample_fn, "nearest");
    }
    if config.upsampling_scaling_factor == 0 {
        return unsupported("upsampling_scaling_factor", &config.upsampling_scaling_factor, "at least 1");
    }
    Ok(())
}

fn relu() -> Activation {
    Activation::LeakyRelu(0.0)
}

fn encoder<B: Backend>(loader: &Loader<B>, config: &AutoencoderTinyConfig) -> Result<Vec<Layer<B>>> {
    let mut layers = Layers { loader, layers: Vec::new(), next: 0 };
    let width = config.encoder_block_out_channels[0];
    for (stage, &blocks) in config.num_encoder_blocks.iter().enumerate() {
        let desc = match stage {
            0 => Conv2dDesc::same(config.in_channels, width, 3),
            _ => Conv2dDesc { stride: 2, ..Conv2dDesc::same(width, width, 3) },
        };
        layers.conv(desc, Activation::None)?;
        layers.blocks(blocks, width)?;
    }
    layers.conv(Conv2dDesc::same(width, config.latent_channels, 3), Activation::None)?;
    Ok(layers.layers)
}

fn decoder<B: Backend>(loader: &Loader<B>, config: &AutoencoderTinyConfig) -> Result<Vec<Layer<B>>> {
    let mut layers = Layers { loader, layers: Vec::new(), next: 0 };
    let width = config.decoder_block_out_channels[0];
    layers.conv(Conv2dDesc::same(config.latent_channels, width, 3), relu())?;
    // The activation is a layer of its own in the numbering.
    layers.next += 1;
    let last = config.num_decoder_blocks.len() - 1;
    for (stage, &blocks) in config.num_decoder_blocks.iter().enumerate() {
        layers.blocks(blocks, width)?;
        if stage < last {
            layers.upsample(config.upsampling_scaling_factor);
        }
        let out = if stage < last { width } else { config.out_channels };
        layers.conv(Conv2dDesc::same(width, out, 3), Activation::None)?;
    }
    Ok(layers.layers)
}

/// Appends layers, numbered as in diffusers' `nn.Sequential`.
struct Layers<'a, 'b, B: Backend> {
    loader: &'a Loader<'b, B>,
    layers: Vec<Layer<B>>,
    next: usize,
}

impl<B: Backend> Layers<'_, '_, B> {
    fn conv(&mut self, desc: Conv2dDesc, act: Activation) -> Result<()> {
        let conv = self.loader.conv2d(&format!("layers.{}", self.next), desc, act)?;
        self.push(Layer::Conv(conv));
        Ok(())
    }

    fn blocks(&mut self, count: usize, width: usize) -> Result<()> {
        for _ in 0..count {
            let loader = self.loader.sub(&format!("layers.{}.conv", self.next));
            let conv = |name, act| loader.conv2d(name, Conv2dDesc::same(width, width, 3), act);
            // The activation of the last comes after the input is added.
            let convs = [conv("0", relu())?, conv("2", relu())?, conv("4", Activation::None)?];
            self.push(Layer::Block(convs));
        }
        Ok(())
    }

    fn upsample(&mut self, factor: usize) {
        self.push(Layer::Upsample(factor));
    }

    fn push(&mut self, layer: Layer<B>) {
        self.layers.push(layer);
        self.next += 1;
    }
}

fn run<B: Backend>(backend: &B, mut x: B::Tensor, layers: &[Layer<B>]) -> Result<B::Tensor> {
    for layer in layers {
        x = match layer {
            Layer::Conv(conv) => backend.conv2d(&x, conv)?,
            Layer::Block([first, second, third]) => {
                let hidden = backend.conv2d(&backend.conv2d(&x, first)?, second)?;
                backend.unary(&backend.conv2d_residual(&hidden, third, 1.0, &x)?, Unary::Relu)?
            }
            Layer::Upsample(factor) => {
                let [.., h, w] = backend.shape(&x);
                backend.resize(&x, h * factor, w * factor, Filter::Nearest)?
            }
        };
    }
    Ok(x)
}

/// `x * scale + shift`.
fn affine<B: Backend>(backend: &B, x: &B::Tensor, scale: f32, shift: f32) -> Result<B::Tensor> {
    let shape = backend.shape(x);
    let shifts = backend.tensor(vec![shift; shape.iter().product()], shape)?;
    Ok(backend.scale_add(x, scale, &shifts)?)
}
