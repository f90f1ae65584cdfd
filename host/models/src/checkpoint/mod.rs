//! A model's files: a diffusers folder, or a single file with the tensor names of the original implementations. Both come
//! out as diffusers has them: components with a configuration and tensors under diffusers' names.

mod folder;
mod ldm_text;
pub(crate) mod ldm_unet;
mod ldm_vae;
mod scheduler;
mod single_file;
mod traits;

pub(crate) use traits::default_latents;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::{
    config::{AutoencoderKLConfig, AutoencoderTinyConfig, CLIPTextConfig, Limited, UNet2DConditionConfig},
    error::{Error, Result},
    weights::Weights,
};

/// A Stable Diffusion model on disk. Tensors are read when a layer is prepared.
#[derive(Clone)]
pub struct ModelFiles {
    /// The family.
    pub kind: ModelKind,
    /// diffusers' class, as `StableDiffusionPipeline`.
    pub pipeline_class: String,
    /// What predicts the noise.
    pub unet: Component<UNet2DConditionConfig>,
    /// Between pictures and latents.
    pub vae: Component<VaeConfig>,
    /// The text encoder; SDXL's first.
    pub text_encoder: Component<CLIPTextConfig>,
    /// SDXL's second.
    pub text_encoder_2: Option<Component<CLIPTextConfig>>,
    /// The fields of diffusers' `scheduler_config.json`, with its `_class_name`.
    pub scheduler: Map<String, Value>,
    /// The folder of the tokenizer, where the model has one: a single file has none, and uses CLIP's.
    pub tokenizer: Option<PathBuf>,
    /// The same for the second text encoder.
    pub tokenizer_2: Option<PathBuf>,
    /// Whether an empty negative prompt stands for zeros and not for an encoded empty text (SDXL).
    pub force_zeros_for_empty_prompt: bool,
    /// What the files say that has no effect, in sentences that name it.
    pub warnings: Vec<String>,
}

/// A part of a model.
#[derive(Clone)]
pub struct Component<C> {
    /// Its configuration; for a single file deduced from the tensors.
    pub config: C,
    /// Its tensors under diffusers' names.
    pub weights: Weights,
}

/// The families of Stable Diffusion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ModelKind {
    /// 1.1 to 1.5, and what is made of them.
    Sd1,
    /// 2.0, 2.1 and SD-Turbo.
    Sd2,
    /// SDXL and SDXL-Turbo.
    Sdxl,
}

/// The two kinds of autoencoder.
#[derive(Debug, Clone, PartialEq)]
pub enum VaeConfig {
    /// The model's own.
    Kl(AutoencoderKLConfig),
    /// TAESD.
    Tiny(AutoencoderTinyConfig),
}

impl ModelFiles {
    /// Opens a diffusers folder (the one with `model_index.json`) or a single `.safetensors` file.
    ///
    /// # Errors
    /// [`Error::File`] where something can't be read; [`Error::Unsupported`] for other models, and for pickled
    /// checkpoints, which could run code.
    pub fn open(path: &Path) -> Result<Self> {
        let files = if path.is_dir() {
            folder::open(path)?
        } else {
            accept_extension(path)?;
            single_file::open(path)?
        };
        check_channels(&files.unet)?;
        // Single files have no configurations but what their tensors tell.
        files.unet.config.check_limits(files.unet.weights.file())?;
        let encoders = [Some(&files.text_encoder), files.text_encoder_2.as_ref()].into_iter().flatten();
        let weights = encoders.map(|it| &it.weights).chain([&files.unet.weights, &files.vae.weights]);
        weights.into_iter().try_for_each(Weights::check_types)?;
        Ok(files)
    }

    /// Opens an autoencoder by itself, to be used in place of a model's own: a folder with `config.json`, or a file with
    /// the original names. A file does not tell its `scaling_factor`, which is that of Stable Diffusion 1 then: the model's
    /// own applies.
    ///
    /// # Errors
    /// Those of [`ModelFiles::open`].
    pub fn open_vae(path: &Path) -> Result<Component<VaeConfig>> {
        if path.is_dir() {
            return folder::vae(path);
        }
        accept_extension(path)?;
        single_file::vae(path)
    }

    /// The bytes that the weights of all parts take in memory: those of fp16 two, all others four each.
    pub fn resident_bytes(&self) -> u64 {
        let text_encoder_2 = self.text_encoder_2.iter().map(|encoder| encoder.weights.resident_bytes());
        let others = [&self.unet.weights, &self.vae.weights, &self.text_encoder.weights];
        others.iter().map(|weights| weights.resident_bytes()).chain(text_encoder_2).sum()
    }

    /// Whether the UNet takes a mask and a masked picture beside the latents.
    pub fn is_inpainting(&self) -> bool {
        self.unet.config.in_channels == INPAINTING_CHANNELS
    }

    /// Whether the UNet is a latent consistency model, which takes the guidance scale as an input.
    pub fn is_lcm(&self) -> bool {
        self.unet.config.time_cond_proj_dim.is_some()
    }
}

/// Latents, one mask and the latents of the masked picture.
const INPAINTING_CHANNELS: usize = 9;

fn check_channels(unet: &Component<UNet2DConditionConfig>) -> Result<()> {
    let UNet2DConditionConfig { in_channels, out_channels, .. } = unet.config;
    if in_channels == out_channels || in_channels == INPAINTING_CHANNELS {
        return Ok(());
    }
    Err(Error::Unsupported(format!(
        "{}: the UNet takes {in_channels} channels; accepted are {out_channels} (latents) and {INPAINTING_CHANNELS} \
         (inpainting)",
        unet.weights.file()
    )))
}

fn accept_extension(path: &Path) -> Result<()> {
    let extension = path.extension().map(|it| it.to_string_lossy().to_lowercase()).unwrap_or_default();
    match extension.as_str() {
        "safetensors" => Ok(()),
        "ckpt" | "pt" | "pth" | "bin" => Err(pickled(path)),
        _ => Err(Error::Unsupported(format!(
            "{}: is neither a diffusers folder nor a .safetensors file",
            path.display()
        ))),
    }
}

fn pickled(path: &Path) -> Error {
    Error::Unsupported(format!(
        "{}: is a Python pickle, which is not read because it can run code; convert it to .safetensors",
        path.display()
    ))
}
