//! `AutoencoderTiny` against diffusers, for a tiny random model.

mod random_weights;

use random_weights::{Change, Golden};
use reverie_kernels::{Backend, cpu::CpuBackend};
use reverie_models::{AutoencoderTinyConfig, Error, LayerCache, Loader, taesd::AutoencoderTiny};

type Case = Golden<AutoencoderTinyConfig>;

/// Sums in another order than PyTorch's, and Winograd's convolutions; what is measured is below 1e-5.
const LIMIT: f32 = 3e-5;

#[test]
fn matches_diffusers() {
    let golden = Case::open("vae", "tiny");
    let backend = CpuBackend::new(2);
    let cache = LayerCache::default();
    let loader = Loader::new(&backend, golden.weights.clone(), &cache);
    let vae = AutoencoderTiny::load(&loader, &golden.config).unwrap();
    let encoded = vae.encode(&backend, &golden.tensor(&backend, "image")).unwrap();
    golden.check("encoded", &backend.to_vec(&encoded).unwrap(), LIMIT);
    let decoded = vae.decode(&backend, &golden.tensor(&backend, "latents")).unwrap();
    golden.check("decoded", &backend.to_vec(&decoded).unwrap(), LIMIT);

    assert_eq!([-9.0, -3.0, 0.0, 3.0].map(|x| vae.scale_latents(x)), [0.0, 0.0, 0.5, 1.0]);
    assert_eq!([0.0, 0.5, 1.0].map(|x| vae.unscale_latents(x)), [-3.0, 0.0, 3.0]);
}

#[test]
fn configurations_that_are_not_supported_are_named() {
    let golden = Case::open("vae", "tiny");
    let backend = CpuBackend::new(1);
    let cache = LayerCache::default();
    let cases: &[Change<AutoencoderTinyConfig>] = &[
        ("encoder_block_out_channels", &|c| c.encoder_block_out_channels[1] = 32),
        ("decoder_block_out_channels", &|c| c.num_decoder_blocks.clear()),
        ("act_fn", &|c| c.act_fn = "silu".into()),
        ("upsample_fn", &|c| c.upsample_fn = "bilinear".into()),
        ("upsampling_scaling_factor", &|c| c.upsampling_scaling_factor = 0),
    ];
    for (key, change) in cases {
        let mut config = golden.config.clone();
        change(&mut config);
        let loader = Loader::new(&backend, golden.weights.clone(), &cache);
        match AutoencoderTiny::load(&loader, &config) {
            Err(Error::Unsupported(message)) => {
                assert!(message.contains(key) && message.contains("accepted"), "{message}");
            }
            Err(other) => panic!("{key}: {other}"),
            Ok(_) => panic!("{key}: is loaded"),
        }
    }
}
