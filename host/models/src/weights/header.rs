//! The header of a safetensors file: its length in 8 bytes, then JSON.

use safetensors::tensor::Metadata;

use super::source::Source;
use crate::error::{Error, Result};

/// The bytes that a header's length takes.
const PREFIX: u64 = 8;
/// The longest header that is read. Those of the largest models, with all that trainers write into them, have a tenth of it; in
/// memory a header takes several times as much.
const LONGEST: u64 = 16 << 20;

/// The header of a file, and the byte at which its data begin. All tensors lie within the file, one after the other, and have
/// the lengths of their shapes.
///
/// # Errors
/// [`Error::Unsupported`] for what is no safetensors file, or only a part of one; [`Error::File`] and [`Error::Changed`].
pub(super) fn read(source: &Source, file: &str) -> Result<(u64, Metadata)> {
    let refused = |reason: &dyn std::fmt::Display| {
        Error::Unsupported(format!(
            "{file}: is not a safetensors file, or is incomplete: {reason}; accepted are whole .safetensors files"
        ))
    };
    if source.len() < PREFIX {
        return Err(refused(&format_args!("it has {} bytes", source.len())));
    }
    let mut prefix = [0; PREFIX as usize];
    source.read(&mut prefix, 0)?;
    let len = u64::from_le_bytes(prefix);
    if len > LONGEST {
        return Err(refused(&format_args!("a header of {len} bytes, where at most {LONGEST} are accepted")));
    }
    let data = PREFIX + len;
    if data > source.len() {
        return Err(refused(&format_args!("a header of {len} bytes in a file of {}", source.len())));
    }
    let mut json = vec![0; len as usize];
    source.read(&mut json, PREFIX)?;
    // What is wrong may be so because it was changed meanwhile.
    source.check_unchanged()?;
    let header: Metadata = serde_json::from_slice(&json).map_err(|e| refused(&e))?;
    if data + header.data_len() as u64 != source.len() {
        let tensors = header.data_len();
        return Err(refused(&format_args!("{tensors} bytes of tensors in a file of {}", source.len())));
    }
    Ok((data, header))
}
