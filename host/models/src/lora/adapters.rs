//! Adapters and the layers of a model that they are for.

use std::{collections::HashMap, sync::Arc};

use reverie_kernels::Backend;

use super::{Lora, LoraLayer, Target};
use crate::{
    checkpoint::{ModelFiles, ldm_unet::LdmUnet},
    config::{LAYERS, LEVELS},
    error::{Error, Result},
    weights::Weights,
};

/// What several LoRAs together add to a model.
#[derive(Default)]
pub struct Adapters {
    components: HashMap<Target, ComponentAdapters>,
    unmatched: Vec<String>,
    warnings: Vec<String>,
}

/// What they add to one component; see [`crate::Loader::with_adapters`].
#[derive(Default)]
pub struct ComponentAdapters {
    /// By the layer's full name.
    layers: HashMap<String, Vec<Delta>>,
}

/// Which adapters change a layer, and how strongly: layers with equal ones are equal.
pub(crate) type AdapterKey = Vec<(Arc<str>, u32)>;

/// What one LoRA adds to one layer.
struct Delta {
    lora: Arc<Lora>,
    /// In `lora.layers`.
    index: usize,
    strength: f32,
}

impl Adapters {
    /// Finds the layers of `files` that each of `loras` is for. Its strength multiplies what it adds: 1 is what it was
    /// trained for, 0 leaves it out, and below 0 it is taken away.
    ///
    /// # Errors
    /// [`Error::Shape`] for tensors that do not fit their layer; [`Error::Invalid`] for a strength that is no number.
    pub fn for_model(files: &ModelFiles, loras: &[(Arc<Lora>, f32)]) -> Result<Self> {
        let mut components =
            vec![(Target::Unet, &files.unet.weights), (Target::TextEncoder, &files.text_encoder.weights)];
        components.extend(files.text_encoder_2.iter().map(|it| (Target::TextEncoder2, &it.weights)));
        Self::new(&components, loras)
    }

    /// The same for single components.
    ///
    /// # Errors
    /// Those of [`Adapters::for_model`].
    pub fn new(components: &[(Target, &Weights)], loras: &[(Arc<Lora>, f32)]) -> Result<Self> {
        let mut adapters = Self::default();
        if loras.is_empty() {
            return Ok(adapters);
        }
        let names: HashMap<Target, Names> =
            components.iter().map(|&(target, weights)| (target, Names::new(target, weights))).collect();
        for (lora, strength) in loras {
            if !strength.is_finite() {
                return Err(Error::Invalid(format!(
                    "{}: its strength is {strength}; accepted are finite numbers",
                    lora.weights.file()
                )));
            }
            let known = adapters.unmatched.len();
            adapters.unmatched.extend(lora.others.iter().cloned());
            let mut matched = 0;
            for (index, layer) in lora.layers.iter().enumerate() {
                let found =
                    names.get(&layer.target).and_then(|names| Some((names.find(&layer.module)?, names)));
                let Some((name, Names { weights, .. })) = found else {
                    adapters.unmatched.push(layer.down.clone());
                    continue;
                };
                matched += 1;
                layer.check(&lora.weights, weights.shape(&format!("{name}.weight"))?)?;
                if *strength != 0.0 {
                    let delta = Delta { lora: lora.clone(), index, strength: *strength };
                    let component = adapters.components.entry(layer.target).or_default();
                    component.layers.entry(weights.full_name(name)).or_default().push(delta);
                }
            }
            adapters.warnings.extend(lost(lora, matched, &adapters.unmatched[known..]));
        }
        Ok(adapters)
    }

    /// What is added to one component; none where nothing is.
    pub fn component(&self, target: Target) -> Option<&ComponentAdapters> {
        self.components.get(&target)
    }

    /// For each file with parts that the model has no layer for, a sentence that says so.
    pub fn warnings(&self) -> impl Iterator<Item = String> + '_ {
        self.warnings.iter().cloned()
    }

    /// The tensors for which the model has no layer (of each such layer only its `lora_down`). They have no effect: they are
    /// of another family of models, or of a part that is not used.
    pub fn unmatched(&self) -> &[String] {
        &self.unmatched
    }
}

/// What is to be said of a file of which `matched` layers are the model's and `unmatched` are not.
fn lost(lora: &Lora, matched: usize, unmatched: &[String]) -> Option<String> {
    let first = unmatched.first()?;
    let (file, count) = (lora.weights.file(), unmatched.len());
    Some(match matched {
        0 => format!(
            "{file}: none of its {count} parts fits a layer of the model, so it has no effect ('{first}')"
        ),
        _ => format!("{file}: {count} of its parts fit no layer of the model and have no effect ('{first}')"),
    })
}

impl ComponentAdapters {
    /// What changes the layer `name`; nothing for most.
    pub(crate) fn key(&self, name: &str) -> AdapterKey {
        let deltas = self.layers.get(name).map(Vec::as_slice).unwrap_or_default();
        deltas.iter().map(|delta| (delta.lora.identity.clone(), delta.strength.to_bits())).collect()
    }

    /// Adds to the weight of the layer `name`, which is in PyTorch's order.
    ///
    /// # Errors
    /// [`Error::Dtype`], and the backend's.
    pub(crate) fn apply<B: Backend>(&self, backend: &B, name: &str, weight: &mut [f32]) -> Result<()> {
        for delta in self.layers.get(name).into_iter().flatten() {
            let layer = &delta.lora.layers[delta.index];
            let added = layer.product(backend, &delta.lora.weights, delta.strength * layer.scale)?;
            if added.len() != weight.len() {
                // The layer was loaded with another shape than the checkpoint's, which is reported there.
                return Err(delta.lora.weights.misshapen(&layer.up, &[weight.len()]));
            }
            weight.iter_mut().zip(added).for_each(|(weight, added)| *weight += added);
        }
        Ok(())
    }
}

impl LoraLayer {
    /// Whether `up · down` has the shape of the layer's weight.
    fn check(&self, lora: &Weights, base: &[usize]) -> Result<()> {
        let rank = self.rank;
        let expect = |name: &String, expected: &[usize]| {
            let actual = lora.shape(name)?;
            // Trailing ones make no difference: a linear layer is a 1x1 convolution.
            let trimmed = |shape: &[usize]| {
                let ones =
                    shape.iter().rev().take_while(|&&side| side == 1).count().min(shape.len().max(2) - 2);
                shape[..shape.len() - ones].to_vec()
            };
            if trimmed(actual) == trimmed(expected) { Ok(()) } else { Err(lora.misshapen(name, expected)) }
        };
        // A linear or a convolutional layer's: that there are two axes at least, the search for names has seen to.
        let (outputs, inputs, kernel) = (base[0], base[1], &base[2..]);
        expect(&self.up, &[outputs, rank])?;
        match &self.mid {
            Some(mid) => {
                expect(&self.down, &[rank, inputs])?;
                expect(mid, &[&[rank, rank], kernel].concat())
            }
            None => expect(&self.down, &[&[rank, inputs], kernel].concat()),
        }
    }

    /// `factor * up · down`, in the order of the layer's weight.
    fn product<B: Backend>(&self, backend: &B, lora: &Weights, factor: f32) -> Result<Vec<f32>> {
        let rank = self.rank;
        let mut up = lora.values(&self.up)?;
        up.iter_mut().for_each(|value| *value *= factor);
        let mut down = lora.values(&self.down)?;
        if let Some(mid) = &self.mid {
            down = with_kernel(&down, &lora.values(mid)?, rank);
        }
        let (outputs, inputs) = (up.len() / rank, down.len() / rank);
        // The product as a linear layer's over the rows of `up`, since the backend has a fast one.
        let transposed: Vec<f32> = (0..inputs)
            .flat_map(|i| (0..rank).map(move |r| (r, i)))
            .map(|(r, i)| down[r * inputs + i])
            .collect();
        let layer = backend.prepare_linear(rank, inputs, &transposed, None)?;
        let product = backend.linear(&backend.tensor(up, [1, 1, outputs, rank])?, &layer)?;
        Ok(backend.to_vec(&product)?)
    }
}

/// `down`, (rank, inputs), through the kernels `mid`, (rank, rank, k, k): (rank, inputs, k, k).
fn with_kernel(down: &[f32], mid: &[f32], rank: usize) -> Vec<f32> {
    let (inputs, pixels) = (down.len() / rank, mid.len() / (rank * rank));
    let mut out = vec![0.0; rank * inputs * pixels];
    for (row, kernels) in out.chunks_exact_mut(inputs * pixels).zip(mid.chunks_exact(rank * pixels)) {
        for (down, kernel) in down.chunks_exact(inputs).zip(kernels.chunks_exact(pixels)) {
            for (out, value) in row.chunks_exact_mut(pixels).zip(down) {
                out.iter_mut().zip(kernel).for_each(|(out, kernel)| *out += value * kernel);
            }
        }
    }
    out
}

/// The layers of a component, by all names that LoRAs have for them.
struct Names<'a> {
    weights: &'a Weights,
    /// With underscores for dots, since kohya's names can't be told apart otherwise.
    modules: HashMap<String, String>,
}

impl<'a> Names<'a> {
    fn new(target: Target, weights: &'a Weights) -> Self {
        let mut modules = HashMap::new();
        let original = (target == Target::Unet).then(|| original_names(weights));
        for module in weights.names().filter_map(|name| name.strip_suffix(".weight")) {
            let axes = weights.shape(&format!("{module}.weight")).map_or(0, <[usize]>::len);
            // An embedding is a table and not a layer.
            if !matches!(axes, 2 | 4) || module.ends_with("_embedding") {
                continue;
            }
            let mut add = |name: &str| modules.insert(underscored(name), module.to_owned());
            add(module);
            match &original {
                Some(names) => names.to_ldm(module).for_each(|name| _ = add(&name)),
                None => text_encoder_names(module).iter().for_each(|name| _ = add(name)),
            }
        }
        Self { weights, modules }
    }

    fn find(&self, module: &str) -> Option<&str> {
        self.modules.get(&underscored(module)).map(String::as_str)
    }
}

/// The names that kohya's trainer has for SDXL's UNet.
fn original_names(unet: &Weights) -> LdmUnet {
    let count =
        |most: usize, name: &dyn Fn(usize) -> String| (0..most).take_while(|&i| unet.has(&name(i))).count();
    let levels = count(*LEVELS.end(), &|level| format!("down_blocks.{level}.resnets.0.conv1.weight"));
    let layers = count(*LAYERS.end(), &|layer| format!("down_blocks.0.resnets.{layer}.conv1.weight"));
    LdmUnet::new(levels, layers)
}

/// diffusers' old processors call the projections as in the UNet, and transformers since 5.6 leaves out `text_model`.
fn text_encoder_names(module: &str) -> Vec<String> {
    let old = ["q", "k", "v"]
        .iter()
        .fold(module.to_owned(), |name, it| name.replace(&format!(".{it}_proj"), &format!(".to_{it}")));
    let old = old.replace(".out_proj", ".to_out.0");
    let short = |name: &str| name.strip_prefix("text_model.").map(str::to_owned);
    [short(module), short(&old), Some(old)].into_iter().flatten().collect()
}

fn underscored(name: &str) -> String {
    name.replace('.', "_")
}
