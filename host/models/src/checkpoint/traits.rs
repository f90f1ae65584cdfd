//! What a model's files tell of how it is used, before any of its weights is read.

use serde_json::Value;

use super::{ModelFiles, VaeConfig};
use crate::{config::UNet2DConditionConfig, error::Result, schedulers::SchedulerConfig};

/// Latents' sides where a configuration does not tell: those of Stable Diffusion 1.
const DEFAULT_LATENTS: usize = 64;

impl ModelFiles {
    /// The scheduler that the model comes with. One that is not supported has a near relative that is: requests can name
    /// another one still.
    ///
    /// # Errors
    /// Those of [`SchedulerConfig::from_json`].
    pub fn scheduler_config(&self) -> Result<SchedulerConfig> {
        let text = Value::Object(self.scheduler.clone()).to_string();
        SchedulerConfig::from_json(&text)
            .or_else(|_| SchedulerConfig::from_json_with_name(&text, "EulerDiscreteScheduler"))
    }

    /// Whether it was distilled for few steps and is told so by its scheduler: the Turbo models' timesteps begin at the last.
    pub fn is_turbo(&self) -> bool {
        self.scheduler.get("timestep_spacing").and_then(Value::as_str) == Some("trailing")
    }

    /// The side of the pictures that it was trained with, in pixels.
    pub fn default_size(&self) -> usize {
        default_latents(&self.unet.config) * self.vae.config.factor()
    }
}

/// The side of the latents that a UNet was trained at.
pub(crate) fn default_latents(unet: &UNet2DConditionConfig) -> usize {
    let side = unet.sample_size.as_ref().and_then(|size| size.as_slice().first().copied());
    side.unwrap_or(DEFAULT_LATENTS)
}

impl VaeConfig {
    /// How many pixels a latent is wide and high.
    pub fn factor(&self) -> usize {
        let blocks = match self {
            Self::Kl(config) => config.block_out_channels.len(),
            Self::Tiny(config) => config.decoder_block_out_channels.len(),
        };
        1 << blocks.saturating_sub(1)
    }
}
