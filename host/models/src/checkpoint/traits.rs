//! What a model's files tell of how it is used, before any of its weights is read.

use serde_json::Value;

use super::{ModelFiles, ModelKind, VaeConfig};
use crate::{config::UNet2DConditionConfig, error::Result, schedulers::SchedulerConfig};

/// Latents' sides where a configuration does not tell: those of Stable Diffusion 1.
const DEFAULT_LATENTS: usize = 64;

impl ModelFiles {
    /// The scheduler that the model comes with, as the pipeline that diffusers has for it reads it. One that is not built is
    /// not [`SchedulerConfig::usable`].
    ///
    /// # Errors
    /// Those of [`SchedulerConfig::of_model`].
    pub fn scheduler_config(&self) -> Result<SchedulerConfig> {
        self.scheduler_of(false)
    }

    /// The same where a request has a mask, for which diffusers has another pipeline.
    ///
    /// # Errors
    /// Those of [`ModelFiles::scheduler_config`].
    pub fn inpaint_scheduler_config(&self) -> Result<SchedulerConfig> {
        self.scheduler_of(true)
    }

    fn scheduler_of(&self, masked: bool) -> Result<SchedulerConfig> {
        let config = SchedulerConfig::of_model(&Value::Object(self.scheduler.clone()).to_string())?;
        let lcm = self.pipeline_class.starts_with("LatentConsistencyModel") && !masked;
        Ok(if self.kind == ModelKind::Sdxl || lcm { config } else { config.corrected(masked) })
    }

    /// Whether it was distilled for few steps, as the Turbo models: these predict noise, with timesteps that begin at the
    /// last. Models that predict velocities up to pure noise have such timesteps as well, and take as many steps as others.
    pub fn is_turbo(&self) -> bool {
        let text = |key: &str| self.scheduler.get(key).and_then(Value::as_str);
        let flag = |key: &str| self.scheduler.get(key).and_then(Value::as_bool).unwrap_or(false);
        let consistency = matches!(text("_class_name"), Some("LCMScheduler" | "TCDScheduler"));
        let trailing = text("timestep_spacing") == Some("trailing");
        let of_noise = text("prediction_type").is_none_or(|it| it == "epsilon");
        consistency || trailing && of_noise && !flag("rescale_betas_zero_snr")
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
