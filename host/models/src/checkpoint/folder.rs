//! diffusers' folders: `model_index.json`, and a folder for each component.

use std::path::{Path, PathBuf};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::{Component, ModelFiles, ModelKind, VaeConfig, pickled};
use crate::{
    config::{AutoencoderKLConfig, AutoencoderTinyConfig, Limited, OneOrMany, UNet2DConditionConfig},
    error::{Error, Result},
    json,
    schedulers::{is_unknown_key, parse_keys},
    weights::{Entry, Weights},
};

/// File names of a model's weights, without extension.
const DIFFUSERS: &str = "diffusion_pytorch_model";
const TRANSFORMERS: &str = "model";

/// The pipelines of diffusers that there are here, by the components that make them up.
const PIPELINES: [&str; 8] = [
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
    "LatentConsistencyModelPipeline",
    "LatentConsistencyModelImg2ImgPipeline",
];

pub(super) fn open(path: &Path) -> Result<ModelFiles> {
    let index: Map<String, Value> = json::read(&path.join("model_index.json"), json::CONFIG)?;
    let pipeline_class = string(&index, "_class_name").to_owned();
    if !PIPELINES.contains(&pipeline_class.as_str()) {
        return Err(Error::Unsupported(format!(
            "{}: _class_name is '{pipeline_class}'; accepted are {}",
            path.join("model_index.json").display(),
            PIPELINES.join(", ")
        )));
    }
    // A component that a model leaves out is [null, null].
    let has = |name: &str| index.get(name).is_some_and(|it| it.get(1).is_some_and(Value::is_string));
    for name in ["unet", "vae", "text_encoder", "scheduler"] {
        if !has(name) {
            return Err(Error::Unsupported(format!(
                "{}: {pipeline_class} without '{name}'; accepted are pipelines of Stable Diffusion 1, 2 and SDXL",
                path.join("model_index.json").display()
            )));
        }
    }
    let mut warnings = Vec::new();
    let mut unet = component(&path.join("unet"), DIFFUSERS)?;
    unknown_keys::<UNet2DConditionConfig>(&path.join("unet/config.json"), &mut warnings)?;
    let second = has("text_encoder_2").then(|| text_encoder(&path.join("text_encoder_2"))).transpose()?;
    let tokenizer = |name: &str| has(name).then(|| path.join(name));
    let kind = kind(path, &unet.config, second.is_some())?;
    let vae = vae(&path.join("vae"))?;
    let vae_config = path.join("vae/config.json");
    match &vae.config {
        VaeConfig::Kl(_) => unknown_keys::<AutoencoderKLConfig>(&vae_config, &mut warnings)?,
        VaeConfig::Tiny(_) => unknown_keys::<AutoencoderTinyConfig>(&vae_config, &mut warnings)?,
    }
    if kind != ModelKind::Sdxl && !pipeline_class.starts_with("LatentConsistencyModel") {
        correct_sample_size(&path.join("unet/config.json"), &mut unet.config)?;
    }
    Ok(ModelFiles {
        kind,
        pipeline_class,
        vae,
        text_encoder: text_encoder(&path.join("text_encoder"))?,
        text_encoder_2: second,
        scheduler: scheduler(&path.join("scheduler/scheduler_config.json"), &mut warnings)?,
        tokenizer: tokenizer("tokenizer"),
        tokenizer_2: tokenizer("tokenizer_2"),
        force_zeros_for_empty_prompt: kind == ModelKind::Sdxl
            && index.get("force_zeros_for_empty_prompt").is_none_or(|it| it == &Value::Bool(true)),
        unet,
        warnings,
    })
}

/// The fields of a scheduler's configuration; what no scheduler knows is added to `warnings`.
fn scheduler(path: &Path, warnings: &mut Vec<String>) -> Result<Map<String, Value>> {
    let failed = |reason: String| Error::File { file: path.display().to_string(), reason };
    let text = json::text(path, json::CONFIG)?;
    let fields = parse_keys(&text).map_err(|e| failed(e.to_string()))?;
    let unknown = fields.keys().filter(|key| is_unknown_key(key));
    warnings.extend(
        unknown.map(|key| format!("{}: '{key}' is of no scheduler and has no effect", path.display())),
    );
    Ok(fields)
}

/// Keys of a component's configuration that its class in diffusers does not know either are added to `warnings`.
fn unknown_keys<C: Default + Serialize>(path: &Path, warnings: &mut Vec<String>) -> Result<()> {
    /// What changes nothing: of training, of other embeddings, and what `AutoencoderTiny` saves of its encoder once more.
    const IDLE: [&str; 3] = ["dropout", "addition_embed_type_num_heads", "block_out_channels"];
    let fields: Map<String, Value> = json::read(path, json::CONFIG)?;
    let known = serde_json::to_value(C::default()).unwrap_or_default();
    let unknown = fields
        .keys()
        .filter(|key| !key.starts_with('_') && known.get(key).is_none() && !IDLE.contains(&key.as_str()));
    warnings.extend(unknown.map(|key| format!("{}: '{key}' is not known and has no effect", path.display())));
    Ok(())
}

/// Before diffusers 0.9 the files of Stable Diffusion 1 gave the UNet a `sample_size` of 32, and meant 64.
fn correct_sample_size(path: &Path, config: &mut UNet2DConditionConfig) -> Result<()> {
    let fields: Map<String, Value> = json::read(path, json::CONFIG)?;
    let mut version =
        string(&fields, "_diffusers_version").split('.').map_while(|part| part.parse::<u32>().ok());
    let (Some(major), Some(minor)) = (version.next(), version.next()) else { return Ok(()) };
    if let Some(OneOrMany::One(side)) = &mut config.sample_size
        && (major, minor) < (0, 9)
    {
        *side = (*side).max(64);
    }
    Ok(())
}

fn kind(path: &Path, unet: &UNet2DConditionConfig, second_text_encoder: bool) -> Result<ModelKind> {
    match (unet.addition_embed_type.as_deref(), second_text_encoder) {
        (Some("text_time"), true) => Ok(ModelKind::Sdxl),
        // All of the second generation, and none of the first, has linear projections.
        (None, false) if unet.use_linear_projection => Ok(ModelKind::Sd2),
        (None, false) => Ok(ModelKind::Sd1),
        (addition, _) => {
            let (count, accepted) =
                (if second_text_encoder { "two" } else { "one" }, "null with one, text_time with two");
            Err(Error::Unsupported(format!(
                "{}: the UNet's addition_embed_type is {addition:?} with {count} text encoder(s); accepted is {accepted}",
                path.display()
            )))
        }
    }
}

/// An autoencoder of either kind.
pub(super) fn vae(folder: &Path) -> Result<Component<VaeConfig>> {
    let path = folder.join("config.json");
    let fields: Map<String, Value> = json::read(&path, json::CONFIG)?;
    let file = path.display().to_string();
    let config = match string(&fields, "_class_name") {
        "AutoencoderKL" => VaeConfig::Kl(json::config(&file, fields)?),
        "AutoencoderTiny" => VaeConfig::Tiny(json::config(&file, fields)?),
        other => {
            return Err(Error::Unsupported(format!(
                "{}: _class_name is '{other}'; accepted are AutoencoderKL and AutoencoderTiny",
                path.display()
            )));
        }
    };
    Ok(Component { config, weights: weights(folder, DIFFUSERS)?.mapped(current_vae) })
}

/// The attention's names before diffusers 0.15 to those since then.
fn current_vae(name: &str, entry: &Entry) -> Option<(String, Entry)> {
    let renamed =
        [(".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0.")]
            .into_iter()
            .find(|(old, _)| name.contains(".attentions.") && name.contains(old))
            .map(|(old, new)| name.replace(old, new));
    Some((renamed.unwrap_or_else(|| name.to_owned()), entry.clone()))
}

fn text_encoder<C: Config>(folder: &Path) -> Result<Component<C>> {
    let Component { config, weights } = component(folder, TRANSFORMERS)?;
    Ok(Component { config, weights: super::ldm_text::with_text_model(&weights) })
}

/// A component's configuration.
trait Config: DeserializeOwned + Serialize + Default + Limited {}
impl<C: DeserializeOwned + Serialize + Default + Limited> Config for C {}

fn component<C: Config>(folder: &Path, base: &str) -> Result<Component<C>> {
    let config = folder.join("config.json");
    let fields = json::read(&config, json::CONFIG)?;
    Ok(Component {
        config: json::config(&config.display().to_string(), fields)?,
        weights: weights(folder, base)?,
    })
}

/// The weights in `folder`, as diffusers and transformers save them: whole or in shards; in full precision, or in half
/// precision where that is all there is.
fn weights(folder: &Path, base: &str) -> Result<Weights> {
    for variant in ["", "fp16", "bf16"] {
        let dotted = if variant.is_empty() { String::new() } else { format!(".{variant}") };
        let whole = folder.join(format!("{base}{dotted}.safetensors"));
        if whole.is_file() {
            return Weights::open(&[whole]);
        }
        for index in [
            format!("{base}.safetensors.index{dotted}.json"),
            // diffusers before 0.31.
            format!("{base}{dotted}.safetensors.index.json"),
        ] {
            let index = folder.join(index);
            if index.is_file() {
                return Weights::open(&shards(folder, &index)?);
            }
        }
    }
    for extension in ["bin", "fp16.bin", "bin.index.json"] {
        let whole = folder.join(if base == TRANSFORMERS { "pytorch_model" } else { base });
        let pickle = whole.with_extension(extension);
        if pickle.is_file() {
            return Err(pickled(&pickle));
        }
    }
    Err(Error::File {
        file: folder.display().to_string(),
        reason: format!(
            "has no {base}.safetensors, {base}.fp16.safetensors or {base}.safetensors.index.json"
        ),
    })
}

fn shards(folder: &Path, index: &Path) -> Result<Vec<PathBuf>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let Index { weight_map } = json::read(index, json::INDEX)?;
    let mut names: Vec<&String> = weight_map.values().collect();
    names.sort();
    names.dedup();
    let shard = |name: &String| {
        // A model reads nothing outside of its folder.
        if Path::new(name).file_name().is_none_or(|file| file != name.as_str()) {
            let reason = format!("names the shard '{name}'; accepted are names of files in the same folder");
            return Err(Error::File { file: index.display().to_string(), reason });
        }
        Ok(folder.join(name))
    };
    names.into_iter().map(shard).collect()
}

fn string<'a>(fields: &'a Map<String, Value>, key: &str) -> &'a str {
    fields.get(key).and_then(Value::as_str).unwrap_or_default()
}
