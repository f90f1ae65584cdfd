//! Networks, written once against `Backend`.

mod rrdbnet;
mod samples;
mod srvgg;
mod tiles;
mod upscaler;
mod weights;

pub use rrdbnet::RrdbNet;
pub use srvgg::SrvggNetCompact;
pub use upscaler::{NetworkInfo, Scale, UpscaleError, UpscaleRequest, Upscalers};
pub use weights::{Weights, WeightsError};

/// The job was asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cancelled;

/// What a long computation asks and tells between its tiles.
pub trait Control: Sync {
    /// Called before each tile; may block to share the device.
    ///
    /// # Errors
    /// [`Cancelled`] when the computation shall stop.
    fn before_tile(&self) -> Result<(), Cancelled>;

    /// Called after each tile. `total` counts the tiles of all passes.
    fn tile_done(&self, done: usize, total: usize);
}

/// A network that enlarges RGB pictures.
pub trait Upscale<B: reverie_kernels::Backend>: Send + Sync {
    /// The factor by which each side grows.
    fn scale(&self) -> usize;

    /// How far, in input pixels, an output pixel looks: tiles overlap by this much.
    fn overlap(&self) -> usize;

    /// Enlarges `picture`: N, 3, H, W in 0..1 to N, 3, H·scale, W·scale, not clamped.
    ///
    /// # Errors
    /// Those of the backend.
    fn forward(&self, backend: &B, picture: &B::Tensor) -> reverie_kernels::Result<B::Tensor>;
}
