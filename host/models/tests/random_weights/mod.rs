//! Goldens of models whose weights follow from their names; `tests/oracles/diffusion/random_weights.py` is the same in
//! Python.

// Each test binary uses a part of this.
#![allow(dead_code)]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use reverie_kernels::{Backend, Shape, cpu::CpuBackend};
use reverie_models::Weights;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::de::DeserializeOwned;

/// Shape, scale and offset of a tensor.
type Recipe = (Vec<usize>, f64, f64);

/// The key that a change of a configuration concerns, and the change.
pub type Change<'a, C> = (&'a str, &'a dyn Fn(&mut C));

/// A case: the model, its inputs and what diffusers makes of them.
pub struct Golden<C> {
    pub config: C,
    pub weights: Weights,
    tensors: Tensors,
}

#[derive(serde::Deserialize)]
struct About<C> {
    config: C,
    tensors: BTreeMap<String, Recipe>,
}

impl<C: DeserializeOwned> Golden<C> {
    /// `concern` is a folder of `tests/fixtures/diffusion`, `name` a case in it.
    pub fn open(concern: &str, name: &str) -> Self {
        Self::open_scaled(concern, name, |_| 1.0)
    }

    /// With the values of each tensor multiplied by what `factor` says of its name: its goldens are not the model's any more.
    pub fn open_scaled(concern: &str, name: &str, factor: impl Fn(&str) -> f64) -> Self {
        let folder =
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/diffusion").join(concern);
        let about = std::fs::read(folder.join(format!("{name}.json"))).unwrap();
        let mut about: About<C> = serde_json::from_slice(&about).unwrap();
        for (name, (_, scale, offset)) in &mut about.tensors {
            let factor = factor(name);
            (*scale, *offset) = (*scale * factor, *offset * factor);
        }
        let tensors = Tensors::open(&folder.join(format!("{name}.safetensors")));
        Self { config: about.config, weights: generate(&about.tensors), tensors }
    }
}

impl<C> Golden<C> {
    pub fn has(&self, name: &str) -> bool {
        self.tensors.0.contains_key(name)
    }

    pub fn values(&self, name: &str) -> &[f32] {
        self.tensors.values(name)
    }

    pub fn tensor(&self, backend: &CpuBackend, name: &str) -> <CpuBackend as Backend>::Tensor {
        self.tensors.tensor(backend, name)
    }

    /// [`check`] against the golden `name`.
    pub fn check(&self, name: &str, actual: &[f32], limit: f32) {
        check(name, actual, self.values(name), limit);
    }
}

/// The f32 tensors of a file: shapes and values by name.
pub struct Tensors(BTreeMap<String, (Vec<usize>, Vec<f32>)>);

impl Tensors {
    pub fn open(path: &Path) -> Self {
        let file = std::fs::read(path).unwrap();
        let read = |(name, view): (&str, TensorView)| {
            let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            (name.to_owned(), (view.shape().to_vec(), values.collect()))
        };
        Self(SafeTensors::deserialize(&file).unwrap().iter().map(read).collect())
    }

    pub fn values(&self, name: &str) -> &[f32] {
        &self.0.get(name).unwrap_or_else(|| panic!("the fixture has no '{name}'")).1
    }

    /// The tensor in the backend's axes: images as they are, sequences as (N, 1, T, C), vectors as (N, 1, 1, C).
    pub fn tensor(&self, backend: &CpuBackend, name: &str) -> <CpuBackend as Backend>::Tensor {
        let (shape, values) = &self.0[name];
        let shape: Shape = match shape[..] {
            [n, c] => [n, 1, 1, c],
            [n, t, c] => [n, 1, t, c],
            [n, c, h, w] => [n, c, h, w],
            _ => panic!("'{name}' is {shape:?}"),
        };
        backend.tensor(values.clone(), shape).unwrap()
    }
}

/// Prints the error of `actual` and checks that it is below `limit`.
pub fn check(name: &str, actual: &[f32], expected: &[f32], limit: f32) {
    assert_eq!(actual.len(), expected.len(), "{name}");
    let error = relative_error(actual, expected);
    println!("{name:36} relative error {error:.1e}");
    assert!(error < limit, "{name}: relative error {error}");
}

/// The greatest error in parts of the greatest value; NaN counts as infinite.
pub fn relative_error(actual: &[f32], expected: &[f32]) -> f32 {
    let worst = |error: f32, (a, b): (&f32, &f32)| {
        let this = (a - b).abs();
        if this.is_nan() { f32::INFINITY } else { error.max(this) }
    };
    let greatest = expected.iter().fold(0f32, |greatest, x| greatest.max(x.abs()));
    actual.iter().zip(expected).fold(0.0, worst) / greatest
}

fn generate(recipes: &BTreeMap<String, Recipe>) -> Weights {
    let data: Vec<(String, Vec<usize>, Vec<u8>)> = recipes
        .iter()
        .map(|(name, (shape, scale, offset))| {
            let values = uniform(name, shape.iter().product(), *scale as f32, *offset as f32);
            (name.clone(), shape.clone(), values.flat_map(f32::to_le_bytes).collect())
        })
        .collect();
    let views = data
        .iter()
        .map(|(name, shape, bytes)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), safetensors::serialize(views, None).unwrap()).unwrap();
    // The open file outlives its name.
    Weights::open(&[file.path()]).unwrap()
}

/// Values in [offset - scale, offset + scale): SplitMix64 from the FNV-1a hash of the name on.
pub fn uniform(name: &str, count: usize, scale: f32, offset: f32) -> impl Iterator<Item = f32> {
    let hash = |value: u64, byte: u8| (value ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325, hash);
    (1..=count as u64).map(move |i| {
        let mut state = seed.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        state ^= state >> 31;
        ((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * scale + offset
    })
}
