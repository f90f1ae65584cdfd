use reverie_examine::sinusoids::{NUMBERS, TIMESTEPS, timestep_embedding};
use reverie_kernels::{Backend, Error, Timesteps};

use crate::{gpu, tested};

#[test]
fn sinusoids() {
    let gpu = gpu();
    for timesteps in TIMESTEPS {
        let out = gpu.timestep_embedding(&NUMBERS, NUMBERS.len(), timesteps).unwrap();
        assert_eq!(gpu.shape(&out), [NUMBERS.len(), 1, 1, timesteps.num_channels]);
        let expected = timestep_embedding(&NUMBERS, timesteps);
        for (out, (expected, number)) in gpu.to_vec(&out).unwrap().iter().zip(expected) {
            // The interpreter's functions are exact; of the kernel's error, as its head has it, what remains is that of
            // roundings. And fp16's.
            let [of_number, of_one] = if tested::has_driver() { [3e-7, 8e-7] } else { [7.5e-8, 0.0] };
            let allowed = of_number * number + of_one + 2.5e-4;
            let error = (f64::from(*out) - expected).abs();
            assert!(error <= allowed, "{timesteps:?} of {number} is {out}, not {expected}");
        }
    }
}

/// More threads than a block has, and several numbers for each entry.
#[test]
fn numbers_of_a_batch() {
    let gpu = gpu();
    let values: Vec<f32> = (0..60).map(|i| (i * 37 % 1000) as f32).collect();
    for num_channels in [256, 20] {
        let timesteps = Timesteps { num_channels, flip_sin_to_cos: true, downscale_freq_shift: 0.0 };
        let out = gpu.timestep_embedding(&values, 10, timesteps).unwrap();
        assert_eq!(gpu.shape(&out), [10, 1, 1, 6 * num_channels]);
        let expected = timestep_embedding(&values, timesteps);
        for (out, (expected, number)) in gpu.to_vec(&out).unwrap().iter().zip(expected) {
            assert!((f64::from(*out) - expected).abs() <= 5e-4, "of {number} is {out}, not {expected}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let gpu = gpu();
    let timesteps = Timesteps { num_channels: 8, flip_sin_to_cos: true, downscale_freq_shift: 0.0 };
    let error = |values: &[f32], batch, timesteps| gpu.timestep_embedding(values, batch, timesteps).err();
    let refused = Some(Error::DataLength { shape: [2, 1, 1, 8], expected: 2, actual: 3 });
    assert_eq!(error(&[1.0; 3], 2, timesteps), refused);
    assert_eq!(error(&[], 1, timesteps), Some(Error::InvalidShape { shape: [1, 1, 1, 0] }));
    assert_eq!(error(&[1.0], 0, timesteps), Some(Error::InvalidShape { shape: [0, 1, 1, 0] }));
    let none = Timesteps { num_channels: 0, ..timesteps };
    assert_eq!(error(&[1.0], 1, none), Some(Error::InvalidShape { shape: [1, 1, 1, 0] }));
}
