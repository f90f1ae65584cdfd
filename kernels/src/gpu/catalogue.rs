//! The PTX files, and the variants of them that are used.

use std::fmt;

use super::{ops, template};
use crate::error::{Error, Result};

/// A file of `kernels/ptx` with values for its constants.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Variant {
    /// The file's name without `.ptx`.
    pub file: &'static str,
    /// What its directives refer to; see the head of the file.
    pub constants: Vec<(&'static str, i64)>,
    /// Bytes of `.extern .shared` memory that it is launched with.
    pub shared: u32,
}

impl Variant {
    pub(super) fn new(file: &'static str, constants: &[(&'static str, i64)]) -> Self {
        Self { file, constants: constants.to_vec(), shared: 0 }
    }

    /// With so many bytes of `.extern .shared` memory.
    pub(super) fn with_shared(self, bytes: usize) -> Self {
        Self { shared: bytes as u32, ..self }
    }

    /// Whether only devices of compute capability 9.0 can run it: it has instructions of sm_90a.
    pub fn needs_sm_90a(&self) -> bool {
        self.file == "attention_wgmma"
    }

    /// What the assembler gets.
    ///
    /// # Errors
    /// [`Error::Device`] for a file or constants that do not exist.
    pub fn ptx(&self) -> Result<String> {
        let wrong = |what: String| Error::Device { device: format!("{}.ptx", self.file), what, lost: false };
        let source = SOURCES.iter().find(|(name, _)| *name == self.file);
        let (_, text) = source.ok_or_else(|| wrong("no such file".into()))?;
        template::expand(text, &self.constants, SOURCES).map_err(wrong)
    }
}

impl fmt::Display for Variant {
    /// Such as `gemm BM=128 BN=64`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.file)?;
        self.constants.iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))
    }
}

macro_rules! sources {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../ptx/", $name, ".ptx")))),*]
    };
}

const SOURCES: &[(&str, &str)] = sources![
    "activation",
    "attention",
    "attention_any",
    "attention_load",
    "attention_mma",
    "attention_rows",
    "attention_top",
    "attention_wgmma",
    "attention_wgmma_bring",
    "attention_wgmma_scores",
    "attention_wgmma_sums",
    "attention_wgmma_wait",
    "attention_wgmma_weights",
    "ceiling",
    "combine",
    "copies",
    "elementwise",
    "embedding",
    "gemm",
    "gemm_columns",
    "gemm_fetch",
    "gemm_finish",
    "gemm_fragments",
    "gemm_residual",
    "gemm_sum",
    "group_norm",
    "layer_norm",
    "layout",
    "load_halves",
    "pixel_shuffle",
    "pixels",
    "resize",
    "resize_planes",
    "store_halves",
    "timesteps",
    "warp_sum",
];

/// Every variant that [`GpuBackend`](super::GpuBackend) or [`ceiling`](super::ceiling) may launch, for what checks or assembles them all.
pub fn variants() -> Vec<Variant> {
    [
        ops::attention::variants(),
        ops::ceiling::variants(),
        ops::combine::variants(),
        ops::conv2d::variants(),
        ops::copies::variants(),
        ops::elementwise::variants(),
        ops::embedding::variants(),
        ops::layout::variants(),
        ops::linear::variants(),
        ops::norm::variants(),
        ops::pixel_shuffle::variants(),
        ops::pixels::variants(),
        ops::resize::variants(),
        ops::timesteps::variants(),
    ]
    .concat()
}
