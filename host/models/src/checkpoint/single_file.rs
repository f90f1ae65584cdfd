//! Single files with all of a model, under the names of the original implementations.

use std::path::Path;

use super::{
    Component, ModelFiles, ModelKind, VaeConfig, ldm_text, ldm_unet, ldm_vae,
    scheduler::{self, Training},
};
use crate::{
    config::{AutoencoderKLConfig, CLIPTextConfig, OneOrMany, UNet2DConditionConfig},
    error::{Error, Result},
    weights::Weights,
};

/// Prefixes of the components.
const UNET: &str = "model.diffusion_model";
const VAE: &str = "first_stage_model";

/// SD 2's text encoder has 24 layers, of which the last is not used.
const SD2_TEXT_LAYERS: usize = 23;

pub(super) fn open(path: &Path) -> Result<ModelFiles> {
    let weights = Weights::open(&[path])?;
    // Playground 2.5 and others whose noise is scaled in another way; their tensors are SDXL's.
    if let Some(mark) = ["edm_mean", "edm_vpred.sigma_max"].iter().find(|mark| weights.has(mark)) {
        return Err(Error::Unsupported(format!(
            "{}: has '{mark}', which is of models trained by EDM; accepted are Stable Diffusion 1, 2 and SDXL",
            weights.file()
        )));
    }
    let (kind, text_encoder, text_encoder_2) = text_encoders(&weights)?;
    let (unet_config, unet) = ldm_unet::convert(&weights.sub(UNET))?;
    let (vae_config, vae) = ldm_vae::convert(&weights.sub(VAE))?;

    let training = training(path, kind, &weights, &unet_config, &unet)?;
    let pixels = match kind {
        ModelKind::Sd1 => 512,
        ModelKind::Sd2 if training.v_prediction => 768,
        ModelKind::Sd2 => 512,
        ModelKind::Sdxl => 1024,
    };
    let vae_config = AutoencoderKLConfig {
        sample_size: OneOrMany::One(pixels),
        scaling_factor: if kind == ModelKind::Sdxl { 0.13025 } else { 0.18215 },
        ..vae_config
    };
    let unet_config = with_embeddings(unet_config, &unet, text_encoder_2.as_ref(), pixels / 8)?;
    Ok(ModelFiles {
        kind,
        pipeline_class: pipeline_class(kind, &unet_config).to_owned(),
        unet: Component { config: unet_config, weights: unet },
        vae: Component { config: VaeConfig::Kl(vae_config), weights: vae },
        text_encoder,
        text_encoder_2,
        scheduler: scheduler::config(&training),
        tokenizer: None,
        tokenizer_2: None,
        force_zeros_for_empty_prompt: kind == ModelKind::Sdxl,
        warnings: Vec::new(),
    })
}

/// An autoencoder by itself, or that of a whole model.
pub(super) fn vae(path: &Path) -> Result<Component<VaeConfig>> {
    let weights = Weights::open(&[path])?;
    let inside = weights.names().any(|name| name.starts_with(VAE));
    let (config, weights) = ldm_vae::convert(&if inside { weights.sub(VAE) } else { weights })?;
    Ok(Component { config: VaeConfig::Kl(config), weights })
}

type TextEncoder = Component<CLIPTextConfig>;

/// The family, which the text encoders tell, and these.
fn text_encoders(weights: &Weights) -> Result<(ModelKind, TextEncoder, Option<TextEncoder>)> {
    let has = |prefix: &str| weights.names().any(|name| name.starts_with(prefix));
    let component = |(config, weights)| Component { config, weights };
    let clip = |prefix: &str| ldm_text::clip(&weights.sub(prefix)).map(component);
    let open_clip = |prefix: &str, layers| ldm_text::open_clip(&weights.sub(prefix), layers).map(component);
    if has("conditioner.embedders.0.transformer.") {
        let first = clip("conditioner.embedders.0.transformer")?;
        let second = open_clip("conditioner.embedders.1.model", usize::MAX)?;
        return Ok((ModelKind::Sdxl, first, Some(second)));
    }
    if has("cond_stage_model.transformer.") {
        return Ok((ModelKind::Sd1, clip("cond_stage_model.transformer")?, None));
    }
    // SD-Turbo's file has the prefix of SDXL's, as SDXL's refiner has, which is no model by itself.
    let refiner = weights.has(&format!("{UNET}.label_emb.0.0.weight"));
    for prefix in ["cond_stage_model.model", "conditioner.embedders.0.model"] {
        if has(&format!("{prefix}.")) && !refiner {
            let mut encoder = open_clip(prefix, SD2_TEXT_LAYERS)?;
            encoder.weights =
                encoder.weights.renamed(|name| (name != "text_projection.weight").then(|| name.to_owned()));
            return Ok((ModelKind::Sd2, encoder, None));
        }
    }
    Err(Error::Unsupported(format!(
        "{}: is no checkpoint of Stable Diffusion 1, Stable Diffusion 2 or SDXL with its text encoders (tensors \
         cond_stage_model.* or conditioner.embedders.*)",
        weights.file()
    )))
}

/// The configuration with what the text encoders and the training tell.
fn with_embeddings(
    config: UNet2DConditionConfig,
    unet: &Weights,
    text_encoder_2: Option<&TextEncoder>,
    sample_size: usize,
) -> Result<UNet2DConditionConfig> {
    let config = UNet2DConditionConfig { sample_size: Some(OneOrMany::One(sample_size)), ..config };
    let Some(encoder) = text_encoder_2 else { return Ok(config) };
    let name = "add_embedding.linear_1.weight";
    let inputs = unet.side(name, 1, 2)?;
    let pooled = encoder.config.projection_dim;
    // Two sizes and an offset, of two numbers each.
    let sizes = inputs.checked_sub(pooled).filter(|it| it % 6 == 0).ok_or_else(|| {
        Error::Unsupported(format!(
            "{}: 'label_emb' takes {inputs} features; accepted are {pooled} of the text encoder and a multiple of 6",
            unet.file()
        ))
    })?;
    Ok(UNet2DConditionConfig {
        addition_embed_type: Some("text_time".to_owned()),
        addition_time_embed_dim: Some(sizes / 6),
        projection_class_embeddings_input_dim: Some(inputs),
        ..config
    })
}

fn pipeline_class(kind: ModelKind, unet: &UNet2DConditionConfig) -> &'static str {
    match (kind, unet.in_channels == super::INPAINTING_CHANNELS) {
        (ModelKind::Sdxl, true) => "StableDiffusionXLInpaintPipeline",
        (ModelKind::Sdxl, false) => "StableDiffusionXLPipeline",
        (_, true) => "StableDiffusionInpaintPipeline",
        _ if unet.time_cond_proj_dim.is_some() => "LatentConsistencyModelPipeline",
        _ => "StableDiffusionPipeline",
    }
}

/// The header's "modelspec" fields where there are some; else what else tells models apart.
fn training(
    path: &Path,
    kind: ModelKind,
    weights: &Weights,
    config: &UNet2DConditionConfig,
    unet: &Weights,
) -> Result<Training> {
    let title = weights.metadata("modelspec.title").unwrap_or_default();
    let name = path.file_name().map(|it| it.to_string_lossy()).unwrap_or_default();
    // Nothing in the tensors tells: those of a distilled model have the names and shapes of its teacher.
    let turbo = [title, &name].iter().any(|it| it.to_lowercase().contains("turbo"));
    let v_prediction = match weights.metadata("modelspec.prediction_type") {
        Some(prediction) => prediction.starts_with('v'),
        None if weights.has("v_pred") => true,
        None => kind == ModelKind::Sd2 && !turbo && config.in_channels == 4 && looks_like_v_prediction(unet)?,
    };
    Ok(Training {
        kind,
        v_prediction,
        zero_terminal_snr: weights.has("ztsnr"),
        turbo,
        lcm: config.time_cond_proj_dim.is_some(),
    })
}

/// SD 2's models for noise and for velocities differ in nothing but their values. This norm's bias spreads more in those for
/// velocities: ComfyUI observed it, and takes the same limit.
fn looks_like_v_prediction(unet: &Weights) -> Result<bool> {
    let name = "up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias";
    if !unet.has(name) {
        return Ok(false);
    }
    // As many as an attention has features.
    unet.side(name, 0, 1)?;
    let bias = unet.values(name)?;
    let count = bias.len() as f32;
    let mean = bias.iter().sum::<f32>() / count;
    let variance = bias.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / count;
    Ok(variance.sqrt() > 0.09)
}
