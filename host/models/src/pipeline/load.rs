//! From the files of a model to a pipeline on a device.

use reverie_kernels::Backend;

use super::{
    Pipeline,
    autoencoder::{Autoencoder, LatentScale, Model},
    text::{KEPT_ENCODINGS, TextEncoders},
};
use crate::{
    checkpoint::{Component, ModelFiles, ModelKind, VaeConfig},
    clip::CLIPTextModel,
    config::CLIPTextConfig,
    error::{Error, Result},
    finite::Part,
    loader::{LayerCache, Loader, Progress, Tell},
    lora::{Adapters, Target},
    prompt::Encodings,
    taesd::AutoencoderTiny,
    tokenizer::Tokenizer,
    unet::UNet2DConditionModel,
    vae::AutoencoderKL,
};

/// What fills the prompts of SD 2's text encoder and of SDXL's second up; all others are filled with the end of the text.
const PAD_BIG: &str = "!";
const PAD: &str = "<|endoftext|>";

impl<B: Backend> Pipeline<B> {
    /// Prepares a model with what LoRAs add to it. Layers that `cache` has are taken from there.
    ///
    /// # Errors
    /// Files that can't be read, tensors that are missing or misshapen, configurations that are not supported.
    pub fn load(backend: &B, files: &ModelFiles, cache: &LayerCache<B>, adapters: &Adapters) -> Result<Self> {
        Self::load_and_tell(backend, files, cache, adapters, &|_| Ok(()))
    }

    /// The same; `tell` hears how far it is, and may end it.
    ///
    /// # Errors
    /// Those of [`Pipeline::load`] and of `tell`.
    pub fn load_and_tell(
        backend: &B,
        files: &ModelFiles,
        cache: &LayerCache<B>,
        adapters: &Adapters,
        tell: Tell,
    ) -> Result<Self> {
        tell(0.0)?;
        let all = [&files.unet.weights, &files.text_encoder.weights, &files.vae.weights];
        let second = files.text_encoder_2.as_ref().map(|component| &component.weights);
        let progress = Progress::new(all.into_iter().chain(second), tell);
        let sdxl = files.kind == ModelKind::Sdxl;
        let mut encoders = Vec::new();
        let pad = if files.kind == ModelKind::Sd2 { PAD_BIG } else { PAD };
        let first = (Some(&files.text_encoder), &files.tokenizer, pad, Target::TextEncoder);
        let second = (files.text_encoder_2.as_ref(), &files.tokenizer_2, PAD_BIG, Target::TextEncoder2);
        for (component, tokenizer, pad, target) in [first, second] {
            let Some(Component { config, weights }) = component else { continue };
            let tokenizer = match tokenizer {
                Some(folder) => Tokenizer::open(folder)?,
                None => Tokenizer::clip(pad)?,
            };
            check_vocabulary(&tokenizer, config)?;
            let loader = Loader::new(backend, weights.clone(), cache)
                .with_adapters(adapters.component(target))
                .with_progress(&progress);
            encoders.push((tokenizer, CLIPTextModel::load(&loader, config)?));
        }
        let unet = &files.unet;
        let loader = Loader::new(backend, unet.weights.clone(), cache);
        let loader = loader.with_adapters(adapters.component(Target::Unet)).with_progress(&progress);
        let (vae, latent_channels, factor) = vae(backend, files, cache, &progress)?;
        let mut warnings = files.warnings.clone();
        warnings.extend(adapters.warnings());
        Ok(Self {
            text: TextEncoders { encoders, sdxl, encodings: Encodings::new(KEPT_ENCODINGS) },
            unet: UNet2DConditionModel::load(&loader, &unet.config)?,
            unet_config: unet.config.clone(),
            vae,
            turbo: files.is_turbo(),
            scheduler: files.scheduler_config()?,
            inpaint_scheduler: files.inpaint_scheduler_config()?,
            warnings,
            lcm_pipeline: files.pipeline_class.starts_with("LatentConsistencyModel"),
            kind: files.kind,
            factor,
            latent_channels,
            force_zeros_for_empty_prompt: files.force_zeros_for_empty_prompt,
        })
    }
}

/// A tokenizer of another vocabulary than the model's would name wrong words, or none.
fn check_vocabulary(tokenizer: &Tokenizer, config: &CLIPTextConfig) -> Result<()> {
    let (texts, positions) = (tokenizer.model_max_length, config.max_position_embeddings);
    if texts > positions {
        return Err(Error::Unsupported(format!(
            "the tokenizer's model_max_length is {texts}; accepted are the text encoder's max_position_embeddings, {positions}, \
             and less"
        )));
    }
    let largest = tokenizer.bos.max(tokenizer.eos).max(tokenizer.pad);
    if (largest as usize) < config.vocab_size {
        return Ok(());
    }
    Err(Error::Unsupported(format!(
        "the tokenizer has token {largest}, the text encoder a vocabulary of {}: they do not belong together",
        config.vocab_size
    )))
}

/// The autoencoder, the channels of its latents, and how many pixels one of them is wide.
fn vae<B: Backend>(
    backend: &B,
    files: &ModelFiles,
    cache: &LayerCache<B>,
    progress: &Progress,
) -> Result<(Autoencoder<B>, usize, usize)> {
    let loader = Loader::new(backend, files.vae.weights.clone(), cache).with_progress(progress);
    let (model, scale, channels) = match &files.vae.config {
        VaeConfig::Kl(config) => {
            let moments = match (&config.latents_mean, &config.latents_std) {
                (Some(mean), Some(std)) if files.kind == ModelKind::Sdxl => Some((mean.clone(), std.clone())),
                _ => None,
            };
            let model = Model::Kl(Box::new(AutoencoderKL::load(&loader, config)?));
            (model, LatentScale { factor: config.scaling_factor, moments }, config.latent_channels)
        }
        VaeConfig::Tiny(config) => {
            let scale = LatentScale { factor: config.scaling_factor, moments: None };
            (Model::Tiny(AutoencoderTiny::load(&loader, config)?), scale, config.latent_channels)
        }
    };
    if let Some((mean, std)) = &scale.moments
        && [mean.len(), std.len()] != [channels; 2]
    {
        return Err(Error::Unsupported(format!(
            "{}: latents_mean and latents_std have {} and {} values; accepted is one for each of {channels} channels",
            files.vae.weights.file(),
            mean.len(),
            std.len()
        )));
    }
    Ok((
        Autoencoder { model, scale, part: Part::new("the VAE", &files.vae.weights) },
        channels,
        files.vae.config.factor(),
    ))
}
