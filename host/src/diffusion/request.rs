//! What is asked of a mode, and what comes back.

use std::sync::Arc;

use image::{DynamicImage, RgbImage};
use reverie_memory::Kept;
use reverie_models::noise::Blend;

use crate::pictures::pillow;

/// What a picture shall be. None, and a size of 0, take the mode's value.
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub mode: String,
    pub prompt: String,
    pub negative_prompt: Option<String>,
    pub prompt_2: Option<String>,
    pub negative_prompt_2: Option<String>,
    pub width: u32,
    pub height: u32,
    pub num_inference_steps: Option<u32>,
    pub guidance_scale: Option<f64>,
    pub guidance_rescale: f64,
    pub eta: f64,
    pub seed: u64,
    pub blends: Vec<Blend>,
    pub scheduler: Option<String>,
    pub schedule_type: Option<String>,
    pub clip_skip: Option<u32>,
    pub strength: f64,
    pub loras: Vec<(String, f64)>,
    /// Whether adapters that lose parts are refused.
    pub strict: bool,
    pub image: Option<Arc<Kept<DynamicImage>>>,
    pub mask: Option<Arc<Kept<DynamicImage>>>,
}

/// A picture and what it was made with.
pub struct Generated {
    pub picture: Kept<RgbImage>,
    pub mode: String,
    pub model: String,
    pub scheduler: &'static str,
    pub num_inference_steps: u32,
    pub guidance_scale: f64,
    pub negative_prompt: Option<String>,
    pub loras: Vec<(String, f64)>,
    /// What has no effect, or was done in another way than asked.
    pub warnings: Vec<String>,
    pub timings: Timings,
}

/// Milliseconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Timings {
    pub load: f64,
    pub encode: f64,
    pub denoise: f64,
    pub decode: f64,
}

/// Bytes of pictures that a request takes beside those it brings: what is made and what that is framed in, and what the model is
/// given of each one.
pub(super) fn bytes((width, height): (u32, u32), request: &Request) -> usize {
    let given = usize::from(request.image.is_some()) + usize::from(request.mask.is_some());
    let rgb = 3 * width as usize * height as usize;
    rgb * (2 + 2 * given)
}

/// The same while the pictures that it brings are resized.
pub(super) fn bytes_to_resize((width, height): (u32, u32), request: &Request) -> usize {
    let given = request.image.iter().chain(&request.mask);
    given.map(|picture| pillow::bytes_to_resize(picture, width, height)).max().unwrap_or(0)
}
