//! CLIP's picture encoder: `transformers.CLIPVisionModelWithProjection`, a vision transformer (Dosovitskiy et al. 2021, "An
//! Image is Worth 16x16 Words").

use std::sync::Arc;

use reverie_kernels::{Backend, Mask};

use super::encoder::{self, CLIPEncoderLayer, LayerNorm, Shape};
use crate::{
    config::CLIPVisionConfig,
    error::{Error, Result},
    loader::Loader,
};

/// A picture encoder. The tensors' names begin with `vision_model`, but for `visual_projection.weight`.
pub struct CLIPVisionModel<B: Backend> {
    config: CLIPVisionConfig,
    /// One row of hidden_size values, which stands before the patches.
    class_embedding: Vec<f32>,
    /// A convolution whose stride is its kernel: a matrix over the pixels of a patch.
    patch_embedding: B::Linear,
    /// A row for the class and one for each patch.
    position_embedding: Vec<f32>,
    pre_layrnorm: LayerNorm<B>,
    layers: Vec<CLIPEncoderLayer<B>>,
    post_layernorm: LayerNorm<B>,
    visual_projection: Arc<B::Linear>,
}

impl<B: Backend> CLIPVisionModel<B> {
    /// Prepares all layers.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a configuration that is not accepted; [`Error::Missing`], [`Error::Shape`] and
    /// [`Error::Dtype`] for a checkpoint that does not fit it.
    pub fn load(loader: &Loader<B>, config: &CLIPVisionConfig) -> Result<Self> {
        let CLIPVisionConfig { hidden_size, projection_dim, image_size, patch_size, num_channels, .. } =
            *config;
        if num_channels != 3 || patch_size == 0 || image_size < patch_size {
            return Err(Error::Unsupported(format!(
                "vision_config: pictures of {num_channels} channels, {image_size} pixels, in patches of {patch_size}; \
                 accepted are 3 channels and patches that fit"
            )));
        }
        let shape = Shape {
            hidden_size,
            intermediate_size: config.intermediate_size,
            num_attention_heads: config.num_attention_heads,
            layer_norm_eps: config.layer_norm_eps,
            activation: encoder::activation("picture encoder", &config.hidden_act)?,
            mask: Mask::None,
        };
        let model = loader.sub("vision_model");
        let weights = model.weights.sub("embeddings");
        let patch = weights.tensor("patch_embedding.weight", &[hidden_size, 3, patch_size, patch_size])?;
        let patch_embedding =
            loader.backend.prepare_linear(3 * patch_size * patch_size, hidden_size, &patch, None)?;
        let positions = 1 + config.patches() * config.patches();
        let layer = |i: usize| CLIPEncoderLayer::load(&model.sub(&format!("encoder.layers.{i}")), &shape);
        Ok(Self {
            class_embedding: weights.tensor("class_embedding", &[hidden_size])?,
            patch_embedding,
            position_embedding: weights.tensor("position_embedding.weight", &[positions, hidden_size])?,
            pre_layrnorm: LayerNorm::load(&model, "pre_layrnorm", &shape)?,
            layers: (0..config.num_hidden_layers).map(layer).collect::<Result<_>>()?,
            post_layernorm: LayerNorm::load(&model, "post_layernorm", &shape)?,
            visual_projection: loader.linear("visual_projection", hidden_size, projection_dim)?,
            config: config.clone(),
        })
    }

    /// The configuration that it was loaded with.
    pub fn config(&self) -> &CLIPVisionConfig {
        &self.config
    }

    /// The projected embedding of one picture, `projection_dim` values, not normalised. `pixels` are its three channels, one
    /// after the other, as [`super::Preprocessor`] makes them: `image_size` rows and columns.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another number of values; the device's.
    pub fn image_embeds(&self, backend: &B, pixels: &[f32]) -> Result<Vec<f32>> {
        let CLIPVisionConfig { hidden_size, image_size, patch_size, .. } = self.config;
        if pixels.len() != 3 * image_size * image_size {
            return Err(Error::Invalid(format!(
                "the picture encoder takes 3 channels of {image_size}x{image_size} values, not {} values",
                pixels.len()
            )));
        }
        let side = self.config.patches();
        let mut patches = Vec::with_capacity(side * side * 3 * patch_size * patch_size);
        for patch in 0..side * side {
            let (top, left) = (patch / side * patch_size, patch % side * patch_size);
            for channel in pixels.chunks_exact(image_size * image_size) {
                for row in top..top + patch_size {
                    patches.extend_from_slice(&channel[row * image_size + left..][..patch_size]);
                }
            }
        }
        let patches = backend.tensor(patches, [1, 1, side * side, 3 * patch_size * patch_size])?;
        let embedded = backend.to_vec(&backend.linear(&patches, &self.patch_embedding)?)?;
        let values = self.class_embedding.iter().chain(&embedded).zip(&self.position_embedding);
        let values = values.map(|(x, position)| x + position).collect();
        let x = backend.tensor(values, [1, 1, 1 + side * side, hidden_size])?;
        let mut x = self.pre_layrnorm.forward(backend, &x)?;
        for layer in &self.layers {
            x = layer.forward(backend, &x, None)?;
        }
        // The state of the class alone is used.
        let class = backend.to_vec(&x)?[..hidden_size].to_vec();
        let class = self.post_layernorm.forward(backend, &backend.tensor(class, [1, 1, 1, hidden_size])?)?;
        Ok(backend.to_vec(&backend.linear(&class, &self.visual_projection)?)?)
    }
}
