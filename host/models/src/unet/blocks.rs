//! The stages of the UNet: down, middle and up.

use reverie_kernels::Backend;

use super::{
    attention::{Transformer2DModel, TransformerConfig},
    layers::{Downsample2D, Padding, Upsample2D},
    resnet::{ResnetBlock2D, ResnetConfig},
};
use crate::{error::Result, loader::Loader};

/// What a stage consists of.
#[derive(Debug, Clone)]
pub struct BlockConfig {
    /// The convolutional blocks, in order.
    pub resnets: Vec<ResnetConfig>,
    /// The transformer after each of them, in a stage with cross-attention.
    pub transformer: Option<TransformerConfig>,
    /// Whether the size changes at the end of the stage: in all but the last.
    pub resample: bool,
}

/// What every block of one call of the UNet is given.
pub struct Context<'a, B: Backend> {
    /// The device.
    pub backend: &'a B,
    /// SiLU of the time embedding, (N, 1, 1, temb).
    pub temb_act: &'a B::Tensor,
    /// The prompt's tokens, (N, 1, S, cross_attention_dim).
    pub encoder_hidden_states: &'a B::Tensor,
}

/// `DownBlock2D`, or with transformers `CrossAttnDownBlock2D`.
pub struct DownBlock2D<B: Backend> {
    layers: Vec<Layer<B>>,
    downsampler: Option<Downsample2D<B>>,
}

impl<B: Backend> DownBlock2D<B> {
    /// The stage whose tensors lie directly below `loader`.
    ///
    /// # Errors
    /// Tensors that are missing or of another shape.
    pub fn load(loader: &Loader<B>, config: &BlockConfig) -> Result<Self> {
        let downsampler = config.resample.then(|| {
            let channels = config.resnets.last().map_or(0, |resnet| resnet.out_channels);
            Downsample2D::load(&loader.sub("downsamplers.0"), channels, Padding::Around)
        });
        Ok(Self { layers: Layer::load_all(loader, config)?, downsampler: downsampler.transpose()? })
    }

    /// The image after this stage. What the up stages will need of it is appended to `skips`.
    ///
    /// # Errors
    /// The backend's, for shapes that do not fit.
    pub fn forward(
        &self,
        context: &Context<B>,
        mut x: B::Tensor,
        skips: &mut Vec<B::Tensor>,
    ) -> reverie_kernels::Result<B::Tensor> {
        for layer in &self.layers {
            x = layer.forward(context, x)?;
            skips.push(x.clone());
        }
        if let Some(downsampler) = &self.downsampler {
            x = downsampler.forward(context.backend, &x)?;
            skips.push(x.clone());
        }
        Ok(x)
    }
}

/// `UNetMidBlock2DCrossAttn`: a convolutional block, then transformer and convolutional block in turn.
pub struct UNetMidBlock2DCrossAttn<B: Backend> {
    first: ResnetBlock2D<B>,
    attention: Transformer2DModel<B>,
    last: ResnetBlock2D<B>,
}

impl<B: Backend> UNetMidBlock2DCrossAttn<B> {
    /// The stage whose tensors lie directly below `loader`.
    ///
    /// # Errors
    /// Tensors that are missing or of another shape.
    pub fn load(loader: &Loader<B>, resnet: &ResnetConfig, transformer: &TransformerConfig) -> Result<Self> {
        Ok(Self {
            first: ResnetBlock2D::load(&loader.sub("resnets.0"), resnet)?,
            attention: Transformer2DModel::load(&loader.sub("attentions.0"), transformer)?,
            last: ResnetBlock2D::load(&loader.sub("resnets.1"), resnet)?,
        })
    }

    /// (N, C, H, W) to the same shape.
    ///
    /// # Errors
    /// The backend's, for shapes that do not fit.
    pub fn forward(&self, context: &Context<B>, x: B::Tensor) -> reverie_kernels::Result<B::Tensor> {
        let x = self.first.forward(context.backend, x, Some(context.temb_act))?;
        let x = self.attention.forward(context.backend, x, context.encoder_hidden_states)?;
        self.last.forward(context.backend, x, Some(context.temb_act))
    }
}

/// `UpBlock2D`, or with transformers `CrossAttnUpBlock2D`.
pub struct UpBlock2D<B: Backend> {
    layers: Vec<Layer<B>>,
    upsampler: Option<Upsample2D<B>>,
}

impl<B: Backend> UpBlock2D<B> {
    /// The stage whose tensors lie directly below `loader`.
    ///
    /// # Errors
    /// Tensors that are missing or of another shape.
    pub fn load(loader: &Loader<B>, config: &BlockConfig) -> Result<Self> {
        let upsampler = config.resample.then(|| {
            let channels = config.resnets.last().map_or(0, |resnet| resnet.out_channels);
            Upsample2D::load(&loader.sub("upsamplers.0"), channels)
        });
        Ok(Self { layers: Layer::load_all(loader, config)?, upsampler: upsampler.transpose()? })
    }

    /// The image after this stage. Each convolutional block takes the last of `skips`; the image grows to the size of
    /// the one that is then the last.
    ///
    /// # Errors
    /// The backend's, for shapes that do not fit.
    pub fn forward(
        &self,
        context: &Context<B>,
        mut x: B::Tensor,
        skips: &mut Vec<B::Tensor>,
    ) -> reverie_kernels::Result<B::Tensor> {
        for layer in &self.layers {
            if let Some(skip) = skips.pop() {
                x = context.backend.concat(&[&x, &skip])?;
            }
            x = layer.forward(context, x)?;
        }
        match &self.upsampler {
            Some(upsampler) => {
                // A size that was odd before it was halved is not twice what it is now.
                let size = skips.last().map(|skip| {
                    let [.., rows, columns] = context.backend.shape(skip);
                    (rows, columns)
                });
                upsampler.forward(context.backend, x, size)
            }
            None => Ok(x),
        }
    }
}

/// A convolutional block and, in a stage with cross-attention, a transformer.
struct Layer<B: Backend> {
    resnet: ResnetBlock2D<B>,
    attention: Option<Transformer2DModel<B>>,
}

impl<B: Backend> Layer<B> {
    fn load_all(loader: &Loader<B>, config: &BlockConfig) -> Result<Vec<Self>> {
        let layer = |(i, resnet): (usize, &ResnetConfig)| {
            let transformer = config.transformer.as_ref();
            let attention =
                transformer.map(|it| Transformer2DModel::load(&loader.sub(&format!("attentions.{i}")), it));
            Ok(Self {
                resnet: ResnetBlock2D::load(&loader.sub(&format!("resnets.{i}")), resnet)?,
                attention: attention.transpose()?,
            })
        };
        config.resnets.iter().enumerate().map(layer).collect()
    }

    fn forward(&self, context: &Context<B>, x: B::Tensor) -> reverie_kernels::Result<B::Tensor> {
        let x = self.resnet.forward(context.backend, x, Some(context.temb_act))?;
        match &self.attention {
            Some(attention) => attention.forward(context.backend, x, context.encoder_hidden_states),
            None => Ok(x),
        }
    }
}
