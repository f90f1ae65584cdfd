//! Single files: which model their tensors are, and its configuration. The first line names a checkpoint of the tests, or none; of the
//! others, one that begins with `-` takes the tensors whose names begin so out of it, and any other is a tensor that is put in: see
//! [`reverie_fuzz::listed`].
#![no_main]

use std::{collections::HashMap, fs, path::Path, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use reverie_fuzz::{Tensors, checkpoint, folder, listed};
use reverie_models::ModelFiles;

static KNOWN: LazyLock<HashMap<&str, Tensors>> =
    LazyLock::new(|| ["sd1", "sd2", "sdxl"].into_iter().map(|name| (name, known(name))).collect());

fn known(name: &str) -> Tensors {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/diffusion/checkpoint");
    let text = fs::read(fixtures.join(format!("{name}.json"))).expect("a checkpoint of the tests");
    let mut about: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    let file: HashMap<String, Vec<u64>> = serde_json::from_value(about["file"].take()).expect("shapes");
    file.into_iter().map(|(name, shape)| (name, ("F16".to_owned(), shape))).collect()
}

fuzz_target!(|input: &str| {
    let (name, lines) = input.split_once('\n').unwrap_or((input, ""));
    let mut tensors = KNOWN.get(name).cloned().unwrap_or_default();
    for line in lines.lines() {
        match line.strip_prefix('-') {
            Some("") => {}
            Some(prefix) => tensors.retain(|name, _| !name.starts_with(prefix)),
            None => match listed(line) {
                Some(more) => tensors.extend(more),
                None => return,
            },
        }
    }
    let folder = folder();
    let path = folder.path().join("model.safetensors");
    let Some(()) = checkpoint(&path, &tensors, 64 << 20) else { return };
    let _ = ModelFiles::open_vae(&path);
    let Ok(files) = ModelFiles::open(&path) else { return };
    let _ = (
        files.resident_bytes(),
        files.default_size(),
        files.is_inpainting(),
        files.is_turbo(),
        files.is_lcm(),
    );
    let _ = files.scheduler_config();
});
