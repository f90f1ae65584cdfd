//! What can be wrong with a model or with what is asked of it.

/// The result of loading or running a model.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a model can't be loaded or run.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file that can't be read.
    #[error("{file}: {reason}")]
    File {
        /// Its path.
        file: String,
        /// What the system or the parser said.
        reason: String,
    },
    /// A file that was written to, or cut short, since it was opened. What was read of it before is right; the rest is gone.
    #[error("{file}: has changed since it was opened; load the model again")]
    Changed {
        /// Its path.
        file: String,
    },
    /// A tensor that the model needs and the checkpoint lacks.
    #[error("{file} has no tensor '{name}'")]
    Missing {
        /// The checkpoint.
        file: String,
        /// The full name.
        name: String,
    },
    /// A tensor of another shape than the model's configuration asks for.
    #[error("{file}: tensor '{name}' has the shape {actual:?}, expected {expected:?}")]
    Shape {
        /// The checkpoint.
        file: String,
        /// The full name.
        name: String,
        /// As the checkpoint has it.
        actual: Vec<usize>,
        /// As the model needs it.
        expected: Vec<usize>,
    },
    /// A tensor of a type that is not read.
    #[error("{file}: tensor '{name}' is {dtype}; accepted are F32, F16 and BF16")]
    Dtype {
        /// The checkpoint.
        file: String,
        /// The full name.
        name: String,
        /// The type, as safetensors writes it.
        dtype: String,
    },
    /// A part of a model that made values which are not numbers: there is no picture in them.
    #[error("{part} of {file} made values that are not numbers (NaN or infinite){when}")]
    NotFinite {
        /// As `the UNet`.
        part: &'static str,
        /// The checkpoint.
        file: String,
        /// As ` at step 7 of 20`; empty for what is done once.
        when: String,
    },
    /// A model or a setting that is not supported.
    #[error("{0}")]
    Unsupported(String),
    /// A request that can't be: the message names the field and what is accepted.
    #[error("{0}")]
    Invalid(String),
    /// The device refused.
    #[error(transparent)]
    Backend(#[from] reverie_kernels::Error),
}
