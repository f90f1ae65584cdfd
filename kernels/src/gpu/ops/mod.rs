//! The host side of each PTX file: which variant, what grid, which parameters.

pub(super) mod attention;
pub mod ceiling;
pub(super) mod combine;
pub(super) mod conv2d;
pub(super) mod copies;
pub(super) mod elementwise;
pub(super) mod embedding;
mod gemm;
pub(super) mod layout;
pub(super) mod linear;
pub(super) mod norm;
mod packing;
pub(super) mod pixel_shuffle;
pub(super) mod pixels;
pub(super) mod resize;
pub(super) mod timesteps;

/// Blocks that `count` values need where a block does `each`.
fn blocks(count: usize, each: usize) -> u32 {
    count.div_ceil(each) as u32
}
