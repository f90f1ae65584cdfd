//! From named tensors to layers that a device can run.

mod progress;

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use parking_lot::{Mutex, MutexGuard};
use reverie_kernels::{Activation, Backend, Conv2dDesc};

pub use progress::{Progress, Tell};

use crate::{
    error::Result,
    lora::{AdapterKey, ComponentAdapters},
    weights::{LayerWeight, Weights},
};

/// Layers that are prepared, by name and by what LoRA adds to them. A model that is loaded again, with other adapters,
/// prepares only the layers which they touch.
///
/// Layers as the checkpoint has them stay for as long as the cache; those with adapters go with the last model that uses
/// them. One cache serves all components of a model, and all loads of the same [`Weights`] or their clones: what is opened
/// again counts as another model.
pub struct LayerCache<B: Backend> {
    layers: Mutex<HashMap<Key, Layer<B>>>,
}

/// What tells layers apart.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    weights: u64,
    name: String,
    adapters: AdapterKey,
    /// The bits of the factors.
    factors: [u32; 2],
}

enum Layer<B: Backend> {
    Conv2d(Kept<B::Conv2d>),
    Linear(Kept<B::Linear>),
    Vector(B::Tensor),
    Embedding(Arc<B::Embedding>),
}

/// A layer, for as long as it is worth its memory.
enum Kept<T> {
    Always(Arc<T>),
    WhileUsed(Weak<T>),
}

impl<T> Kept<T> {
    fn new(layer: &Arc<T>, adapted: bool) -> Self {
        if adapted { Self::WhileUsed(Arc::downgrade(layer)) } else { Self::Always(layer.clone()) }
    }

    fn get(&self) -> Option<Arc<T>> {
        match self {
            Self::Always(layer) => Some(layer.clone()),
            Self::WhileUsed(layer) => layer.upgrade(),
        }
    }

    fn is_used(&self) -> bool {
        match self {
            Self::Always(_) => true,
            Self::WhileUsed(layer) => layer.strong_count() > 0,
        }
    }
}

impl<B: Backend> Default for LayerCache<B> {
    fn default() -> Self {
        Self { layers: Mutex::default() }
    }
}

impl<B: Backend> LayerCache<B> {
    /// How many layers it holds: weights of linear layers and convolutions, weights and biases of
    /// normalisations, and tables.
    pub fn len(&self) -> usize {
        self.forget_unused();
        self.lock().len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops what is left of layers that no model uses any more.
    fn forget_unused(&self) {
        self.lock().retain(|_, layer| match layer {
            Layer::Conv2d(layer) => layer.is_used(),
            Layer::Linear(layer) => layer.is_used(),
            Layer::Vector(_) | Layer::Embedding(_) => true,
        });
    }

    /// A thread that panicked leaves the map whole: it is changed by single insertions.
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Layer<B>>> {
        self.layers.lock()
    }
}

/// Prepares the layers of one component of a model.
pub struct Loader<'a, B: Backend> {
    /// The device.
    pub backend: &'a B,
    /// The tensors, as far as [`Loader::sub`] has narrowed them.
    pub weights: Weights,
    cache: &'a LayerCache<B>,
    adapters: Option<&'a ComponentAdapters>,
    progress: Option<&'a Progress<'a>>,
    /// Of weights and of biases.
    factors: [f32; 2],
}

impl<'a, B: Backend> Loader<'a, B> {
    /// A loader over all of `weights`.
    pub fn new(backend: &'a B, weights: Weights, cache: &'a LayerCache<B>) -> Self {
        Self { backend, weights, cache, adapters: None, progress: None, factors: [1.0; 2] }
    }

    /// The same with what LoRAs add to the component, as [`crate::Adapters::component`] has it.
    pub fn with_adapters(self, adapters: Option<&'a ComponentAdapters>) -> Self {
        self.cache.forget_unused();
        Self { adapters, ..self }
    }

    /// The same, which tells how far it is.
    pub fn with_progress(self, progress: &'a Progress<'a>) -> Self {
        Self { progress: Some(progress), ..self }
    }

    /// The same with the weights and the biases of linear layers and convolutions multiplied by these.
    pub fn scaled(&self, weight: f32, bias: f32) -> Self {
        Self { weights: self.weights.clone(), factors: [weight, bias], ..*self }
    }

    /// The same for the tensors below `prefix`.
    pub fn sub(&self, prefix: &str) -> Self {
        Self { weights: self.weights.sub(prefix), ..*self }
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.weights.has(name)
    }

    /// `{name}.weight` of shape (out, in), and `{name}.bias` where there is one. A 1x1 convolution's (out, in, 1, 1) is
    /// taken too.
    ///
    /// # Errors
    /// [`crate::Error::Missing`], [`crate::Error::Shape`], [`crate::Error::Dtype`].
    pub fn linear(&self, name: &str, inputs: usize, outputs: usize) -> Result<Arc<B::Linear>> {
        let found = |layer: &Layer<B>| if let Layer::Linear(layer) = layer { layer.get() } else { None };
        self.cached(name, found, |adapted| {
            let shape: &[usize] = match self.weights.shape(&format!("{name}.weight"))?.len() {
                4 => &[outputs, inputs, 1, 1],
                _ => &[outputs, inputs],
            };
            let weight = self.weight(name, shape)?;
            let bias = self.bias(name, outputs)?;
            let layer = self.backend.prepare_linear(inputs, outputs, &weight, bias.as_deref())?;
            let layer = Arc::new(layer);
            Ok((layer.clone(), Layer::Linear(Kept::new(&layer, adapted))))
        })
    }

    /// `{name}.weight` of shape (out, in, k, k), and `{name}.bias` where there is one. A linear layer's (out, in) is taken
    /// for a 1x1 kernel.
    ///
    /// # Errors
    /// [`crate::Error::Missing`], [`crate::Error::Shape`], [`crate::Error::Dtype`].
    pub fn conv2d(&self, name: &str, desc: Conv2dDesc, act: Activation) -> Result<Arc<B::Conv2d>> {
        let found = |layer: &Layer<B>| if let Layer::Conv2d(layer) = layer { layer.get() } else { None };
        self.cached(name, found, |adapted| {
            let shape = [desc.out_channels, desc.in_channels, desc.kernel, desc.kernel];
            let axes = match self.weights.shape(&format!("{name}.weight"))?.len() {
                2 if desc.kernel == 1 => 2,
                _ => 4,
            };
            let weight = self.weight(name, &shape[..axes])?;
            let bias = self.bias(name, desc.out_channels)?;
            let layer = Arc::new(self.backend.prepare_conv2d(desc, &weight, bias.as_deref(), act)?);
            Ok((layer.clone(), Layer::Conv2d(Kept::new(&layer, adapted))))
        })
    }

    /// The tensor `name` of shape (len), as (1, 1, 1, len): the weight or bias of a normalisation.
    ///
    /// # Errors
    /// [`crate::Error::Missing`], [`crate::Error::Shape`], [`crate::Error::Dtype`].
    pub fn vector(&self, name: &str, len: usize) -> Result<B::Tensor> {
        let found =
            |layer: &Layer<B>| if let Layer::Vector(layer) = layer { Some(layer.clone()) } else { None };
        self.cached(name, found, |_| {
            let values = self.weights.tensor(name, &[len])?;
            let layer = self.backend.tensor(values, [1, 1, 1, len])?;
            Ok((layer.clone(), Layer::Vector(layer)))
        })
    }

    /// The table `name` of shape (count, features), whose rows the CPU leaves in the file.
    ///
    /// # Errors
    /// [`crate::Error::Missing`], [`crate::Error::Shape`], [`crate::Error::Dtype`].
    pub fn embedding(&self, name: &str, count: usize, features: usize) -> Result<Arc<B::Embedding>> {
        let found =
            |layer: &Layer<B>| if let Layer::Embedding(layer) = layer { Some(layer.clone()) } else { None };
        self.cached(name, found, |_| {
            self.weights.check(name, &[count, features])?;
            // What cannot be read is reported here, and what can't be any more when it is looked up.
            self.weights.check_values(name)?;
            let (weights, row) = (self.weights.clone(), name.to_owned());
            let rows = move |index| match weights.row(&row, index) {
                Ok(values) => Ok(values.unwrap_or_default()),
                Err(error) => Err(reverie_kernels::Error::Rows { reason: error.to_string() }),
            };
            let layer = Arc::new(self.backend.prepare_embedding(count, features, Arc::new(rows))?);
            Ok((layer.clone(), Layer::Embedding(layer)))
        })
    }

    /// The layer's weight, with what the adapters add.
    fn weight(&self, name: &str, shape: &[usize]) -> Result<LayerWeight> {
        let weight = self.weights.layer(&format!("{name}.weight"), shape)?;
        let full_name = self.weights.full_name(name);
        let adapters = self.adapters.filter(|adapters| !adapters.key(&full_name).is_empty());
        if adapters.is_none() && self.factors[0] == 1.0 {
            return Ok(weight);
        }
        let mut values = weight.into_values();
        if let Some(adapters) = adapters {
            adapters.apply(self.backend, &full_name, &mut values)?;
        }
        scale(&mut values, self.factors[0]);
        Ok(LayerWeight::Values(values))
    }

    fn bias(&self, name: &str, outputs: usize) -> Result<Option<Vec<f32>>> {
        let bias = format!("{name}.bias");
        if !self.weights.has(&bias) {
            return Ok(None);
        }
        let mut bias = self.weights.tensor(&bias, &[outputs])?;
        scale(&mut bias, self.factors[1]);
        Ok(Some(bias))
    }

    /// The layer in the cache, or what `prepare` makes, which is told whether adapters touch it.
    fn cached<T>(
        &self,
        name: &str,
        found: impl Fn(&Layer<B>) -> Option<T>,
        prepare: impl FnOnce(bool) -> Result<(T, Layer<B>)>,
    ) -> Result<T> {
        self.progress.map_or(Ok(()), |progress| progress.loaded(&self.weights, name))?;
        let name = self.weights.full_name(name);
        let adapters = self.adapters.map(|adapters| adapters.key(&name)).unwrap_or_default();
        let adapted = !adapters.is_empty();
        let key = Key { weights: self.weights.id(), name, adapters, factors: self.factors.map(f32::to_bits) };
        if let Some(layer) = self.cache.lock().get(&key).and_then(&found) {
            return Ok(layer);
        }
        // Not under the lock: it takes long, and other models load at the same time.
        let (layer, kept) = prepare(adapted)?;
        let mut layers = self.cache.lock();
        if let Some(layer) = layers.get(&key).and_then(&found) {
            return Ok(layer);
        }
        layers.insert(key, kept);
        Ok(layer)
    }
}

fn scale(values: &mut [f32], factor: f32) {
    if factor != 1.0 {
        values.iter_mut().for_each(|x| *x *= factor);
    }
}
