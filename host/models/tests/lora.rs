//! Adapters, as diffusers and peft apply them.

mod random_weights;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use random_weights::{Golden, relative_error, uniform};
use reverie_kernels::{Backend, cpu::CpuBackend};
use reverie_models::{
    Adapters, ComponentAdapters, Error, LayerCache, Loader, Lora, Target, UNet2DConditionConfig, Weights,
    unet::{Conditions, UNet2DConditionModel},
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::Value;

/// Sums in another order than PyTorch's, which multiplies by the adapters one after another; what is measured is below 2e-5.
const LIMIT: f32 = 3e-5;

/// Shape, scale and offset of tensors, by name.
type Recipes = BTreeMap<String, (Vec<usize>, f64, f64)>;

#[derive(serde::Deserialize)]
struct Fixture {
    cases: BTreeMap<String, Case>,
    /// By model and component.
    text_encoders: BTreeMap<String, BTreeMap<String, Recipes>>,
}

#[derive(serde::Deserialize)]
struct Case {
    model: String,
    files: Vec<File>,
}

#[derive(Clone, serde::Deserialize)]
struct File {
    tensors: Recipes,
    metadata: Value,
    strength: f32,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/diffusion/lora")
}

fn fixture() -> Fixture {
    serde_json::from_slice(&std::fs::read(folder().join("lora.json")).unwrap()).unwrap()
}

/// A file of these tensors, and the folder that holds it.
fn written(recipes: &Recipes, metadata: &Value) -> (tempfile::TempDir, PathBuf) {
    let bytes = |(name, (shape, scale, offset)): (&String, &(Vec<usize>, f64, f64))| {
        let values = uniform(name, shape.iter().product(), *scale as f32, *offset as f32);
        (name.clone(), shape.clone(), values.flat_map(f32::to_le_bytes).collect::<Vec<u8>>())
    };
    let data: Vec<_> = recipes.iter().map(bytes).collect();
    let views = data
        .iter()
        .map(|(name, shape, bytes)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    let header = metadata
        .as_object()
        .filter(|fields| !fields.is_empty())
        .map(|_| [("lora_adapter_metadata".to_owned(), metadata.to_string())].into());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lora.safetensors");
    std::fs::write(&path, safetensors::serialize(views, header).unwrap()).unwrap();
    (folder, path)
}

impl File {
    fn open(&self) -> Result<Lora, Error> {
        let (_folder, path) = written(&self.tensors, &self.metadata);
        Lora::open(&path)
    }

    fn with_strength(&self) -> (Arc<Lora>, f32) {
        (Arc::new(self.open().unwrap()), self.strength)
    }
}

/// A UNet with its golden inputs.
struct Model {
    golden: Golden<UNet2DConditionConfig>,
    backend: CpuBackend,
    cache: LayerCache<CpuBackend>,
}

impl Model {
    fn open(name: &str) -> Self {
        Self { golden: Golden::open("unet", name), backend: CpuBackend::new(2), cache: LayerCache::default() }
    }

    fn load(&self, adapters: Option<&ComponentAdapters>) -> UNet2DConditionModel<CpuBackend> {
        let loader = Loader::new(&self.backend, self.golden.weights.clone(), &self.cache);
        UNet2DConditionModel::load(&loader.with_adapters(adapters), &self.golden.config).unwrap()
    }

    fn run(&self, unet: &UNet2DConditionModel<CpuBackend>) -> Vec<f32> {
        let golden = &self.golden;
        let text_embeds = golden.has("text_embeds").then(|| golden.tensor(&self.backend, "text_embeds"));
        let conditions = Conditions {
            timestep_cond: None,
            text_embeds: text_embeds.as_ref(),
            time_ids: golden.has("time_ids").then(|| golden.values("time_ids")),
        };
        let (sample, prompt) =
            (golden.tensor(&self.backend, "sample"), golden.tensor(&self.backend, "encoder_hidden_states"));
        let out =
            unet.forward(&self.backend, &sample, golden.values("timesteps"), &prompt, &conditions).unwrap();
        self.backend.to_vec(&out).unwrap()
    }
}

fn values(view: &TensorView) -> Vec<f32> {
    view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn check(name: &str, actual: &[f32], expected: &[f32]) {
    let error = relative_error(actual, expected);
    println!("{name:72} relative error {error:.1e}");
    assert!(error < LIMIT, "{name}: relative error {error}");
}

#[test]
fn adapted_models_match_diffusers() {
    let Fixture { cases, text_encoders } = fixture();
    let file = std::fs::read(folder().join("lora.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&file).unwrap();
    for (name, case) in &cases {
        let model = Model::open(&case.model);
        let encoders: Vec<(Target, Weights)> = [Target::TextEncoder, Target::TextEncoder2]
            .into_iter()
            .filter_map(|target| {
                let recipes = text_encoders[&case.model].get(target.name())?;
                let (_folder, path) = written(recipes, &Value::Null);
                Some((target, Weights::open(&[path]).unwrap()))
            })
            .collect();
        let mut components = vec![(Target::Unet, &model.golden.weights)];
        components.extend(encoders.iter().map(|(target, weights)| (*target, weights)));
        let loras: Vec<_> = case.files.iter().map(File::with_strength).collect();
        let adapters = Adapters::new(&components, &loras).unwrap();
        assert_eq!(adapters.unmatched(), [""; 0], "{name}");

        let out = model.run(&model.load(adapters.component(Target::Unet)));
        check(name, &out, &values(&expected.tensor(&format!("{name}.unet")).unwrap()));
        for (target, weights) in &encoders {
            let loader = Loader::new(&model.backend, weights.clone(), &model.cache);
            let loader = loader.with_adapters(adapters.component(*target));
            let prefix = format!("{name}.{}.", target.name());
            for (key, view) in expected.tensors() {
                let Some(layer) = key.strip_prefix(&prefix) else { continue };
                let shape = weights.shape(&format!("{layer}.weight")).unwrap();
                let (outputs, inputs) = (shape[0], shape[1]);
                let probe = uniform(layer, inputs, 1.0, 0.0).collect();
                let probe = model.backend.tensor(probe, [1, 1, 1, inputs]).unwrap();
                let layer = loader.linear(layer, inputs, outputs).unwrap();
                let out = model.backend.linear(&probe, &layer).unwrap();
                check(&key, &model.backend.to_vec(&out).unwrap(), &values(&view));
            }
        }
    }
}

/// The attention of the second level, changed by `kohya` and `peft`; convolutions are changed by `kohya` only.
const ATTENTION: &str = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q";

#[test]
fn layers_are_shared_unless_adapters_touch_them() {
    let cases = fixture().cases;
    let model = Model::open("sd15");
    let loader = || Loader::new(&model.backend, model.golden.weights.clone(), &model.cache);
    let layer = |adapters: Option<&ComponentAdapters>| {
        loader().with_adapters(adapters).linear(ATTENTION, 64, 64).unwrap()
    };
    let adapters =
        |files: &[(Arc<Lora>, f32)]| Adapters::new(&[(Target::Unet, &model.golden.weights)], files).unwrap();

    // Opened twice, a file is one and the same.
    let file = &cases["peft"].files[0];
    let (_folder, path) = written(&file.tensors, &file.metadata);
    let open = |strength| (Arc::new(Lora::open(&path).unwrap()), strength);
    let (half, again, whole) = (adapters(&[open(0.5)]), adapters(&[open(0.5)]), adapters(&[open(1.0)]));
    let none = adapters(&[open(0.0)]);

    let base = layer(None);
    assert!(Arc::ptr_eq(&base, &layer(none.component(Target::Unet))));
    let first = layer(half.component(Target::Unet));
    assert!(!Arc::ptr_eq(&base, &first));
    assert!(Arc::ptr_eq(&first, &layer(again.component(Target::Unet))));
    assert!(!Arc::ptr_eq(&first, &layer(whole.component(Target::Unet))));
    // A second of the same adapters adds up.
    let twice = adapters(&[open(0.5), open(0.5)]);
    assert!(!Arc::ptr_eq(&first, &layer(twice.component(Target::Unet))));

    // The whole model: what is not touched is not prepared again, what was adapted goes with its users.
    let unet = model.load(None);
    let count = model.cache.len();
    let expected = model.run(&unet);
    let adapted = model.load(half.component(Target::Unet));
    assert_ne!(model.run(&adapted), expected);
    let touched = file.tensors.keys().filter(|name| name.ends_with("lora_A.weight")).count();
    // One of them is `first`, which has been there before.
    assert_eq!(model.cache.len(), count + touched - 1);
    assert_eq!(model.run(&unet), expected);
    drop((adapted, first));
    assert_eq!(model.cache.len(), count - 1);
    assert_eq!(model.run(&model.load(None)), expected);
}

/// Names are unique within a component only.
#[test]
fn one_cache_serves_several_components() {
    let backend = CpuBackend::new(1);
    let cache = LayerCache::default();
    let norm = |offset: f64| {
        let (_folder, path) =
            written(&[("norm.bias".to_owned(), (vec![2], 0.0, offset))].into(), &Value::Null);
        let loader = Loader::new(&backend, Weights::open(&[path]).unwrap(), &cache);
        backend.to_vec(&loader.vector("norm.bias", 2).unwrap()).unwrap()
    };
    assert_eq!((norm(1.0), norm(2.0)), (vec![1.0; 2], vec![2.0; 2]));
    assert_eq!(cache.len(), 2);
}

#[test]
fn what_does_not_fit_is_reported() {
    let unet = Golden::<UNet2DConditionConfig>::open("unet", "sd15").weights;
    let pair = |layer: &str, down: &[usize], up: &[usize]| -> Recipes {
        [("down", down), ("up", up)]
            .map(|(part, shape)| {
                (format!("lora_unet_{layer}.lora_{part}.weight"), (shape.to_vec(), 1.0, 0.0))
            })
            .into()
    };
    let open =
        |tensors: &Recipes| File { tensors: tensors.clone(), metadata: Value::Null, strength: 1.0 }.open();
    let adapters = |tensors: &Recipes, strength| {
        Adapters::new(&[(Target::Unet, &unet)], &[(Arc::new(open(tensors).unwrap()), strength)])
    };
    let layer = "down_blocks_1_resnets_0_conv2";
    let fitting = pair(layer, &[2, 64, 3, 3], &[64, 2, 1, 1]);
    assert!(adapters(&fitting, 1.0).unwrap().unmatched().is_empty());

    // Layers that the model lacks, components that are not there, and tensors that are no adapters.
    let mut others = fitting.clone();
    others.extend(pair("down_blocks_9_resnets_0_conv2", &[2, 64, 3, 3], &[64, 2, 1, 1]));
    for name in ["lora_te_x.lora_down.weight", "lora_te_x.lora_up.weight", "bundle_emb.x"] {
        others.insert(name.to_owned(), (vec![2, 2], 1.0, 0.0));
    }
    let unmatched = [
        "bundle_emb.x",
        "lora_te_x.lora_down.weight",
        "lora_unet_down_blocks_9_resnets_0_conv2.lora_down.weight",
    ];
    let mut found = adapters(&others, 1.0).unwrap().unmatched().to_vec();
    found.sort();
    assert_eq!(found, unmatched);

    for (down, up, part) in [
        ([2, 63, 3, 3], [64, 2, 1, 1], "lora_down"),
        ([2, 64, 1, 1], [64, 2, 1, 1], "lora_down"),
        ([2, 64, 3, 3], [65, 2, 1, 1], "lora_up"),
        ([2, 64, 3, 3], [64, 3, 1, 1], "lora_up"),
    ] {
        let message = adapters(&pair(layer, &down, &up), 1.0).err().unwrap().to_string();
        assert!(message.contains(&format!("'lora_unet_{layer}.{part}.weight' has the shape")), "{message}");
    }
    let message = adapters(&fitting, f32::NAN).err().unwrap().to_string();
    assert!(message.contains("strength is NaN"), "{message}");

    let refused = |change: &dyn Fn(&mut Recipes)| {
        let mut tensors = fitting.clone();
        change(&mut tensors);
        open(&tensors).err().unwrap().to_string()
    };
    let message =
        refused(&|tensors| _ = tensors.insert(format!("lora_unet_{layer}.dora_scale"), (vec![1], 1.0, 0.0)));
    assert!(message.contains(&format!("'lora_unet_{layer}.dora_scale' is of another kind")), "{message}");
    let message = refused(&|tensors| _ = tensors.remove(&format!("lora_unet_{layer}.lora_up.weight")));
    assert!(message.contains(&format!("'{layer}' has no lora_up")), "{message}");
    let message = refused(&|tensors| tensors.clear());
    assert!(message.contains("has no LoRA"), "{message}");
    let rank_0 = pair(layer, &[0, 64, 3, 3], &[64, 0, 1, 1]);
    assert!(open(&rank_0).err().unwrap().to_string().contains("rank 0"));
}
