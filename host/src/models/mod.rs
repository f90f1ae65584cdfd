//! Networks, written once against `Backend`.

mod architecture;
mod hidden;
mod rrdbnet;
mod samples;
mod srvgg;
mod tiles;
mod upscaler;
mod weights;

pub use rrdbnet::RrdbNet;
pub use srvgg::SrvggNetCompact;
pub use upscaler::{
    DEFAULT as DEFAULT_UPSCALER, NetworkInfo, Scale, UpscaleError, UpscaleRequest, Upscalers,
};
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

    /// Makes room on the device where it is full; whether there is more now, so that the tile is tried again.
    fn make_room(&self) -> bool {
        false
    }

    /// Called after each tile. `total` counts the tiles of all passes.
    fn tile_done(&self, done: usize, total: usize);
}

/// A network that enlarges RGB pictures.
pub trait Upscale<B: reverie_kernels::Backend>: Send + Sync {
    /// How far, in input pixels, tiles have to overlap so that a tiled picture equals an untiled one within 1/255.
    fn overlap(&self) -> usize;

    /// Tiles begin and end at multiples of this many input pixels (the picture's own end aside).
    fn grid(&self) -> usize {
        1
    }

    /// Enlarges `picture`: N, 3, H, W in 0..1 to N, 3, H·scale, W·scale, not clamped. `scale` is one of those that the
    /// weights were found to offer.
    ///
    /// # Errors
    /// Those of the backend.
    fn forward(&self, backend: &B, picture: &B::Tensor, scale: usize) -> reverie_kernels::Result<B::Tensor>;
}
