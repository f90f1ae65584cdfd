//! Tensor files: the text of a header, a line of `---`, and data. An input that begins with a 0 is the file itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use reverie_fuzz::{folder, parts, write};
use reverie_models::{Lora, ModelFiles, Weights};

fuzz_target!(|input: &[u8]| {
    let folder = folder();
    let path = folder.path().join("model.safetensors");
    match input.strip_prefix(b"\0") {
        Some(raw) => write(&path, raw),
        None => {
            let [header, data] = parts::<2>(input);
            write(&path, &[&(header.len() as u64).to_le_bytes(), header, data].concat());
        }
    }
    let _ = (Lora::open(&path).is_ok(), ModelFiles::open(&path).is_ok(), ModelFiles::open_vae(&path).is_ok());
    let Ok(weights) = Weights::open(&[&path]) else { return };
    weights.resident_bytes();
    for name in weights.names().map(str::to_owned).collect::<Vec<_>>() {
        let shape = weights.shape(&name).expect("a name of the file").to_vec();
        let Ok(values) = weights.values(&name) else { continue };
        assert_eq!(values.len(), shape.iter().product::<usize>());
        assert!(values.iter().all(|value| value.is_finite()));
        weights.check_values(&name).expect("was read");
        weights.layer(&name, &shape).expect("was read");
        let _ = (weights.row(&name, 0), weights.row(&name, usize::MAX));
    }
});
