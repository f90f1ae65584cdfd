//! Reading safetensors: every tensor becomes f32, and what is missing or misshapen is named.

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};

/// Why weights can't be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WeightsError {
    #[error("{file} is not a safetensors file: {reason}")]
    Format { file: String, reason: String },
    #[error("{file} has no tensor '{name}'")]
    Missing { file: String, name: String },
    #[error("{file}: tensor '{name}' has the shape {actual:?}, expected {expected}")]
    Shape { file: String, name: String, actual: Vec<usize>, expected: String },
    #[error("{file}: tensor '{name}' is {dtype}; accepted are F32, F16 and BF16")]
    Dtype { file: String, name: String, dtype: String },
    #[error("{file} holds no network that is known: {reason}")]
    Unknown { file: String, reason: String },
    #[error("{file}: {source}")]
    Backend { file: String, source: reverie_kernels::Error },
}

/// An opened file.
pub struct Weights<'a> {
    /// Its name, for messages.
    pub file: String,
    tensors: SafeTensors<'a>,
    /// What every name begins with: BasicSR's checkpoints wrap their tensors in `params` or `params_ema`.
    prefix: &'static str,
    metadata: std::collections::HashMap<String, String>,
}

impl<'a> Weights<'a> {
    /// # Errors
    /// [`WeightsError::Format`].
    pub fn parse(file: &str, bytes: &'a [u8]) -> Result<Self, WeightsError> {
        let format = |e: safetensors::SafeTensorError| WeightsError::Format {
            file: file.into(),
            reason: e.to_string(),
        };
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(format)?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let tensors = SafeTensors::deserialize(bytes).map_err(format)?;
        let has = |prefix: &str| tensors.names().iter().any(|name| name.starts_with(prefix));
        let prefix = ["params_ema.", "params."].into_iter().find(|prefix| has(prefix)).unwrap_or("");
        Ok(Self { file: file.into(), tensors, prefix, metadata })
    }

    /// An entry of the file's metadata.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    pub fn has(&self, name: &str) -> bool {
        self.tensors.tensor(&format!("{}{name}", self.prefix)).is_ok()
    }

    /// The shape of a tensor.
    ///
    /// # Errors
    /// [`WeightsError::Missing`].
    pub fn shape(&self, name: &str) -> Result<Vec<usize>, WeightsError> {
        Ok(self.view(name)?.shape().to_vec())
    }

    /// Checks that a tensor is there, of exactly this shape and of a type that can be read, without reading it.
    ///
    /// # Errors
    /// [`WeightsError::Missing`], [`WeightsError::Shape`], [`WeightsError::Dtype`].
    pub fn check(&self, name: &str, shape: &[usize]) -> Result<(), WeightsError> {
        let view = self.view(name)?;
        if view.shape() != shape {
            return Err(WeightsError::Shape {
                file: self.file.clone(),
                name: name.into(),
                actual: view.shape().to_vec(),
                expected: format!("{shape:?}"),
            });
        }
        match view.dtype() {
            Dtype::F32 | Dtype::F16 | Dtype::BF16 => Ok(()),
            dtype => Err(self.wrong_dtype(name, dtype)),
        }
    }

    /// The values of a tensor of exactly this shape.
    ///
    /// # Errors
    /// Those of [`Weights::check`].
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightsError> {
        self.check(name, shape)?;
        let view = self.view(name)?;
        let data = view.data();
        let halves = || data.chunks_exact(2).map(|b| [b[0], b[1]]);
        match view.dtype() {
            Dtype::F32 => {
                Ok(data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
            }
            Dtype::F16 => Ok(halves().map(|b| f16::from_le_bytes(b).to_f32()).collect()),
            Dtype::BF16 => Ok(halves().map(|b| bf16::from_le_bytes(b).to_f32()).collect()),
            dtype => Err(self.wrong_dtype(name, dtype)),
        }
    }

    /// The shape `[out, in, 3, 3]` of a convolution's weights.
    ///
    /// # Errors
    /// [`WeightsError::Missing`], [`WeightsError::Shape`].
    pub fn conv3x3(&self, name: &str) -> Result<(usize, usize), WeightsError> {
        match self.shape(&format!("{name}.weight"))?[..] {
            [out, input, 3, 3] => Ok((out, input)),
            ref actual => Err(WeightsError::Shape {
                file: self.file.clone(),
                name: format!("{name}.weight"),
                actual: actual.to_vec(),
                expected: "[out, in, 3, 3]".into(),
            }),
        }
    }

    pub fn backend_error(&self, source: reverie_kernels::Error) -> WeightsError {
        WeightsError::Backend { file: self.file.clone(), source }
    }

    pub fn unknown(&self, reason: impl Into<String>) -> WeightsError {
        WeightsError::Unknown { file: self.file.clone(), reason: reason.into() }
    }

    fn wrong_dtype(&self, name: &str, dtype: Dtype) -> WeightsError {
        WeightsError::Dtype { file: self.file.clone(), name: name.into(), dtype: format!("{dtype:?}") }
    }

    fn view(&self, name: &str) -> Result<safetensors::tensor::TensorView<'_>, WeightsError> {
        self.tensors
            .tensor(&format!("{}{name}", self.prefix))
            .map_err(|_| WeightsError::Missing { file: self.file.clone(), name: name.into() })
    }
}
