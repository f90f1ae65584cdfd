//! Pipelines of less usual model folders and requests against diffusers':
//! tests/oracles/diffusion/make_pipeline_case_goldens.py made the goldens.

use std::{collections::BTreeMap, fs, path::Path};

use pipeline_requests::{against_golden, json, pipelines, read, requests};
use reverie_kernels::cpu::CpuBackend;
use reverie_models::{
    Adapters, Error, LayerCache, ModelFiles, Weights, pipeline::Pipeline, schedulers::SchedulerConfig,
};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};

mod fixtures;
mod pipeline_requests;
mod random_weights;

/// A copy of one of the models with changes of its files.
fn changed(model: &str, changes: &Value) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_folder(&pipelines().join(model), copy.path());
    for (name, what) in changes.as_object().into_iter().flatten() {
        let path = copy.path().join(name);
        if let Some(tensor) = what.get("tensor") {
            let shape = tensor[1].as_array().unwrap().iter().map(|side| side.as_u64().unwrap() as usize);
            add_tensor(&path, tensor[0].as_str().unwrap(), shape.collect());
            continue;
        }
        let mut fields = what.get("replace").cloned().unwrap_or_else(|| json(&path));
        for (key, value) in what["set"].as_object().into_iter().flatten() {
            fields[key] = value.clone();
        }
        for key in what["remove"].as_array().into_iter().flatten() {
            fields.as_object_mut().unwrap().remove(key.as_str().unwrap());
        }
        fs::write(&path, fields.to_string()).unwrap();
    }
    copy
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let (path, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        match path.is_dir() {
            true => {
                fs::create_dir(&to).unwrap();
                copy_folder(&path, &to);
            }
            false => _ = fs::copy(&path, &to).unwrap(),
        }
    }
}

/// The values of `uniform()` of tests/oracles/diffusion/random_weights.py, in fp16 as the other tensors.
fn add_tensor(path: &Path, name: &str, shape: Vec<usize>) {
    let weights = Weights::open(&[path]).unwrap();
    let values = random_weights::uniform(name, shape.iter().product(), 1.0, 0.0).collect();
    let mut tensors = BTreeMap::from([(name.to_owned(), (shape, values))]);
    for name in weights.names() {
        let (shape, values) = (weights.shape(name).unwrap().to_vec(), weights.values(name).unwrap());
        tensors.insert(name.to_owned(), (shape, values));
    }
    let bytes = |values: &Vec<f32>| -> Vec<u8> {
        values.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect()
    };
    let data: Vec<_> = tensors.iter().map(|(name, (shape, values))| (name, shape, bytes(values))).collect();
    let view = |(name, shape, bytes): &'_ (&String, &Vec<usize>, Vec<u8>)| {
        ((*name).clone(), Dtype::F16, (*shape).clone(), bytes.clone())
    };
    let owned: Vec<_> = data.iter().map(view).collect();
    let views = owned
        .iter()
        .map(|(name, dtype, shape, bytes)| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    // The old file is mapped, and so is not written over.
    let new = path.with_extension("new");
    fs::write(&new, safetensors::serialize(views, None).unwrap()).unwrap();
    fs::rename(new, path).unwrap();
}

fn load(files: &ModelFiles) -> Pipeline<CpuBackend> {
    Pipeline::load(&CpuBackend::default(), files, &LayerCache::default(), &Adapters::default()).unwrap()
}

#[test]
fn pictures_are_those_of_diffusers() {
    let backend = CpuBackend::default();
    let cases = json(&fixtures::folder("pipeline_cases").join("cases.json"));
    let mut wrong = Vec::new();
    for asked in cases.as_array().unwrap() {
        let name = asked["name"].as_str().unwrap();
        let model = changed(asked["model"].as_str().unwrap(), &asked["changes"]);
        let files = ModelFiles::open(model.path()).unwrap();
        let pipeline = load(&files);
        assert_eq!(pipeline.default_size() as u64, asked["sample_size"].as_u64().unwrap() * 8, "{name}");
        let mut requests = read(asked);
        for request in &mut requests {
            // As a host has it: the model's own, or another in its place.
            let class = asked["scheduler"]["_class_name"].as_str();
            let own = pipeline.scheduler();
            let scheduler: SchedulerConfig = class.map_or(own.clone(), |class| own.with_name(class).unwrap());
            request.scheduler = Some(scheduler);
        }
        let goldens = "pipeline_cases/goldens.safetensors";
        let off = against_golden(&backend, &pipeline, &requests, name, goldens);
        if !(off.latents < 1e-3 && off.share <= 1e-3) {
            wrong.push(off);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    let error = |model: &str, changes: Value| {
        let folder = changed(model, &changes);
        let files = ModelFiles::open(folder.path());
        let loaded = files.and_then(|files| files.scheduler_config()?.usable());
        match loaded.unwrap_err() {
            Error::Unsupported(message) => message,
            other => panic!("{other:?}"),
        }
    };
    for class in ["StableDiffusionControlNetPipeline", "AnimateDiffPipeline", "FluxPipeline"] {
        let message = error("sd", json!({"model_index.json": {"set": {"_class_name": class}}}));
        assert!(message.contains(class) && message.contains("StableDiffusionXLPipeline"), "{message}");
    }
    let scheduler = json!({"_class_name": "SASolverScheduler"});
    let message = error("sd", json!({"scheduler/scheduler_config.json": {"replace": scheduler}}));
    assert!(message.contains("SASolverScheduler") && message.contains("DDIMScheduler"), "{message}");
}

#[test]
fn a_model_whose_scheduler_is_not_built_runs_with_another() {
    let backend = CpuBackend::default();
    let betas = json!({"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"});
    let latents = |class: &str, named: Option<&str>, masked: bool| {
        let mut config = betas.clone();
        config["_class_name"] = class.into();
        let folder = changed("sd", &json!({"scheduler/scheduler_config.json": {"replace": config}}));
        let pipeline = load(&ModelFiles::open(folder.path()).unwrap());
        let own = if masked { pipeline.inpaint_scheduler() } else { pipeline.scheduler() };
        let mut request = read(&requests()[0]).remove(0);
        request.scheduler = Some(named.map_or(own.clone(), |name| own.with_name(name).unwrap()));
        let state = pipeline.prepare(&backend, &request);
        state.map(|state| state.latents(&backend).unwrap()).map_err(|error| error.to_string())
    };
    let refused = latents("SASolverScheduler", None, false).unwrap_err();
    assert!(refused.contains("SASolverScheduler") && refused.contains("DDIMScheduler"), "{refused}");
    for masked in [false, true] {
        for name in ["EulerDiscreteScheduler", "dpmpp_2m_karras"] {
            let expected = latents("UniPCMultistepScheduler", Some(name), masked).unwrap();
            assert_eq!(latents("SASolverScheduler", Some(name), masked).unwrap(), expected, "{name}");
        }
    }
}

#[test]
fn keys_that_mean_nothing_are_said() {
    let folder = changed(
        "sd",
        &json!({
            "unet/config.json": {"set": {"sharpness": 2}},
            "vae/config.json": {"set": {"colour": "red"}},
            "scheduler/scheduler_config.json": {"set": {"speed": 9}},
        }),
    );
    let pipeline = load(&ModelFiles::open(folder.path()).unwrap());
    for key in ["'sharpness'", "'colour'", "'speed'"] {
        assert!(pipeline.warnings().iter().any(|warning| warning.contains(key)), "{:?}", pipeline.warnings());
    }
    let embedded = Path::new(env!("CARGO_MANIFEST_DIR")).join("../weights/emoji/model");
    let fixtures = ["sd", "inpaint", "lcm", "turbo", "sdxl"].map(|model| pipelines().join(model));
    for model in fixtures.into_iter().chain([embedded]) {
        let pipeline = load(&ModelFiles::open(&model).unwrap());
        let model = model.display();
        assert!(pipeline.warnings().is_empty(), "{model}: {:?}", pipeline.warnings());
    }
}

/// By what they are, and not by timesteps that begin at the last.
#[test]
fn models_of_few_steps_are_known() {
    let few = |model: &str, scheduler: Value| {
        let folder = changed(model, &json!({"scheduler/scheduler_config.json": {"replace": scheduler}}));
        load(&ModelFiles::open(folder.path()).unwrap()).is_turbo()
    };
    let euler = |keys: Value| {
        let mut scheduler = json!({"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"});
        scheduler.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        scheduler
    };
    assert!(few("turbo", euler(json!({}))));
    assert!(few("sdxl", euler(json!({"prediction_type": "epsilon", "rescale_betas_zero_snr": false}))));
    assert!(few("sd", json!({"_class_name": "TCDScheduler"})));
    assert!(!few("sd", euler(json!({"timestep_spacing": "leading"}))));
    let zero_snr = json!({"prediction_type": "v_prediction", "rescale_betas_zero_snr": true});
    assert!(!few("sdxl", euler(zero_snr)));
    assert!(!few("sd", euler(json!({"prediction_type": "v_prediction"}))));
}
