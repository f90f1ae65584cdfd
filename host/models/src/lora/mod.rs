//! Low-rank adapters (Hu et al. 2021, "LoRA"): files in the namings of kohya's trainer, of diffusers and of peft, and what
//! they add to a model's layers.

mod adapters;
mod names;

use std::{collections::BTreeMap, path::Path, sync::Arc, time::UNIX_EPOCH};

use serde_json::{Map, Value};

pub(crate) use self::adapters::AdapterKey;
pub use self::adapters::{Adapters, ComponentAdapters};
use self::names::{Key, Part};
use crate::{
    error::{Error, Result},
    json,
    weights::Weights,
};

/// The components that adapters change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// `unet`.
    Unet,
    /// `text_encoder`.
    TextEncoder,
    /// `text_encoder_2`.
    TextEncoder2,
}

impl Target {
    /// diffusers' name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unet => "unet",
            Self::TextEncoder => "text_encoder",
            Self::TextEncoder2 => "text_encoder_2",
        }
    }
}

/// A file of adapters. Its tensors are read when a layer is prepared.
pub struct Lora {
    weights: Weights,
    /// The same for what is opened twice, so that layers with it are shared; another where the file has changed.
    identity: Arc<str>,
    layers: Vec<LoraLayer>,
    /// Tensors that belong to no layer.
    others: Vec<String>,
}

/// What a file adds to one layer: `alpha / rank * up · down`.
struct LoraLayer {
    target: Target,
    /// The layer's name as far as the file tells it: dots may be underscores.
    module: String,
    down: String,
    up: String,
    /// The kernel of a convolution whose `up` and `down` are 1x1 (LoCon's Tucker decomposition).
    mid: Option<String>,
    rank: usize,
    /// alpha / rank.
    scale: f32,
}

impl Lora {
    /// Maps a `.safetensors` file of adapters and sorts its tensors by layers.
    ///
    /// # Errors
    /// [`Error::File`]; [`Error::Unsupported`] for adapters that are not LoRA or LoCon.
    pub fn open(path: &Path) -> Result<Self> {
        let weights = Weights::open(&[path])?;
        weights.check_types()?;
        let (found, others) = sort(&weights)?;
        if found.is_empty() {
            return Err(Error::Unsupported(format!(
                "{}: has no LoRA (tensors as '….lora_down.weight' or '….lora_A.weight')",
                path.display()
            )));
        }
        let config = PeftConfig::new(&weights)?;
        let layer = |((target, module), tensors)| LoraLayer::new(&weights, &config, target, module, tensors);
        let layers = found.into_iter().map(layer).collect::<Result<_>>()?;
        Ok(Self { identity: identity(path)?, layers, others, weights })
    }
}

/// The names of a layer's tensors.
#[derive(Default)]
struct Tensors {
    down: Option<String>,
    up: Option<String>,
    mid: Option<String>,
    alpha: Option<String>,
}

type Layers = BTreeMap<(Target, String), Tensors>;

/// The file's tensors by layers, and those that belong to none.
fn sort(weights: &Weights) -> Result<(Layers, Vec<String>)> {
    let mut layers = Layers::new();
    let mut others = Vec::new();
    for name in weights.names() {
        let Some(Key { target, module, part }) = names::parse(name) else {
            others.push(name.to_owned());
            continue;
        };
        let layer = layers.entry((target, module)).or_default();
        let place = match part {
            Part::Down => &mut layer.down,
            Part::Up => &mut layer.up,
            Part::Mid => &mut layer.mid,
            Part::Alpha => &mut layer.alpha,
            Part::Other => {
                return Err(Error::Unsupported(format!(
                    "{}: '{name}' is of another kind of adapter; accepted are LoRA and LoCon (lora_down, lora_up, \
                     lora_mid and alpha; lora_A and lora_B)",
                    weights.file()
                )));
            }
        };
        *place = Some(name.to_owned());
    }
    Ok((layers, others))
}

impl LoraLayer {
    fn new(
        weights: &Weights,
        config: &PeftConfig,
        target: Target,
        module: String,
        tensors: Tensors,
    ) -> Result<Self> {
        let failed = |reason: String| Error::File { file: weights.file().to_owned(), reason };
        let incomplete = |part| failed(format!("the layer '{module}' has no {part}"));
        let down = tensors.down.ok_or_else(|| incomplete("lora_down (lora_A)"))?;
        let up = tensors.up.ok_or_else(|| incomplete("lora_up (lora_B)"))?;
        let rank = match weights.shape(&down)?.first() {
            Some(&rank) if rank > 0 => rank,
            _ => return Err(failed(format!("'{down}' has the rank 0"))),
        };
        let scale = match tensors.alpha {
            Some(name) => weights.scalar(&name)? / rank as f32,
            None => config.scale(target, &module, rank),
        };
        if !scale.is_finite() {
            return Err(failed(format!("the alpha of the layer '{module}' is too large")));
        }
        Ok(Self { target, module, down, up, mid: tensors.mid, rank, scale })
    }
}

/// Path, length and time of change.
fn identity(path: &Path) -> Result<Arc<str>> {
    let failed = |e: std::io::Error| Error::File { file: path.display().to_string(), reason: e.to_string() };
    let metadata = path.metadata().map_err(failed)?;
    let changed = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let path = path.canonicalize().map_err(failed)?;
    Ok(format!("{} {} {:?}", path.display(), metadata.len(), changed).into())
}

/// peft's configuration, which diffusers puts into the file's header since 0.34. Without it, and without alpha tensors,
/// alpha is the rank.
struct PeftConfig(Map<String, Value>);

impl PeftConfig {
    fn new(weights: &Weights) -> Result<Self> {
        let Some(text) = weights.metadata("lora_adapter_metadata") else { return Ok(Self(Map::new())) };
        let failed = |reason: &dyn std::fmt::Display| Error::File {
            file: weights.file().to_owned(),
            reason: format!("lora_adapter_metadata in its header: {reason}"),
        };
        if text.len() as u64 > json::CONFIG {
            return Err(failed(&format_args!("is longer than {} bytes", json::CONFIG)));
        }
        serde_json::from_str(text).map(Self).map_err(|e| failed(&e))
    }

    fn scale(&self, target: Target, module: &str, rank: usize) -> f32 {
        let field = |key: &str| self.0.get(&format!("{}.{key}", target.name())).or_else(|| self.0.get(key));
        let special = field("alpha_pattern").and_then(Value::as_object).and_then(|patterns| {
            let matching = |pattern: &str| {
                module.strip_suffix(pattern).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            };
            patterns.iter().find(|(pattern, _)| matching(pattern)).map(|(_, alpha)| alpha)
        });
        let rank = rank as f32;
        let alpha = special.or_else(|| field("lora_alpha")).and_then(Value::as_f64);
        // Kalajdzievski 2023, "A Rank Stabilization Scaling Factor".
        let divisor = if field("use_rslora") == Some(&Value::Bool(true)) { rank.sqrt() } else { rank };
        alpha.map_or(1.0, |alpha| alpha as f32 / divisor)
    }
}
