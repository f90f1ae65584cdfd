//! `AutoencoderKL` where fp16 can't hold its activations, and where the device can't take a batch at once. The kernels that a GPU
//! runs are here in the PTX interpreter.

#[allow(dead_code, reason = "the kernels' tests use the rest")]
#[path = "../../../kernels/tests/gpu/interpreted.rs"]
mod interpreted;
mod random_weights;

use random_weights::{Golden, relative_error, uniform};
use reverie_kernels::{Backend, Numerics, Shape, cpu::CpuBackend};
use reverie_models::{
    AutoencoderKLConfig, Error, LayerCache, Loader, Result,
    vae::{AutoencoderKL, DiagonalGaussianDistribution},
};

type Case = Golden<AutoencoderKLConfig>;

const LATENTS: Shape = [1, 4, 4, 4];
const PICTURE: Shape = [1, 3, 8, 8];

/// What is kept of the activations by the GPU.
const FRACTION: f32 = 1.0 / 32.0;

/// A model whose activations are this many times what is usual, and in the last stages eight times that, as SDXL's grow there.
/// The residual stream begins with `conv_in` and takes in what the second convolutions and the attention give; what goes from
/// the stream to the stream is as it was.
fn grown(times: f64) -> Case {
    let writes = ["conv_in.", ".conv2.", ".to_out.0."];
    let biases = ["upsamplers.0.conv.bias", "downsamplers.0.conv.bias", "conv_shortcut.bias"];
    Case::open_scaled("vae", "kl", |name| {
        if !writes.iter().chain(&biases).any(|it| name.contains(it)) {
            return 1.0;
        }
        if name.contains("_blocks.1.") { 8.0 * times } else { times }
    })
}

fn tensor<B: Backend>(backend: &B, name: &str, shape: Shape) -> B::Tensor {
    backend.tensor(uniform(name, shape.iter().product(), 1.0, 0.0).collect(), shape).unwrap()
}

/// By the scale that the device asks for, or by this one.
fn load<B: Backend>(backend: &B, case: &Case, scale: Option<f32>) -> AutoencoderKL<B> {
    let cache = LayerCache::default();
    let loader = Loader::new(backend, case.weights.clone(), &cache);
    match scale {
        Some(scale) => AutoencoderKL::load_scaled(&loader, &case.config, scale),
        None => AutoencoderKL::load(&loader, &case.config),
    }
    .unwrap()
}

fn decode<B: Backend>(backend: &B, vae: &AutoencoderKL<B>) -> Result<Vec<f32>> {
    Ok(backend.to_vec(&vae.decode(backend, &tensor(backend, "z", LATENTS))?)?)
}

/// The means, then the logarithms of the variances.
fn encode<B: Backend>(backend: &B, vae: &AutoencoderKL<B>) -> Result<Vec<f32>> {
    let posterior = vae.encode(backend, &tensor(backend, "picture", PICTURE))?;
    Ok([posterior.mode(), posterior.logvar()].concat())
}

/// To the bit, as a power of two changes no rounding: of usual activations, of large ones, and of such as are small enough for
/// the norms' epsilon to count.
#[test]
fn what_is_scaled_gives_the_same() {
    let cpu = CpuBackend::new(1);
    for times in [1.0, 1e4, 1e-3] {
        let case = grown(times);
        let [whole, part] = [1.0, FRACTION].map(|scale| {
            let vae = load(&cpu, &case, Some(scale));
            (decode(&cpu, &vae).unwrap(), encode(&cpu, &vae).unwrap())
        });
        assert!(whole == part, "activations x {times}");
    }
}

/// fp32 holds all of it: there is nothing to scale, whatever the configuration says.
#[test]
fn the_cpu_scales_nothing() {
    let cpu = CpuBackend::new(1);
    let case = Case::open("vae", "kl");
    assert!(case.config.force_upcast);
    let cache = LayerCache::default();
    let loader = Loader::new(&cpu, case.weights.clone(), &cache);
    AutoencoderKL::load_scaled(&loader, &case.config, 1.0).unwrap();
    let layers = cache.len();
    AutoencoderKL::load(&loader, &case.config).unwrap();
    assert_eq!(cache.len(), layers, "what is scaled is another layer");
    AutoencoderKL::load_scaled(&loader, &case.config, FRACTION).unwrap();
    assert!(cache.len() > layers);
}

#[test]
fn activations_that_fp16_cannot_hold() {
    let (cpu, gpu) = (CpuBackend::new(1), interpreted::gpu());
    let mut case = grown(GROWTH);
    let golden = load(&cpu, &case, None);
    let expected = [decode(&cpu, &golden).unwrap(), encode(&cpu, &golden).unwrap()];

    case.config.force_upcast = false;
    let overflows = load(&gpu, &case, None);
    let broken = [decode(&gpu, &overflows).unwrap(), encode(&gpu, &overflows).unwrap()];
    for values in &broken {
        assert!(values.iter().all(|x| x.is_nan()), "these are to pass 65504 somewhere");
    }

    case.config.force_upcast = true;
    let scaled = load(&gpu, &case, None);
    let actual = [decode(&gpu, &scaled).unwrap(), encode(&gpu, &scaled).unwrap()];
    let errors = [0, 1].map(|i| relative_error(&actual[i], &expected[i]));
    println!("decoded {:.1e}, encoded {:.1e}", errors[0], errors[1]);
    assert!(errors.iter().all(|error| *error < LIMIT), "{errors:?}");
}

/// Scaling costs nothing where it was not needed.
#[test]
fn activations_that_fp16_can_hold_lose_nothing() {
    let (cpu, gpu) = (CpuBackend::new(1), interpreted::gpu());
    let case = Case::open("vae", "kl");
    let expected = decode(&cpu, &load(&cpu, &case, None)).unwrap();
    let [unscaled, scaled] = [1.0, FRACTION]
        .map(|scale| relative_error(&decode(&gpu, &load(&gpu, &case, Some(scale))).unwrap(), &expected));
    println!("unscaled {unscaled:.1e}, scaled {scaled:.1e}");
    assert!(unscaled < LIMIT && scaled < LIMIT, "unscaled {unscaled}, scaled {scaled}");
}

#[test]
fn the_first_infinity_names_its_operation() {
    let gpu = Numerics::new(interpreted::gpu(), true);
    let case = grown(GROWTH);
    let Err(Error::Backend(error)) = decode(&gpu, &load(&gpu, &case, Some(1.0))) else {
        panic!("an activation passes 65504, and nobody says so");
    };
    println!("{error}");
    let reverie_kernels::Error::NotFinite(found) = &error else { panic!("{error}") };
    assert_eq!((found.operation, found.nan), ("conv2d_residual", 0));
    assert_eq!(found.inputs, [found.shape; 2]);
    assert!(found.infinite > 0 && found.largest_input <= 65504.0);
    let message = error.to_string();
    assert!(message.contains("force_upcast") && message.contains("conv2d_residual"), "{message}");

    let scaled = load(&gpu, &case, None);
    assert!(decode(&gpu, &scaled).is_ok() && encode(&gpu, &scaled).is_ok());
}

/// Three pictures where the largest tensor may have the values of two.
#[test]
fn batches_are_split_where_the_device_cannot_take_them() {
    let case = Case::open("vae", "kl");
    let batch = |backend: &interpreted::Gpu| {
        let [_, c, h, w] = LATENTS;
        let latents = tensor(backend, "z", [3, c, h, w]);
        let [_, c, h, w] = PICTURE;
        (latents, tensor(backend, "picture", [3, c, h, w]))
    };
    // 32 channels of a picture of 8 by 8 in the decoder; 16 of it with its padding in the encoder.
    for (per_picture, decodes) in [(32 * 8 * 8, true), (16 * 9 * 9, false)] {
        let all = interpreted::gpu();
        let few = interpreted::gpu().with_most_values(2 * per_picture);
        let none = interpreted::gpu().with_most_values(per_picture - 1);
        let result = |gpu: &interpreted::Gpu, parts: &[(usize, usize)]| -> Result<Vec<f32>> {
            let vae = load(gpu, &case, None);
            let (latents, pictures) = batch(gpu);
            let mut values = Vec::new();
            for &(first, count) in parts {
                if decodes {
                    let z = gpu.images(&latents, first, count)?;
                    values.extend(gpu.to_vec(&vae.decode(gpu, &z)?)?);
                } else {
                    let x = gpu.images(&pictures, first, count)?;
                    let posterior: DiagonalGaussianDistribution = vae.encode(gpu, &x)?;
                    values.extend_from_slice(posterior.mode());
                }
            }
            Ok(values)
        };
        // In the same parts, as sums over others are split in other ways.
        let expected = result(&all, &[(0, 2), (2, 1)]).unwrap();
        assert_eq!(result(&few, &[(0, 3)]).unwrap(), expected);
        let vae = load(&none, &case, None);
        let whole = match decodes {
            true => [vae.decodes_whole(&none, 4, 4), load(&few, &case, None).decodes_whole(&few, 4, 4)],
            false => [vae.encodes_whole(&none, 8, 8), load(&few, &case, None).encodes_whole(&few, 8, 8)],
        };
        assert_eq!(whole, [false, true]);
        let error = result(&none, &[(0, 1)]).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("8x8 pixels") && error.contains("tiles"), "{error}");
    }
}

/// The weights of the stream are multiplied by it.
const GROWTH: f64 = 1e4;

/// fp16 rounds by 4.9e-4, some forty times one after the other; what is measured is below 2e-3.
const LIMIT: f32 = 4e-3;
