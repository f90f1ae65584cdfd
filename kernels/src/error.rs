//! What can be wrong with a request to a backend.

use crate::backend::{Conv2dDesc, Shape};
use crate::numerics::NotFinite;

/// The result of a tensor operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation was refused. Every variant carries the shapes or sizes that were wrong.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor needs at least one element along every axis, and few enough in all to be addressed.
    #[error("shape {shape:?} has an empty axis or too many elements")]
    InvalidShape {
        /// N, C, H, W as asked for.
        shape: Shape,
    },
    /// The number of values does not match the shape.
    #[error("shape {shape:?} needs {expected} values, got {actual}")]
    DataLength {
        /// N, C, H, W as asked for.
        shape: Shape,
        /// The product of the axes.
        expected: usize,
        /// How many values were given.
        actual: usize,
    },
    /// A convolution that cannot exist: no channels, an even kernel, or no stride.
    #[error("invalid convolution {desc:?}: channels and stride must be positive and the kernel odd")]
    InvalidConv {
        /// The description that was refused.
        desc: Conv2dDesc,
    },
    /// Weights, biases or activation slopes of the wrong length.
    #[error("{what} needs {expected} values, got {actual}")]
    ParameterLength {
        /// Which parameter.
        what: &'static str,
        /// How many values the description asks for.
        expected: usize,
        /// How many were given.
        actual: usize,
    },
    /// The input has another number of channels than the convolution.
    #[error("convolution over {expected} channels, input is {shape:?}")]
    ConvChannels {
        /// The input channels of the convolution.
        expected: usize,
        /// The input's shape.
        shape: Shape,
    },
    /// The padded input is smaller than the kernel (or too large to be addressed).
    #[error(
        "input {shape:?} does not fit {desc:?}: smaller than the kernel, or padded past what can be addressed"
    )]
    ConvInputTooSmall {
        /// The input's shape.
        shape: Shape,
        /// The convolution.
        desc: Conv2dDesc,
    },
    /// Two operands whose shapes must agree do not.
    #[error("{operation}: shapes {left:?} and {right:?} do not match")]
    ShapeMismatch {
        /// The operation.
        operation: &'static str,
        /// The first operand (or what was expected).
        left: Shape,
        /// The second operand.
        right: Shape,
    },
    /// Pixel shuffle needs a positive factor whose square divides the channels.
    #[error("pixel shuffle by {factor} cannot split the channels of {shape:?}")]
    PixelShuffle {
        /// The input's shape.
        shape: Shape,
        /// The upscaling factor.
        factor: usize,
    },
    /// Concatenation of nothing.
    #[error("concat needs at least one tensor")]
    NothingToConcat,
    /// A combination of nothing.
    #[error("combine needs at least one term")]
    NothingToCombine,
    /// Attention whose heads do not share the features evenly.
    #[error("{heads} heads cannot share {features} features evenly")]
    Heads {
        /// How many heads were asked for.
        heads: usize,
        /// The features of a token.
        features: usize,
    },
    /// Group normalisation whose groups do not share the channels evenly.
    #[error("{groups} groups cannot share the channels of {shape:?} evenly")]
    Groups {
        /// How many groups were asked for.
        groups: usize,
        /// The input's shape.
        shape: Shape,
    },
    /// A row past the end of a table.
    #[error("row {index} of a table of {count} rows")]
    Row {
        /// The row that was asked for.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// A row of a table that its owner can't give any more.
    #[error("{reason}")]
    Rows {
        /// The owner's words.
        reason: String,
    },
    /// An operation gave what is no number.
    #[error(transparent)]
    NotFinite(Box<NotFinite>),
    /// A tensor or a layer of another backend.
    #[error("a tensor or a layer belongs to another device")]
    OtherDevice,
    /// The device has no room, even after what is kept for later was given back.
    #[error("{device}: no memory left for {what} (the budget is {budget} bytes)")]
    OutOfMemory {
        /// The device in words.
        device: String,
        /// What was asked for: so many bytes, or something that the driver keeps there beside what the budget counts.
        what: String,
        /// Bytes that this process may hold there in buffers.
        budget: usize,
    },
    /// The device or its driver failed.
    #[error("{device}: {what}")]
    Device {
        /// The device in words.
        device: String,
        /// The driver's words.
        what: String,
        /// Whether the device is gone for this process: nothing will run on it any more.
        lost: bool,
    },
}
