//! Configurations of schedulers: the names of samplers and of spacings, what is refused, and what old files mean.

use reverie_kernels::cpu::CpuBackend;
use reverie_models::schedulers::{Plan, SchedulerConfig, SchedulerName, sampler_ids};
use serde_json::{Value, json};

type Scheduler = reverie_models::schedulers::Scheduler<CpuBackend>;

fn sdxl() -> SchedulerConfig {
    let text = r#"{"_class_name": "EulerDiscreteScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "beta_start": 0.00085, "steps_offset": 1, "timestep_spacing": "leading", "skip_prk_steps": true}"#;
    SchedulerConfig::from_json(text).unwrap()
}

#[test]
fn samplers_have_the_names_of_other_interfaces() {
    let named = |name: &str| sdxl().with_name(name).unwrap();
    assert_eq!(named("Euler a").name(), SchedulerName::EulerAncestralDiscrete);
    assert_eq!(named("euler_ancestral"), named("EULER A"));
    assert_eq!(named("dpmpp_2m"), named("DPM++ 2M"));
    assert!(named("DPM++ 2M Karras").is_same(&named("dpmpp_2m").with_schedule_type("karras").unwrap()));
    assert_eq!(named("UniPCMultistepScheduler").name(), SchedulerName::UniPcMultistep);
    let unsupported = r#"{"_class_name": "SASolverScheduler", "algorithm_type": "data_prediction"}"#;
    let message = SchedulerConfig::from_json(unsupported).unwrap_err().to_string();
    assert!(
        message.contains("'SASolverScheduler'") && message.contains("DEISMultistepScheduler"),
        "{message}"
    );
    let unsupported = r#"{"_class_name": "SASolverScheduler", "algorithm_type": "deis"}"#;
    assert!(SchedulerConfig::from_json_with_name(unsupported, "DPMSolverMultistepScheduler").is_ok());

    let sigmas = |config: &SchedulerConfig| Scheduler::new(config, &Plan::new(8)).unwrap().sigmas().to_vec();
    let even = sigmas(&named("DPM++ 2M"));
    assert_ne!(sigmas(&named("DPM++ 2M Karras")), even);
    assert_eq!(sigmas(&named("DPM++ 2M Karras").with_name("DPM++ 2M").unwrap()), even);
    let exponential = named("euler").with_schedule_type("Exponential").unwrap();
    assert_ne!(sigmas(&exponential), sigmas(&exponential.with_schedule_type("Karras").unwrap()));
    let beta = sigmas(&exponential.with_schedule_type("beta").unwrap());
    assert!(beta != sigmas(&exponential) && beta != even);

    let trailing = named("euler").with_schedule_type("SGM Uniform").unwrap();
    assert_eq!(Scheduler::new(&trailing, &Plan::new(1)).unwrap().timesteps(), [999.0]);

    let message = sdxl().with_name("DPM++ 9M").unwrap_err().to_string();
    assert!(message.contains("'DPM++ 9M'") && message.contains("Euler a"), "{message}");
    assert!(sampler_ids().all(|id| message.contains(id)), "{message}");
    let message = named("Euler a").with_schedule_type("karras").unwrap_err().to_string();
    assert!(message.contains("EulerAncestralDiscreteScheduler"), "{message}");
    assert!(sdxl().with_schedule_type("steep").unwrap_err().to_string().contains("SGM Uniform"));
    // What a class does not act on is not taken in silence.
    for sampler in ["LCM", "TCD", "DPM++ 2S"] {
        let message = named(sampler).with_schedule_type("SGM Uniform").unwrap_err().to_string();
        assert!(message.contains("'SGM Uniform'"), "{message}");
    }
}

#[test]
fn every_scheduler_has_an_id_that_says_its_steps() {
    let ids: Vec<&str> = sampler_ids().collect();
    assert!(["lcm", "euler_a", "dpmpp_2m"].iter().all(|id| ids.contains(id)), "{ids:?}");
    // Those of EDM go by the names of the others.
    let edm = [SchedulerName::EdmEuler, SchedulerName::EdmDpmSolverMultistep];
    for (name, scheduler) in SchedulerName::ALL.into_iter().filter(|(_, scheduler)| !edm.contains(scheduler))
    {
        let there = ids.iter().any(|id| sdxl().with_name(id).unwrap().name() == scheduler);
        assert!(there, "{name} has no id");
    }
    for id in &ids {
        assert_eq!(sdxl().with_name(id).unwrap().sampler_id(&sdxl()), Some(*id));
    }
    let of = |name: &str| sdxl().with_name(name).unwrap().sampler_id(&sdxl());
    assert_eq!((of("DPM++ 2M Karras"), of("Euler a")), (Some("dpmpp_2m_karras"), Some("euler_a")));
    assert_eq!((of("EulerDiscreteScheduler"), of("UniPC")), (Some("euler"), Some("uni_pc")));
    assert_eq!(sdxl().sampler_id(&sdxl()), Some("euler"));
    // A spacing makes another sampler of one, or none that has an id.
    let spaced = |id: &str| sdxl().with_name(id).unwrap().with_schedule_type("karras").unwrap();
    assert_eq!(spaced("dpmpp_2m").sampler_id(&sdxl()), Some("dpmpp_2m_karras"));
    assert_eq!(spaced("euler").sampler_id(&sdxl()), None);
    assert!(!spaced("euler").is_same(&sdxl()) && sdxl().is_same(&sdxl()));
}

#[test]
fn a_configuration_that_is_not_supported_names_its_key() {
    let refused = |class: &str, key: &str, value: Value| {
        let mut config = json!({"_class_name": class, "skip_prk_steps": true});
        config[key] = value;
        let message = SchedulerConfig::from_json(&config.to_string()).unwrap_err().to_string();
        assert!(message.contains(key), "{message} does not name {key}");
        message
    };
    refused("DPMSolverSDEScheduler", "_class_name", json!("DPMSolverSDEScheduler"));
    let message = refused("EulerDiscreteScheduler", "beta_schedule", json!("sigmoid"));
    assert!(message.contains("sigmoid") && message.contains("squaredcos_cap_v2"), "{message}");
    refused("EulerDiscreteScheduler", "timestep_type", json!("even"));
    refused("EulerDiscreteScheduler", "beta_schedule", json!("exp"));
    refused("EulerDiscreteScheduler", "num_train_timesteps", json!(0));
    refused("EulerDiscreteScheduler", "num_train_timesteps", json!("many"));
    refused("EulerDiscreteScheduler", "beta_end", json!(-1));
    refused("EulerAncestralDiscreteScheduler", "prediction_type", json!("sample"));
    refused("DDIMScheduler", "thresholding", json!("some"));
    refused("DDIMScheduler", "trained_betas", json!([0.1, 0.2]));
    refused("DDPMScheduler", "variance_type", json!("learned_range"));
    // Only with `final_sigmas_type` "sigma_min".
    let message = SchedulerConfig::from_json(
        r#"{"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver"}"#,
    );
    assert!(message.unwrap_err().to_string().contains("final_sigmas_type"));
    refused("DPMSolverSinglestepScheduler", "algorithm_type", json!("sde-dpmsolver"));
    refused("DPMSolverMultistepScheduler", "solver_order", json!(4));
    refused("DPMSolverMultistepScheduler", "variance_type", json!("learned"));
    refused("DPMSolverMultistepScheduler", "use_flow_sigmas", json!(true));
    refused("DEISMultistepScheduler", "algorithm_type", json!("sde-dpmsolver++"));
    refused("EDMEulerScheduler", "prediction_type", json!("sample"));
    refused("UniPCMultistepScheduler", "shift_terminal", json!(0.1));
    refused("UniPCMultistepScheduler", "predict_x0", json!(false));
    assert!(SchedulerConfig::from_json("[]").is_err());
    assert!(SchedulerConfig::from_json("{").is_err());
}

#[test]
fn keys_of_other_schedulers_mean_nothing() {
    let text = r#"{"_class_name": "EulerAncestralDiscreteScheduler", "use_beta_sigmas": true, "thresholding": true,
        "made_up": [1], "lambda_min_clipped": -Infinity, "use_karras_sigmas": null}"#;
    let config = SchedulerConfig::from_json(text).unwrap();
    // What no scheduler knows can be said.
    assert_eq!(config.unknown_keys().collect::<Vec<_>>(), ["made_up"]);
}

#[test]
fn models_trained_by_edm_have_samplers_of_their_own() {
    let text = r#"{"_class_name": "EDMDPMSolverMultistepScheduler", "sigma_max": 80.0, "sigma_min": 0.002}"#;
    let model = SchedulerConfig::from_json(text).unwrap();
    assert_eq!(model.with_name("Euler").unwrap().name(), SchedulerName::EdmEuler);
    assert_eq!(model.sampler_id(&model), Some("dpmpp_2m"));
    let message = model.with_name("Euler a").unwrap_err().to_string();
    assert!(message.contains("'Euler a'") && message.contains("dpmpp_2m_karras"), "{message}");
    let exponential = model.with_schedule_type("Exponential").unwrap();
    assert!(!exponential.is_same(&model));
    assert!(exponential.with_name("DPM++ 2M Karras").unwrap().is_same(&model));
    for schedule_type in ["beta", "SGM Uniform", "normal"] {
        assert!(model.with_schedule_type(schedule_type).is_err(), "{schedule_type}");
    }
    // A class by its name is what it is in diffusers.
    assert_eq!(model.with_name("EulerDiscreteScheduler").unwrap().name(), SchedulerName::EulerDiscrete);
}

/// What diffusers' pipelines of Stable Diffusion 1 and 2 make of old configurations.
#[test]
fn old_configurations_are_corrected() {
    let of = |text: &str| SchedulerConfig::from_json(text).unwrap();
    let timesteps =
        |config: &SchedulerConfig| Scheduler::new(config, &Plan::new(4)).unwrap().timesteps().to_vec();
    let ddim = of(r#"{"_class_name": "DDIMScheduler"}"#);
    assert_eq!(timesteps(&ddim), [750.0, 500.0, 250.0, 0.0]);
    assert_eq!(timesteps(&ddim.corrected(false)), [751.0, 501.0, 251.0, 1.0]);
    let current = of(r#"{"_class_name": "DDIMScheduler", "steps_offset": 1, "clip_sample": false}"#);
    assert!(ddim.corrected(false).is_same(&current));
    // With a mask it goes on clipping.
    assert!(!ddim.corrected(true).is_same(&current));
    let pndm = of(r#"{"_class_name": "PNDMScheduler"}"#);
    assert_eq!(timesteps(&pndm.corrected(true)), [751.0, 501.0, 501.0, 251.0, 1.0]);
    assert_eq!(timesteps(&pndm.corrected(false)).len(), 13);
    // Another scheduler in its place has its own defaults, where the file says nothing.
    let ddim_of = |text: &str| of(text).corrected(false).with_name("DDIMScheduler").unwrap();
    assert!(ddim_of(r#"{"_class_name": "PNDMScheduler"}"#).is_same(&ddim));
    let silent = r#"{"_class_name": "PNDMScheduler", "steps_offset": 0, "clip_sample": true}"#;
    assert!(ddim_of(silent).is_same(&current));
    assert!(ddim.corrected(false).with_name("DDIM").unwrap().is_same(&current));
}

#[test]
fn a_plan_that_can_not_be_is_refused() {
    let refused = |sampler: &str, plan: Plan, names: &str| {
        let message = Scheduler::new(&sdxl().with_name(sampler).unwrap(), &plan).err().unwrap().to_string();
        assert!(message.contains(names), "{message} does not name {names}");
    };
    refused("Euler", Plan::new(0), "steps");
    refused("Euler", Plan::new(1001), "steps");
    refused("DDIM", Plan::new(1000), "steps_offset");
    refused("DPM++ 2M", Plan::new(1000), "steps");
    refused("Euler", Plan { strength: 0.0, ..Plan::new(4) }, "strength");
    refused("Euler", Plan { strength: f64::NAN, ..Plan::new(4) }, "strength");
    refused("Euler", Plan { strength: 0.2, ..Plan::new(4) }, "5 steps");
    // It runs the last of its five timesteps, as with diffusers.
    let plan = Plan { strength: 0.2, ..Plan::new(4) };
    assert_eq!(Scheduler::new(&sdxl().with_name("PLMS").unwrap(), &plan).unwrap().timesteps().len(), 1);
    refused("LCM", Plan::new(51), "original_inference_steps");
    refused("TCD", Plan::new(51), "original_inference_steps");
    let runge_kutta = json!({"_class_name": "PNDMScheduler"}).to_string();
    let scheduler = Scheduler::new(&SchedulerConfig::from_json(&runge_kutta).unwrap(), &Plan::new(3));
    assert!(scheduler.err().unwrap().to_string().contains("4 or more"));
    refused("LCM", Plan { original_inference_steps: Some(0), ..Plan::new(4) }, "original_inference_steps");
    refused("LCM", Plan { strength: 0.1, strength_in_original_steps: true, ..Plan::new(8) }, "strength");
    refused("DDIM", Plan { eta: 2.0, ..Plan::new(4) }, "eta");
}

/// Diffusers makes one step more of these, at timestep -1.
#[test]
fn trailing_timesteps_are_as_many_as_the_steps() {
    let trailing = sdxl().with_schedule_type("SGM Uniform").unwrap();
    for (steps, sampler) in [(61, "Euler"), (103, "DDIM"), (1000, "Heun"), (999, "UniPC")] {
        let config = trailing.with_name(sampler).unwrap();
        let scheduler = Scheduler::new(&config, &Plan::new(steps)).unwrap();
        assert_eq!(scheduler.timesteps()[0], 999.0);
        assert!(scheduler.timesteps().iter().all(|&t| t >= 0.0));
        let expected = if sampler == "Heun" { 2 * steps - 1 } else { steps };
        assert_eq!(scheduler.timesteps().len(), expected);
    }
}

#[test]
fn spacings_of_a_file_that_a_request_replaces_need_not_go_together() {
    let file = r#"{"_class_name": "EulerAncestralDiscreteScheduler", "use_karras_sigmas": true, "use_exponential_sigmas": true}"#;
    let own = SchedulerConfig::from_json(file).unwrap();
    assert!(own.with_name("DPMSolverSinglestepScheduler").is_err());
    let spaced = own.with_name_and_schedule_type("DPMSolverSinglestepScheduler", "beta").unwrap();
    let plain = SchedulerConfig::from_json(
        r#"{"_class_name": "DPMSolverSinglestepScheduler", "use_beta_sigmas": true}"#,
    );
    assert!(spaced.is_same(&plain.unwrap()));
}
