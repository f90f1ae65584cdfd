//! Schedulers against diffusers': timesteps, noise levels, and the latents after each step. The files come from
//! tests/oracles/diffusion/make_scheduler_goldens.py.

use std::fs;

use reverie_kernels::{
    Backend,
    cpu::{CpuBackend, CpuTensor},
};
use reverie_models::{
    random::Generator,
    schedulers::{Plan, SchedulerConfig, SchedulerName},
};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

mod fixtures;
#[path = "../../../kernels/tests/gpu/tested.rs"]
mod tested;

type Scheduler = reverie_models::schedulers::Scheduler<CpuBackend>;

/// How far a value may be from diffusers', relative to the largest of its tensor.
const TOLERANCE: f64 = 1e-5;

/// What diffusers itself may be off by after a step, relative to the largest of the latents before it. A difference of that
/// size is rounded there, divided and multiplied, half a bit each, before it is added to them: that counts where a step goes
/// from latents of 4096 to ones of 1. Here the factors of a step are put together before they meet a tensor, and little is lost.
const ROUNDED: f64 = 1.5 * f32::EPSILON as f64;

fn fixture(name: &str) -> Vec<u8> {
    fs::read(fixtures::folder("").join(name)).unwrap()
}

struct Golden<'a>(SafeTensors<'a>);

impl Golden<'_> {
    fn find(&self, name: &str) -> Option<Vec<f32>> {
        let view = self.0.tensor(name).ok()?;
        assert_eq!(view.dtype(), Dtype::F32, "{name}");
        let (words, _) = view.data().as_chunks::<4>();
        Some(words.iter().map(|word| f32::from_le_bytes(*word)).collect())
    }

    fn get(&self, name: &str) -> Vec<f32> {
        self.find(name).unwrap_or_else(|| panic!("the fixture lacks {name}"))
    }
}

fn largest(values: &[f32]) -> f64 {
    values.iter().fold(0f64, |largest, &x| largest.max(f64::from(x).abs()))
}

/// The largest difference, relative to the largest value.
fn error(actual: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(actual.len(), expected.len());
    let difference = |(&a, &b): (&f32, &f32)| (f64::from(a) - f64::from(b)).abs();
    let differences = actual.iter().zip(expected).map(difference);
    let worst = differences.fold(0f64, |worst, d| if d.is_nan() { f64::INFINITY } else { worst.max(d) });
    worst / largest(expected).max(f64::MIN_POSITIVE)
}

/// Latents of one row.
fn tensor(backend: &CpuBackend, values: &[f32]) -> CpuTensor {
    backend.tensor(values.to_vec(), [1, 1, 1, values.len()]).unwrap()
}

/// In place of a model: `model()` of the script.
fn model(sample: &[f32], timestep: f64) -> Vec<f32> {
    let offset = ((timestep * 0.01).sin() * 0.5) as f32;
    sample.iter().map(|x| x / (1.0 + x.abs()) * 0.3 + offset).collect()
}

fn plan(case: &Value, run: &Value) -> Plan {
    Plan {
        steps: run["steps"].as_u64().unwrap() as usize,
        strength: run["strength"].as_f64().unwrap(),
        original_inference_steps: case["plan"]["original_inference_steps"]
            .as_u64()
            .map(|steps| steps as usize),
        strength_in_original_steps: case["plan"]["strength_in_original_steps"].as_bool().unwrap_or(false),
        eta: case["plan"]["eta"].as_f64().unwrap_or(0.0) as f32,
    }
}

/// Runs a plan and returns the largest error.
fn check(golden: &Golden, name: &str, config: &SchedulerConfig, plan: &Plan, seed: u64) -> f64 {
    let backend = CpuBackend::new(1);
    let mut scheduler = Scheduler::new(config, plan).unwrap_or_else(|e| panic!("{name}: {e}"));
    let (mut worst, mut tolerance) = (0f64, TOLERANCE);
    let mut compare = |what: &str, actual: &[f32], expected: &[f32], before: &[f32]| {
        let error = error(actual, expected);
        // What is lost stays lost.
        tolerance = tolerance.max(TOLERANCE + ROUNDED * largest(before) / largest(expected));
        assert!(
            error < tolerance,
            "{name}: {what} differs by {error:e} of {tolerance:e}: {actual:?} for {expected:?}"
        );
        worst = worst.max(error);
    };
    let timesteps: Vec<f32> = scheduler.timesteps().iter().map(|&t| t as f32).collect();
    compare("timesteps", &timesteps, &golden.get(&format!("{name}/timesteps")), &[]);
    if let Some(sigmas) = golden.find(&format!("{name}/sigmas")) {
        compare("sigmas", scheduler.sigmas(), &sigmas, &[]);
    }

    let trajectory = golden.get(&format!("{name}/trajectory"));
    let len = trajectory.len() / (timesteps.len() + 1);
    let mut generator = Generator::new(seed);
    let original: Vec<f32> = generator.randn(len).into_iter().map(|x| x * 0.8).collect();
    let noise = generator.randn(len);
    let (original_tensor, noise_tensor) = (tensor(&backend, &original), tensor(&backend, &noise));
    let noised = |scheduler: &Scheduler| {
        backend.to_vec(&scheduler.add_noise(&backend, &original_tensor, &noise_tensor).unwrap()).unwrap()
    };
    let mut latents = if plan.strength == 1.0 {
        noise.iter().map(|x| x * scheduler.init_noise_sigma()).collect()
    } else {
        noised(&scheduler)
    };
    compare("the first latents", &latents, &trajectory[..len], &[]);

    for (i, expected) in trajectory.chunks(len).skip(1).enumerate() {
        assert_eq!(scheduler.position(), i);
        let timestep = scheduler.timestep().unwrap();
        let sample = tensor(&backend, &latents);
        let input = backend.to_vec(&scheduler.scale_model_input(&backend, &sample).unwrap()).unwrap();
        let output = tensor(&backend, &model(&input, timestep));
        let next = scheduler.step(&backend, &output, &sample, &mut generator).unwrap();
        let before = std::mem::replace(&mut latents, backend.to_vec(&next).unwrap());
        compare(&format!("step {i}"), &latents, expected, &before);
        if i == 0
            && let Some(expected) = golden.find(&format!("{name}/noised"))
        {
            compare("noise for inpainting", &noised(&scheduler), &expected, &[]);
        }
    }
    assert_eq!(scheduler.timestep(), None);
    assert_eq!(noised(&scheduler), original);
    let last = tensor(&backend, &latents);
    assert!(scheduler.step(&backend, &last, &last, &mut generator).is_err());
    worst
}

#[test]
fn every_step_is_diffusers() {
    let file = fixture("schedulers/trajectories.safetensors");
    let golden = Golden(SafeTensors::deserialize(&file).unwrap());
    let cases: Value = serde_json::from_slice(&fixture("schedulers/cases.json")).unwrap();
    let mut seen = Vec::new();
    for case in cases.as_array().unwrap() {
        let label = case["label"].as_str().unwrap();
        let (config, scheduler) = (case["config"].to_string(), case["scheduler"].as_str().unwrap());
        let config = SchedulerConfig::from_json_with_name(&config, scheduler).unwrap();
        let mut worst = 0f64;
        for run in case["runs"].as_array().unwrap() {
            let plan = plan(case, run);
            let name = format!("{label}/{}/{:?}", plan.steps, plan.strength);
            worst = worst.max(check(&golden, &name, &config, &plan, run["seed"].as_u64().unwrap()));
        }
        println!("{label}: {worst:.1e}");
        seen.push(config.name());
    }
    for (name, scheduler) in SchedulerName::ALL {
        assert!(seen.contains(&scheduler), "no case of {name}");
    }
}

/// Of the requests of tests/oracles/diffusion/make_pipeline_goldens.py, those without a picture: the noise that they begin
/// with, and what the first output of the model makes of it.
#[test]
fn pipelines_begin_as_diffusers() {
    let file = fixture("pipelines/goldens.safetensors");
    let golden = Golden(SafeTensors::deserialize(&file).unwrap());
    let requests: Value = serde_json::from_slice(&fixture("pipelines/requests.json")).unwrap();
    let requests = requests.as_array().unwrap();
    let backend = CpuBackend::new(1);
    for request in requests.iter().filter(|request| request["image"].is_null()) {
        let name = request["name"].as_str().unwrap();
        let text = fixture(&format!(
            "pipelines/{}/scheduler/scheduler_config.json",
            request["model"].as_str().unwrap()
        ));
        let mut config: Value = serde_json::from_slice(&text).unwrap();
        for (key, value) in request["scheduler"].as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        let config = SchedulerConfig::from_json(&config.to_string()).unwrap();
        let plan = Plan {
            original_inference_steps: request["original_inference_steps"]
                .as_u64()
                .map(|steps| steps as usize),
            ..Plan::new(request["num_inference_steps"].as_u64().unwrap() as usize)
        };
        let output = golden.get(&format!("{name}/noise_pred"));
        let trajectory = golden.get(&format!("{name}/trajectory"));
        let seeds = request["seeds"].as_array().unwrap();
        let len = output.len() / seeds.len();
        for (i, seed) in seeds.iter().enumerate() {
            let mut scheduler = Scheduler::new(&config, &plan).unwrap();
            let mut generator = Generator::new(seed.as_u64().unwrap());
            let sigma = scheduler.init_noise_sigma();
            let latents: Vec<f32> = generator.randn(len).into_iter().map(|x| x * sigma).collect();
            let entry = i * len..(i + 1) * len;
            assert!(
                error(&latents, &trajectory[entry.clone()]) < 1e-7,
                "{name}, seed {seed}: the noise differs"
            );
            let (output, latents) = (tensor(&backend, &output[entry.clone()]), tensor(&backend, &latents));
            let next = scheduler.step(&backend, &output, &latents, &mut generator).unwrap();
            let error = error(&backend.to_vec(&next).unwrap(), &trajectory[len * seeds.len()..][entry]);
            assert!(error < TOLERANCE, "{name}, seed {seed}: the first step differs by {error:e}");
        }
    }
}

fn sdxl() -> SchedulerConfig {
    let text = r#"{"_class_name": "EulerDiscreteScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "beta_start": 0.00085, "steps_offset": 1, "timestep_spacing": "leading", "skip_prk_steps": true}"#;
    SchedulerConfig::from_json(text).unwrap()
}

#[test]
fn latents_of_another_length_are_refused() {
    let backend = CpuBackend::new(1);
    let of = |len: usize| tensor(&backend, &vec![1.0; len]);
    let mut generator = Generator::new(0);
    for sampler in ["DPM++ 2M", "UniPC", "PLMS", "Heun"] {
        let config = sdxl().with_name(sampler).unwrap();
        let mut scheduler = Scheduler::new(&config, &Plan::new(4)).unwrap();
        assert!(scheduler.step(&backend, &of(3), &of(4), &mut generator).is_err());
        assert!(scheduler.add_noise(&backend, &of(3), &of(4)).is_err());
        scheduler.step(&backend, &of(4), &of(4), &mut generator).unwrap();
        let error = scheduler.step(&backend, &of(5), &of(5), &mut generator).err().unwrap();
        let message = error.to_string();
        assert!(message.contains('5') && message.contains('4'), "{message}");
        assert_eq!(scheduler.position(), 1);
    }
}

/// The latents after each step of a scheduler.
fn trajectory<B: Backend>(backend: &B, config: &SchedulerConfig, steps: usize) -> Vec<Vec<f32>> {
    let shape = [1, 4, 3, 3];
    let mut scheduler = reverie_models::schedulers::Scheduler::new(config, &Plan::new(steps)).unwrap();
    let mut generator = Generator::new(7);
    let noise = generator.randn(36).into_iter().map(|x| x * scheduler.init_noise_sigma());
    let mut latents = backend.tensor(noise.collect(), shape).unwrap();
    let mut trajectory = Vec::new();
    while let Some(timestep) = scheduler.timestep() {
        let input = backend.to_vec(&scheduler.scale_model_input(backend, &latents).unwrap()).unwrap();
        let output = backend.tensor(model(&input, timestep), shape).unwrap();
        latents = scheduler.step(backend, &output, &latents, &mut generator).unwrap();
        trajectory.push(backend.to_vec(&latents).unwrap());
    }
    trajectory
}

/// The kernels that a GPU runs, here in the PTX interpreter, with latents that are fp16 between the steps.
#[test]
fn a_gpu_takes_the_same_steps_within_fp16() {
    let (cpu, gpu) = (CpuBackend::new(1), tested::gpu());
    for (name, _) in SchedulerName::ALL {
        for prediction_type in ["epsilon", "v_prediction"] {
            let text = json!({"_class_name": "EulerDiscreteScheduler", "beta_end": 0.012, "beta_start": 0.00085,
                "beta_schedule": "scaled_linear", "prediction_type": prediction_type, "clip_sample": true,
                "clip_sample_range": 1.5});
            let config = SchedulerConfig::from_json_with_name(&text.to_string(), name).unwrap();
            let steps = 6;
            let worst = trajectory(&gpu, &config, steps)
                .iter()
                .zip(trajectory(&cpu, &config, steps))
                .fold(0f64, |worst, (actual, expected)| worst.max(error(actual, &expected)));
            println!("{name}, {prediction_type}: {worst:.1e}");
            assert!(worst < 5e-3, "{name}, {prediction_type}: {worst:e}");
        }
    }
}

/// As after a step that the device had no memory for.
#[test]
fn a_step_that_fails_changes_nothing() {
    let backend = CpuBackend::new(1);
    let of = |len: usize| tensor(&backend, &(0..len).map(|i| i as f32 / 8.0).collect::<Vec<_>>());
    for (name, _) in SchedulerName::ALL {
        let config = sdxl().with_name(name).unwrap();
        let run = |failing: bool| {
            let mut scheduler = Scheduler::new(&config, &Plan::new(5)).unwrap();
            let (mut generator, mut latents) = (Generator::new(0), of(16));
            while scheduler.timestep().is_some() {
                if failing {
                    scheduler.step(&backend, &of(15), &latents, &mut generator).err().unwrap();
                }
                latents = scheduler.step(&backend, &of(16), &latents, &mut generator).unwrap();
            }
            backend.to_vec(&latents).unwrap()
        };
        assert_eq!(run(true), run(false), "{name}");
    }
}
