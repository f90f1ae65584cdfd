//! Activations that the device can't hold as they are.
//!
//! SDXL's autoencoder was trained in fp32, and its activations pass fp16's 65504. All that they do until a norm takes their
//! scale away is linear. So the device keeps a fraction of them: what comes from a norm or from outside has its weights
//! multiplied by it, all have their biases, and the norms have their epsilon by its square. What comes out is the same.

use reverie_kernels::Backend;

use crate::config::AutoencoderKLConfig;

/// Above what has been seen in the published autoencoders: some 3e5 in SDXL's decoder.
const LARGEST_ACTIVATION: f32 = (1 << 20) as f32;

/// A power of two, so that nothing but what is below fp16's normal numbers is rounded in another way. 2e6 becomes 65504, and
/// weights of 1 / √(512 · 9), usual in the widest layers, are still 7 times the smallest normal number.
const FRACTION: f32 = 1.0 / 32.0;

/// What activations are multiplied by on this device: 1 where it holds them, or where the model's configuration says that fp16
/// does.
pub(super) fn scale<B: Backend>(backend: &B, config: &AutoencoderKLConfig) -> f32 {
    if config.force_upcast && backend.largest() < LARGEST_ACTIVATION { FRACTION } else { 1.0 }
}
