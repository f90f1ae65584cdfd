//! Diffusion models: what turns a prompt and a seed into a picture, with diffusers' names and numbers.
//!
//! Everything is written once against [`reverie_kernels::Backend`]. A model is a file whose field names are the tensor
//! names of its checkpoint; [`Weights`] reads the checkpoint and [`Loader`] prepares its layers for a device.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod checkpoint;
pub mod clip;
mod config;
pub mod denoise;
mod error;
mod finite;
mod json;
mod loader;
pub mod lora;
pub mod noise;
pub mod pillow;
pub mod pipeline;
pub mod prompt;
pub mod random;
pub mod schedulers;
pub mod taesd;
mod tokenizer;
pub mod unet;
pub mod vae;
mod weights;

pub use checkpoint::{Component, ModelFiles, ModelKind, VaeConfig};
pub use config::{
    AutoencoderKLConfig, AutoencoderTinyConfig, CLIPTextConfig, CLIPVisionConfig, OneOrMany,
    UNet2DConditionConfig,
};
pub use error::{Error, Result};
pub use finite::is_picture_finite;
pub use loader::{LayerCache, Loader};
pub use lora::{Adapters, ComponentAdapters, Lora, Target};
pub use tokenizer::Tokenizer;
pub use weights::Weights;
