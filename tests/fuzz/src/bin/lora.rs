//! LoRAs for a small network: a list of tensors (see [`reverie_fuzz::listed`]) is made into a file, matched
//! and applied.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use reverie_fuzz::{checkpoint, folder, listed};
use reverie_kernels::{Activation, Conv2dDesc, cpu::CpuBackend};
use reverie_models::{Adapters, LayerCache, Loader, Lora, Target, Weights};

const LINEAR: &str = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q";
const CONV: &str = "down_blocks.0.resnets.0.conv1";

static BASE: LazyLock<Weights> = LazyLock::new(|| {
    let folder = folder();
    let path = folder.path().join("base.safetensors");
    let list = format!("{LINEAR}.weight F16 8 4\n{CONV}.weight F16 6 4 3 3\n");
    checkpoint(&path, &listed(&list).expect("a list"), 1 << 20).expect("small");
    Weights::open(&[&path]).expect("the base")
});

fuzz_target!(|list: &str| {
    let folder = folder();
    let path = folder.path().join("lora.safetensors");
    let Some(()) = listed(list).and_then(|tensors| checkpoint(&path, &tensors, 16 << 20)) else { return };
    let Ok(lora) = Lora::open(&path) else { return };
    let lora = Arc::new(lora);
    let Ok(adapters) = Adapters::new(&[(Target::Unet, &BASE)], &[(lora.clone(), 1.0), (lora, -0.5)]) else {
        return;
    };
    let (backend, cache) = (CpuBackend::new(1), LayerCache::default());
    let loader = Loader::new(&backend, BASE.clone(), &cache).with_adapters(adapters.component(Target::Unet));
    let _ = loader.linear(LINEAR, 4, 8);
    let _ = loader.conv2d(CONV, Conv2dDesc::same(4, 6, 3), Activation::None);
});
