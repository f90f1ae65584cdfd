//! The configurations of a diffusers folder: of the pipeline, of its UNet, VAE, text encoder and scheduler, and of a dual encoder
//! and its preprocessor. They are for tensors of fixed shapes; a part that is empty is a valid one.
#![no_main]

use std::{fs, path::Path, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use reverie_fuzz::{folder, parts, write};
use reverie_kernels::cpu::CpuBackend;
use reverie_models::{Adapters, LayerCache, ModelFiles, clip::CLIPFiles, pipeline::Pipeline};
use tempfile::TempDir;

const FILES: [&str; 7] = [
    "sd/model_index.json",
    "sd/unet/config.json",
    "sd/vae/config.json",
    "sd/text_encoder/config.json",
    "sd/scheduler/scheduler_config.json",
    "clip_model/config.json",
    "clip_model/preprocessor_config.json",
];

/// Copies of the models, and what their configurations were.
static MODELS: LazyLock<(TempDir, Vec<Vec<u8>>)> = LazyLock::new(|| {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/diffusion");
    let models = folder();
    copy(&fixtures.join("pipelines/sd"), &models.path().join("sd"));
    copy(&fixtures.join("clip_model"), &models.path().join("clip_model"));
    let valid = FILES.map(|file| fs::read(models.path().join(file)).expect("a configuration"));
    (models, valid.to_vec())
});

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("creates");
    for entry in fs::read_dir(from).expect("lists") {
        let (from, to) = entry.map(|entry| (entry.path(), to.join(entry.file_name()))).expect("lists");
        match from.is_dir() {
            true => copy(&from, &to),
            false => write(&to, &fs::read(&from).expect("reads")),
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let (models, valid) = &*MODELS;
    let given = parts::<7>(input);
    for ((file, content), valid) in FILES.into_iter().zip(given).zip(valid) {
        write(&models.path().join(file), if content.is_empty() { valid } else { content });
    }
    let _ = CLIPFiles::open(&models.path().join("clip_model"));
    let Ok(files) = ModelFiles::open(&models.path().join("sd")) else { return };
    let _ = (files.default_size(), files.is_turbo(), files.is_lcm(), files.inpaint_scheduler_config());
    let _ = Pipeline::load(&CpuBackend::new(1), &files, &LayerCache::default(), &Adapters::default());
});
