//! One call of a UNet and of a VAE of Stable Diffusion 1.5's size against diffusers.
//!
//! The weights would fill the repository: `tests/oracles/diffusion/make_full_size.py FOLDER` makes them and the goldens,
//! and `REVERIE_FULL_SIZE=FOLDER` tells this test where they are.

mod random_weights;

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    time::Instant,
};

use random_weights::{Tensors, check};
use reverie_kernels::{Backend, cpu::CpuBackend};
use reverie_models::{
    LayerCache, Loader, ModelFiles, ModelKind, VaeConfig, Weights,
    unet::{Conditions, UNet2DConditionModel},
    vae::AutoencoderKL,
};
use serde::de::DeserializeOwned;

/// Through the depth of a whole model.
const LIMIT: f32 = 1e-4;

/// Not by `eprintln!`, which is shown for tests that fail only.
fn skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os("REVERIE_FULL_SIZE").map(PathBuf::from);
    if folder.is_none() {
        skipped("REVERIE_FULL_SIZE names no folder made by tests/oracles/diffusion/make_full_size.py");
    }
    folder
}

fn open<C: DeserializeOwned>(folder: &Path, component: &str) -> (C, Weights) {
    let folder = folder.join(component);
    let config = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
    (config, Weights::open(&[folder.join("diffusion_pytorch_model.safetensors")]).unwrap())
}

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let out = work();
    println!("{what:14} {:6.1} s; peak memory so far {}", start.elapsed().as_secs_f64(), peak_memory());
    out
}

fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.map_or("unknown".into(), |line| line.trim().to_owned())
}

fn assert_same(ours: &Weights, theirs: &Weights) {
    for name in theirs.names() {
        let same = ours.shape(name).unwrap() == theirs.shape(name).unwrap()
            && ours.values(name).unwrap() == theirs.values(name).unwrap();
        assert!(same, "{name} differs");
    }
}

/// The same models under the original names come out as they went in.
fn check_single_file(folder: &Path) {
    let file = folder.join("model.safetensors");
    if !file.exists() {
        return skipped("no single file made by tests/oracles/diffusion/make_single_file.py");
    }
    let single = ModelFiles::open(&file).unwrap();
    assert_eq!(single.kind, ModelKind::Sd1);
    let (unet, weights) = open(folder, "unet");
    assert_eq!(single.unet.config, unet);
    assert_same(&single.unet.weights, &weights);
    let (vae, weights) = open(folder, "vae");
    assert_eq!(single.vae.config, VaeConfig::Kl(vae));
    assert_same(&single.vae.weights, &weights);
}

// One test, so that the two models are not in memory together and do not disturb each other's times.
#[test]
fn match_diffusers() {
    let Some(folder) = folder() else { return };
    let golden = Tensors::open(&folder.join("golden.safetensors"));
    let backend = CpuBackend::new(0);
    println!("{}", backend.name());
    check_single_file(&folder);

    let (config, weights) = open(&folder, "vae");
    let cache = LayerCache::default();
    let loader = Loader::new(&backend, weights, &cache);
    let vae = timed("load decoder", || AutoencoderKL::load_decoder(&loader, &config).unwrap());
    let latents = golden.tensor(&backend, "latents");
    let image = timed("VAE decode", || backend.to_vec(&vae.decode(&backend, &latents).unwrap()).unwrap());
    check("image", &image, golden.values("image"), LIMIT);
    drop((vae, image));
    drop(cache);
    backend.release_memory();

    let (config, weights) = open(&folder, "unet");
    let cache = LayerCache::default();
    let loader = Loader::new(&backend, weights, &cache);
    let unet = timed("load UNet", || UNet2DConditionModel::load(&loader, &config).unwrap());
    let (sample, prompt) =
        (golden.tensor(&backend, "sample"), golden.tensor(&backend, "encoder_hidden_states"));
    let run = |what: &str, entries: std::ops::Range<usize>| {
        let pick = |x| backend.images(x, entries.start, entries.len()).unwrap();
        let (sample, prompt) = (pick(&sample), pick(&prompt));
        let timesteps = &golden.values("timesteps")[entries.clone()];
        timed(what, || {
            let out = unet.forward(&backend, &sample, timesteps, &prompt, &Conditions::default()).unwrap();
            backend.to_vec(&out).unwrap()
        })
    };
    let both = run("UNet, batch 2", 0..2);
    check("unet", &both, golden.values("unet"), LIMIT);
    let alone = [run("UNet, batch 1", 0..1), run("UNet, batch 1", 1..2)].concat();
    let same = both.iter().zip(&alone).all(|(a, b)| a.to_bits() == b.to_bits());
    assert!(same, "an entry alone differs from itself in a batch");
}
