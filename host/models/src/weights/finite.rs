//! Whether stored values are numbers, without making any of them.

use reverie_kernels::Format;

/// Whether none of the values, in the order of the file, is infinite or NaN: these have all bits of the exponent set.
pub(super) fn are_finite(format: Format, bytes: &[u8]) -> bool {
    /// Whole blocks are looked at before it is asked whether one was found, so that the loop is one over vectors.
    const BLOCK: usize = 4096;
    let block = |bytes: &[u8]| match format {
        Format::F32 => {
            let (values, _) = bytes.as_chunks::<4>();
            values
                .iter()
                .fold(true, |all, value| all & (u32::from_le_bytes(*value) & 0x7f80_0000 != 0x7f80_0000))
        }
        Format::F16 => halves_are_finite(bytes, 0x7c00),
        Format::Bf16 => halves_are_finite(bytes, 0x7f80),
    };
    bytes.chunks(BLOCK).all(block)
}

fn halves_are_finite(bytes: &[u8], exponent: u16) -> bool {
    let (values, _) = bytes.as_chunks::<2>();
    values.iter().fold(true, |all, value| all & (u16::from_le_bytes(*value) & exponent != exponent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_is_found_anywhere() {
        for (format, bad, largest) in [
            (Format::F32, f32::NAN.to_le_bytes().to_vec(), f32::MAX.to_le_bytes().to_vec()),
            (Format::F32, f32::NEG_INFINITY.to_le_bytes().to_vec(), f32::MIN.to_le_bytes().to_vec()),
            (Format::F16, 0xfc00u16.to_le_bytes().to_vec(), 0x7bffu16.to_le_bytes().to_vec()),
            (Format::Bf16, 0x7fc0u16.to_le_bytes().to_vec(), 0xff7fu16.to_le_bytes().to_vec()),
        ] {
            let size = bad.len();
            let mut bytes = largest.repeat(5000);
            assert!(are_finite(format, &bytes));
            for index in [0, 1023, 1024, 2047, 2048, 4999] {
                let place = index * size..(index + 1) * size;
                bytes[place.clone()].copy_from_slice(&bad);
                assert!(!are_finite(format, &bytes), "{format:?} {index}");
                bytes[place].copy_from_slice(&largest);
            }
        }
    }
}
