//! Both towers: `transformers.CLIPModel`, which tells how well a text describes a picture.

use std::path::Path;

use reverie_kernels::Backend;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{CLIPTextModel, CLIPVisionModel, Preprocessor};
use crate::{
    config::{CLIPTextConfig, CLIPVisionConfig},
    error::{Error, Result},
    finite::Part,
    json,
    loader::{LayerCache, Loader},
    pipeline::Picture,
    tokenizer::Tokenizer,
    weights::Weights,
};

const WEIGHTS: &str = "model.safetensors";

/// A dual encoder: texts and pictures become vectors of one space.
pub struct CLIPModel<B: Backend> {
    tokenizer: Tokenizer,
    preprocessor: Preprocessor,
    text_model: CLIPTextModel<B>,
    vision_model: CLIPVisionModel<B>,
    logit_scale: f32,
    part: Part,
}

/// `config.json`.
#[derive(Deserialize)]
struct Config {
    text_config: Map<String, Value>,
    vision_config: Map<String, Value>,
    projection_dim: Value,
}

/// A dual encoder on disk. Tensors are read when a layer is prepared.
pub struct CLIPFiles {
    text_config: CLIPTextConfig,
    vision_config: CLIPVisionConfig,
    /// The tensors of both towers.
    pub weights: Weights,
    tokenizer: Tokenizer,
    preprocessor: Preprocessor,
}

impl CLIPFiles {
    /// Opens a folder that [`CLIPModel::open`] reads, as far as that needs no tensor's values.
    ///
    /// # Errors
    /// [`Error::File`] for a file that is missing or not what it should be, [`Error::Unsupported`].
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let failed = |reason: String| Error::File { file: path.display().to_string(), reason };
        let Config { mut text_config, mut vision_config, projection_dim } = json::read(&path, json::CONFIG)?;
        // The towers' own are not used.
        for tower in [&mut text_config, &mut vision_config] {
            tower.insert("projection_dim".into(), projection_dim.clone());
        }
        let tower = |name: &str| format!("{}: {name}", path.display());
        let text_config: CLIPTextConfig = json::config(&tower("text_config"), text_config)?;
        let vision_config: CLIPVisionConfig = json::config(&tower("vision_config"), vision_config)?;
        let weights = Weights::open(&[folder.join(WEIGHTS)])?;
        let preprocessor = Preprocessor::open(folder)?;
        if preprocessor.side() != vision_config.image_size {
            return Err(failed(format!(
                "vision_config.image_size is {}, the preprocessor makes pictures of {}",
                vision_config.image_size,
                preprocessor.side()
            )));
        }
        let tokenizer = folder.join("tokenizer");
        Ok(Self {
            text_config,
            vision_config,
            weights,
            tokenizer: Tokenizer::open(if tokenizer.is_dir() { &tokenizer } else { folder })?,
            preprocessor,
        })
    }
}

impl<B: Backend> CLIPModel<B> {
    /// Reads a folder as `CLIPModel.save_pretrained` and `CLIPProcessor.save_pretrained` write it: `config.json`,
    /// `model.safetensors`, `preprocessor_config.json` or `processor_config.json`, and the tokenizer's files, there or in a
    /// folder `tokenizer`.
    ///
    /// # Errors
    /// [`Error::File`] for a file that is missing or not what it should be, [`Error::Unsupported`],
    /// [`Error::Missing`], [`Error::Shape`] and [`Error::Dtype`] for a checkpoint that does not fit.
    pub fn open(backend: &B, folder: &Path) -> Result<Self> {
        let files = CLIPFiles::open(folder)?;
        let logit_scale = files.weights.scalar("logit_scale")?.exp();
        let part = Part::new("the dual encoder", &files.weights);
        part.check(&[logit_scale])?;
        let cache = LayerCache::default();
        let loader = Loader::new(backend, files.weights, &cache);
        Ok(Self {
            tokenizer: files.tokenizer,
            preprocessor: files.preprocessor,
            text_model: CLIPTextModel::load(&loader, &files.text_config)?,
            vision_model: CLIPVisionModel::load(&loader, &files.vision_config)?,
            logit_scale,
            part,
        })
    }

    /// What the similarity is multiplied by for a softmax over texts or pictures.
    pub fn logit_scale(&self) -> f32 {
        self.logit_scale
    }

    /// A text as a vector of length 1. A text that is too long is cut off.
    ///
    /// # Errors
    /// [`Error::NotFinite`]; the device's.
    pub fn embed_text(&self, backend: &B, text: &str) -> Result<Vec<f32>> {
        let limit = self.text_model.config().max_position_embeddings.min(self.tokenizer.model_max_length);
        let mut tokens = vec![self.tokenizer.bos];
        tokens.extend(self.tokenizer.encode(text));
        tokens.truncate(limit.saturating_sub(1).max(1));
        tokens.push(self.tokenizer.eos);
        let made = self.text_model.forward(backend, &[&tokens])?;
        let embeds = made.text_embeds.ok_or_else(|| {
            Error::Unsupported("the text encoder has no projection (text_projection.weight)".into())
        })?;
        self.unit(backend.to_vec(&embeds)?)
    }

    /// A picture of any size as a vector of length 1: its dot product with a text's is their cosine similarity.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a picture without pixels; [`Error::NotFinite`]; the device's.
    pub fn embed_picture(&self, backend: &B, picture: &Picture) -> Result<Vec<f32>> {
        let pixels = self.preprocessor.values(picture)?;
        self.unit(self.vision_model.image_embeds(backend, &pixels)?)
    }

    /// At length 1.
    fn unit(&self, mut values: Vec<f32>) -> Result<Vec<f32>> {
        let norm = values.iter().map(|x| x * x).sum::<f32>().sqrt();
        values.iter_mut().for_each(|x| *x /= norm);
        self.part.check(&values)?;
        Ok(values)
    }
}
