//! Whole pipelines against diffusers': tests/oracles/diffusion/make_pipeline_goldens.py made the models and the goldens.

use pipeline_requests::{Off, against_golden, pipelines, read, relative_error, requests};
use reverie_kernels::{Backend, cpu::CpuBackend};
use reverie_models::{
    Adapters, Error, LayerCache, ModelFiles,
    denoise::{self, Denoise},
    noise::Blend,
    pipeline::{Mask, Picture, Pipeline, Request},
};
use serde_json::Value;

mod fixtures;
mod pipeline_requests;
#[path = "../../../kernels/tests/gpu/tested.rs"]
mod tested;

fn load<B: Backend>(backend: &B, asked: &Value) -> Pipeline<B> {
    let mut files = ModelFiles::open(&pipelines().join(asked["model"].as_str().unwrap())).unwrap();
    if let Some(vae) = asked["vae"].as_str() {
        files.vae = ModelFiles::open_vae(&pipelines().join(vae)).unwrap();
    }
    Pipeline::load(backend, &files, &LayerCache::default(), &Adapters::default()).unwrap()
}

fn off<B: Backend>(backend: &B, asked: &Value) -> Off {
    let name = asked["name"].as_str().unwrap();
    against_golden(backend, &load(backend, asked), &read(asked), name, "pipelines/goldens.safetensors")
}

#[test]
fn pictures_are_those_of_diffusers() {
    let (backend, requests) = (CpuBackend::default(), requests());
    assert!(requests.len() >= 30);
    for asked in &requests {
        let Off { latents, share, .. } = off(&backend, asked);
        assert!(latents < 1e-3, "{}: latents differ by {latents}", asked["name"]);
        assert!(share <= 1e-3, "{}: {share} of the picture differs", asked["name"]);
    }
}

#[test]
fn the_same_prompt_is_encoded_once() {
    let backend = CpuBackend::default();
    let asked = requests().into_iter().find(|asked| asked["model"] == "sdxl").unwrap();
    let pipeline = load(&backend, &asked);
    let base = Request {
        prompt: "a cat".into(),
        negative_prompt: Some("dogs".into()),
        guidance_scale: 5.0,
        ..read(&asked).remove(0)
    };
    let encoded = |request: &Request| {
        let before = pipeline.encodings().encoded();
        let picture = make(&backend, &pipeline, request).1;
        (pipeline.encodings().encoded() - before, picture)
    };
    let (count, first) = encoded(&base);
    assert_eq!(count, 2);
    // Another seed, size or number of steps is no other prompt.
    let other = Request { seed: base.seed + 1, num_inference_steps: 1, ..base.clone() };
    assert_eq!(encoded(&other).0, 0);
    assert!(encoded(&base) == (0, first.clone()), "another picture");
    // Everything that the text encoders are given is.
    for changed in [
        Request { prompt: "a (cat:1.1)".into(), ..base.clone() },
        Request { prompt_2: Some("a bear".into()), ..base.clone() },
        Request { clip_skip: Some(2), ..base.clone() },
    ] {
        let (count, picture) = encoded(&changed);
        assert!(count == 1 && picture != first, "{changed:?}");
    }
    // A longer one makes the other longer.
    assert_eq!(encoded(&Request { negative_prompt: Some("dogs BREAK owls".into()), ..base.clone() }).0, 2);
    assert!(encoded(&base) == (0, first));
    // There is an end to it.
    for i in 0..200 {
        let few = Request { prompt: format!("a cat {i}"), num_inference_steps: 1, ..base.clone() };
        pipeline.prepare(&backend, &few).unwrap();
        assert!((1..=32 << 20).contains(&pipeline.encodings().bytes()));
    }
}

#[test]
fn loading_tells_how_far_it_is_and_can_be_ended() {
    let backend = CpuBackend::default();
    for model in ["sd", "sdxl", "taesd"] {
        let path = pipelines().join(if model == "taesd" { "sd" } else { model });
        let mut files = ModelFiles::open(&path).unwrap();
        if model == "taesd" {
            files.vae = ModelFiles::open_vae(&pipelines().join(model)).unwrap();
        }
        let told = parking_lot::Mutex::new(Vec::new());
        let cache = LayerCache::default();
        let load = |until: f32| {
            told.lock().clear();
            let tell = |part: f32| {
                told.lock().push(part);
                if part < until { Ok(()) } else { Err(Error::Invalid("enough".into())) }
            };
            Pipeline::load_and_tell(&backend, &files, &cache, &Adapters::default(), &tell)
                .err()
                .map(|e| e.to_string())
        };
        assert_eq!(load(0.5).as_deref(), Some("enough"));
        let last = *told.lock().last().unwrap();
        assert!((0.5..1.0).contains(&last) || last == 1.0 && model == "taesd", "{model}: {last}");
        assert_eq!(load(2.0), None);
        let told = told.lock();
        assert!(told[0] == 0.0 && told.is_sorted() && told.len() > 10, "{model}: {told:?}");
        assert!((0.97..=1.0).contains(told.last().unwrap()), "{model}: {told:?}");
    }
}

/// Whole pipelines in fp16, with all of their steps.
#[test]
fn a_gpu_makes_the_pictures_of_diffusers_within_fp16() {
    if !tested::has_driver() {
        tested::skipped("takes the interpreter minutes");
        return;
    }
    let gpu = tested::gpu();
    // All of them, for whoever has the device only once.
    let off: Vec<_> = requests().iter().map(|asked| off(&gpu, asked)).collect();
    let is_right = |off: &Off| off.latents < 1e-2 && off.share < 1e-2 && off.mean < 0.5;
    let wrong: Vec<_> = off.iter().filter(|off| !is_right(off)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The request's picture after all of its steps.
fn make<B: Backend>(backend: &B, pipeline: &Pipeline<B>, request: &Request) -> (Vec<f32>, Picture) {
    let mut state = pipeline.prepare(backend, request).unwrap();
    while !state.is_done() {
        denoise::step(backend, &pipeline.unet, &mut [&mut state]).unwrap();
    }
    (state.latents(backend).unwrap(), pipeline.decode(backend, &state, &mut |_, _| Ok(())).unwrap())
}

/// The kernels that a GPU runs, here in the PTX interpreter: a few steps in fp16 against the CPU's fp32.
#[test]
fn a_gpu_makes_the_same_pictures_within_fp16() {
    let (cpu, gpu) = (CpuBackend::default(), tested::gpu());
    let all = requests();
    let kinds = ["sd_txt2img", "sdxl_txt2img", "lcm"];
    for kind in kinds {
        let asked = all.iter().find(|asked| asked["name"].as_str().unwrap().starts_with(kind)).unwrap();
        let mut request = read(asked).remove(0);
        request.num_inference_steps = request.num_inference_steps.min(2);
        let began = std::time::Instant::now();
        let (latents, picture) = make(&gpu, &load(&gpu, asked), &request);
        let (expected, golden) = make(&cpu, &load(&cpu, asked), &request);
        let error = relative_error(&latents, &expected);
        let off: f64 = picture.rgb.iter().zip(&golden.rgb).map(|(a, b)| f64::from(a.abs_diff(*b))).sum();
        let off = off / golden.rgb.len() as f64;
        println!("{kind}: latents {error:.1e}, picture {off:.2}/255 on average, {:?}", began.elapsed());
        assert!(error < 1e-2 && off < 1.0, "{kind}: latents differ by {error}, the picture by {off}");
    }
}

/// A device may take less of a picture at once than the pipeline would give it.
#[test]
fn what_the_device_cannot_take_whole_is_done_in_tiles() {
    let Some(gpu) = tested::interpreter() else { return };
    let few = |values: usize| gpu.lane().unwrap().with_most_values(values);
    let all = requests();
    let asked = all.iter().find(|asked| asked["name"] == "sd_img2img").unwrap();
    let pipeline = load(&gpu, asked);
    let (width, height) = (72, 64);
    let image = Picture { width, height, rgb: (0..width * height * 3).map(|i| (i % 251) as u8).collect() };
    let request = Request { width, height, image: Some(image), ..read(asked).remove(0) };
    // The encoder's widest activations have 4 channels of the picture's size and its padding; tiles are of 64 by 64.
    let state = pipeline.prepare(&few(4 * 65 * 73 - 1), &request).unwrap();
    // The decoder's have 8.
    let mut tiles = 0;
    let mut progress = |_, of| {
        tiles = of;
        Ok(())
    };
    let picture = pipeline.decode(&few(8 * 64 * 72 - 1), &state, &mut progress).unwrap();
    assert_eq!(picture.rgb.len(), width * height * 3);
    assert_eq!(tiles, 4);
    let error = pipeline.decode(&few(8 * 64 * 64 - 1), &state, &mut |_, _| Ok(())).err();
    let error = error.map(|error| error.to_string()).unwrap_or_default();
    assert!(error.contains("64x64 pixels") && error.contains("smaller ones"), "{error}");
}

/// What a host relies on that makes room on a full device, and then tries again.
#[test]
fn what_ran_out_of_memory_can_be_done_again() {
    let Some(gpu) = tested::interpreter() else { return };
    let all = requests();
    let asked = all.iter().find(|asked| asked["name"] == "sd_batch_euler_a").unwrap();
    let files = ModelFiles::open(&pipelines().join(asked["model"].as_str().unwrap())).unwrap();
    let full = |error: Option<Error>| {
        matches!(error, Some(Error::Backend(reverie_kernels::Error::OutOfMemory { .. })))
    };
    let cache = LayerCache::default();
    let load = || Pipeline::load(&gpu, &files, &cache, &Adapters::default());
    gpu.device().run_out_after(Some(20));
    assert!(full(load().err()));
    assert!(!cache.is_empty(), "what was prepared is kept");
    gpu.device().run_out_after(None);
    let pipeline = load().unwrap();

    let mut requests = read(asked);
    requests.truncate(2);
    requests[1].guidance_scale = 1.0;
    let prepare = || requests.iter().map(|request| pipeline.prepare(&gpu, request).unwrap()).collect();
    type State = Denoise<tested::interpreted::Gpu>;
    let [mut undisturbed, mut states]: [Vec<State>; 2] = [prepare(), prepare()];
    let step = |states: &mut Vec<State>, buffers: usize| {
        let mut states: Vec<_> = states.iter_mut().collect();
        gpu.device().run_out_after(Some(buffers));
        let outputs = denoise::predict(&gpu, &pipeline.unet, &states);
        let left = gpu.device().run_out_after(None).unwrap();
        denoise::advance(&gpu, &outputs?, &mut states).map(|()| buffers - left)
    };
    let needed = step(&mut undisturbed, 1 << 20).unwrap();
    for buffers in [0, needed / 2, needed - 1] {
        assert!(full(step(&mut states, buffers).err()), "{buffers} of {needed}");
        assert!(states.iter().all(|state| state.position() == 0), "{buffers} of {needed}");
    }
    step(&mut states, needed).unwrap();
    for (state, undisturbed) in states.iter().zip(&undisturbed) {
        assert_eq!(state.latents(&gpu).unwrap(), undisturbed.latents(&gpu).unwrap());
    }
}

/// Requests that began at different times and differ in steps, guidance, prompt and scheduler.
#[test]
fn a_picture_is_the_same_alone_and_in_a_batch() {
    let backend = CpuBackend::default();
    let all = requests();
    let named = |name: &str| all.iter().find(|asked| asked["name"] == name).unwrap();
    let pipeline = load(&backend, named("sd_txt2img"));
    let mut requests: Vec<Request> =
        ["sd_txt2img", "sd_clip_skip", "sd_dpmpp_karras"].iter().flat_map(|name| read(named(name))).collect();
    requests[1].prompt = "something else entirely".into();
    requests[1].guidance_scale = 1.0;
    let prepare = |request: &Request| pipeline.prepare(&backend, request).unwrap();
    let alone: Vec<Vec<f32>> = requests
        .iter()
        .map(|request| {
            let mut state = prepare(request);
            while !state.is_done() {
                denoise::step(&backend, &pipeline.unet, &mut [&mut state]).unwrap();
            }
            state.latents(&backend).unwrap()
        })
        .collect();
    // One joins after the other.
    let mut states: Vec<Denoise<CpuBackend>> = Vec::new();
    loop {
        if let Some(request) = requests.get(states.len()) {
            states.push(prepare(request));
        }
        let mut batch: Vec<&mut Denoise<CpuBackend>> =
            states.iter_mut().filter(|state| !state.is_done()).collect();
        if batch.is_empty() {
            break;
        }
        denoise::step(&backend, &pipeline.unet, &mut batch).unwrap();
    }
    for (state, alone) in states.iter().zip(&alone) {
        assert_eq!(state.latents(&backend).unwrap(), *alone);
    }
}

#[test]
fn noise_is_blended_as_asked() {
    let backend = CpuBackend::default();
    let all = requests();
    let asked = all.iter().find(|asked| asked["name"] == "sd_txt2img").unwrap();
    let (pipeline, plain) = (load(&backend, asked), read(asked).remove(0));
    let latents = |seed: u64, blends: &[(u64, f32)]| {
        let blends = blends.iter().map(|&(seed, amount)| Blend { seed, amount }).collect();
        let request = Request { seed, blends, ..plain.clone() };
        pipeline.prepare(&backend, &request).unwrap().latents(&backend).unwrap()
    };
    assert_eq!(latents(1, &[(2, 0.0)]), latents(1, &[]));
    assert_eq!(latents(1, &[(2, 1.0)]), latents(2, &[]));
    assert_ne!(latents(1, &[(2, 0.5)]), latents(1, &[]));
    assert_eq!(latents(1, &[(2, 0.5), (3, 1.0)]), latents(3, &[]));
}

#[test]
fn bad_requests_name_the_field_and_what_is_accepted() {
    let backend = CpuBackend::default();
    let all = requests();
    let pipeline = load(&backend, &all[0]);
    let good = read(&all[0]).remove(0);
    let error = |change: &dyn Fn(&mut Request)| {
        let mut request = good.clone();
        change(&mut request);
        pipeline.prepare(&backend, &request).err().map(|e| e.to_string()).unwrap_or_default()
    };
    assert!(error(&|r| r.width = 63).contains("width: 63 is not a multiple of"));
    assert!(error(&|r| r.height = 0).contains("height"));
    assert!(error(&|r| r.guidance_scale = f32::NAN).contains("guidance_scale"));
    assert!(error(&|r| r.blends = vec![Blend { seed: 1, amount: 1.5 }]).contains("amount 1.5"));
    assert!(error(&|r| r.clip_skip = Some(0)).contains("clip_skip"));
    assert!(error(&|r| r.guidance_rescale = 1.5).contains("guidance_rescale"));
    assert!(error(&|r| r.eta = -0.5).contains("eta"));
    // Only some schedulers act on it.
    assert!(error(&|r| r.eta = 0.5).contains("PNDMScheduler"));
    assert!(error(&|r| r.num_inference_steps = 0).contains("steps"));
    assert!(
        error(&|r| r.mask = Some(Mask { width: 64, height: 64, grey: vec![0; 4096] }))
            .contains("needs an image")
    );
    let image = Picture { width: 8, height: 8, rgb: vec![0; 192] };
    assert!(error(&|r| r.image = Some(image.clone())).contains("8x8"));
}

#[test]
fn a_gpu_finds_what_is_no_number_in_a_picture() {
    let gpu = tested::gpu();
    for (place, value) in [(0, f32::NAN), (3 * 20 * 33 - 1, f32::INFINITY), (701, f32::NEG_INFINITY)] {
        let mut values = vec![65504.0; 3 * 20 * 33];
        let is_finite = |values: &[f32]| {
            let picture = gpu.tensor(values.to_vec(), [1, 3, 20, 33]).unwrap();
            reverie_models::is_picture_finite(&gpu, &picture).unwrap()
        };
        assert!(is_finite(&values));
        values[place] = value;
        assert!(!is_finite(&values), "{value} at {place}");
    }
}
