//! `AutoencoderKL` against diffusers, for tiny random models.

mod random_weights;

use random_weights::{Change, Golden, relative_error};
use reverie_kernels::{Backend, cpu::CpuBackend};
use reverie_models::{
    AutoencoderKLConfig, Error, LayerCache, Loader,
    vae::{AutoencoderKL, Tiling},
};

type Case = Golden<AutoencoderKLConfig>;

/// Sums in another order than PyTorch's, and Winograd's convolutions; what is measured is below 1e-5.
const LIMIT: f32 = 3e-5;

fn open(name: &str) -> (Case, CpuBackend, AutoencoderKL<CpuBackend>) {
    let golden = Case::open("vae", name);
    let backend = CpuBackend::new(2);
    let cache = LayerCache::default();
    let loader = Loader::new(&backend, golden.weights.clone(), &cache);
    let vae = AutoencoderKL::load(&loader, &golden.config).unwrap();
    (golden, backend, vae)
}

#[test]
fn matches_diffusers() {
    for name in ["kl", "kl_bare", "kl_wide"] {
        println!("{name}");
        let (golden, backend, vae) = open(name);
        let posterior = vae.encode(&backend, &golden.tensor(&backend, "image")).unwrap();
        golden.check("mean", posterior.mode(), LIMIT);
        golden.check("logvar", posterior.logvar(), LIMIT);
        golden.check("drawn", &posterior.sample(golden.values("noise")).unwrap(), LIMIT);
        let decoded = vae.decode(&backend, &golden.tensor(&backend, "latents")).unwrap();
        golden.check("decoded", &backend.to_vec(&decoded).unwrap(), LIMIT);
    }
}

#[test]
fn tiles_match_diffusers() {
    let (golden, backend, vae) = open("kl_tiled");
    let tiling = vae.default_tiling();
    assert_eq!((tiling.tile_sample_min_size, tiling.tile_latent_min_size), (16, 8));
    let mut calls = Vec::new();
    let latents = golden.tensor(&backend, "latents");
    let mut progress = |done, total| {
        calls.push((done, total));
        Ok(())
    };
    let decoded = vae.tiled_decode(&backend, &latents, &tiling, &mut progress).unwrap();
    golden.check("decoded", &backend.to_vec(&decoded).unwrap(), LIMIT);
    // 20 by 14 latents in steps of 6.
    assert_eq!(calls, (0..=12).map(|done| (done, 12)).collect::<Vec<_>>());

    let image = golden.tensor(&backend, "image");
    let posterior = vae.tiled_encode(&backend, &image, &tiling, &mut |_, _| Ok(())).unwrap();
    golden.check("mean", posterior.mode(), LIMIT);
    golden.check("logvar", posterior.logvar(), LIMIT);
}

#[test]
fn one_tile_is_the_whole() {
    let (golden, backend, vae) = open("kl");
    let latents = golden.tensor(&backend, "latents");
    let tiled = vae.tiled_decode(&backend, &latents, &Tiling::new(128, 2), &mut |_, _| Ok(())).unwrap();
    assert_eq!(relative_error(&backend.to_vec(&tiled).unwrap(), golden.values("decoded")).max(LIMIT), LIMIT);
}

#[test]
fn tiles_can_be_cancelled() {
    let (golden, backend, vae) = open("kl_tiled");
    let mut tiles = 0;
    let mut progress = |done, _| {
        tiles = done;
        if done == 3 { Err(Error::Invalid("cancelled".into())) } else { Ok(()) }
    };
    let latents = golden.tensor(&backend, "latents");
    let result = vae.tiled_decode(&backend, &latents, &vae.default_tiling(), &mut progress);
    assert!(matches!(result, Err(Error::Invalid(message)) if message == "cancelled"));
    assert_eq!(tiles, 3);
}

#[test]
fn tiles_that_would_tear_are_refused() {
    let (golden, backend, vae) = open("kl_tiled");
    let latents = golden.tensor(&backend, "latents");
    for (pixels, latent, overlap) in
        [(16, 8, 1.0), (16, 8, -0.5), (16, 8, f64::NAN), (2, 1, 0.5), (18, 9, 0.25)]
    {
        let tiling = Tiling {
            tile_sample_min_size: pixels,
            tile_latent_min_size: latent,
            tile_overlap_factor: overlap,
        };
        let result = vae.tiled_decode(&backend, &latents, &tiling, &mut |_, _| Ok(()));
        assert!(matches!(result, Err(Error::Invalid(_))), "{tiling:?}");
    }
}

#[test]
fn decoder_alone_makes_the_same_pictures() {
    let (golden, backend, whole) = open("kl");
    let cache = LayerCache::default();
    let loader = Loader::new(&backend, golden.weights.clone(), &cache);
    let decoder = AutoencoderKL::load_decoder(&loader, &golden.config).unwrap();
    let latents = golden.tensor(&backend, "latents");
    let [first, second] =
        [&whole, &decoder].map(|vae| backend.to_vec(&vae.decode(&backend, &latents).unwrap()).unwrap());
    assert_eq!(first, second);
    let result = decoder.encode(&backend, &golden.tensor(&backend, "image"));
    assert!(matches!(result, Err(Error::Invalid(message)) if message.contains("without its encoder")));
}

#[test]
fn noise_of_another_length_is_refused() {
    let (golden, backend, vae) = open("kl");
    let posterior = vae.encode(&backend, &golden.tensor(&backend, "image")).unwrap();
    assert!(matches!(posterior.sample(&[0.0; 3]), Err(Error::Invalid(message)) if message.contains("768")));
}

#[test]
fn configurations_that_are_not_supported_are_named() {
    let golden = Case::open("vae", "kl");
    let backend = CpuBackend::new(1);
    let cache = LayerCache::default();
    let cases: &[Change<AutoencoderKLConfig>] = &[
        ("down_block_types", &|c| c.down_block_types[0] = "AttnDownEncoderBlock2D".into()),
        ("up_block_types", &|c| c.up_block_types.truncate(1)),
        ("block_out_channels", &|c| {
            c.block_out_channels.clear();
            c.down_block_types.clear();
            c.up_block_types.clear();
        }),
        ("norm_num_groups", &|c| c.norm_num_groups = 0),
        ("act_fn", &|c| c.act_fn = "relu".into()),
    ];
    for (key, change) in cases {
        let mut config = golden.config.clone();
        change(&mut config);
        let loader = Loader::new(&backend, golden.weights.clone(), &cache);
        match AutoencoderKL::load(&loader, &config) {
            Err(Error::Unsupported(message)) => {
                assert!(message.contains(key) && message.contains("accepted"), "{message}");
            }
            Err(other) => panic!("{key}: {other}"),
            Ok(_) => panic!("{key}: is loaded"),
        }
    }
}
