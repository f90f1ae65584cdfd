//! Batches in as few parts as the device can take: it limits how many values a tensor has.

use reverie_kernels::Backend;

use crate::{
    config::AutoencoderKLConfig,
    error::{Error, Result},
};

/// How large the activations of an encoder or a decoder become.
pub(super) struct Activations {
    /// The most channels at the picture's size, at half of it, at a quarter, and so on.
    channels: Vec<usize>,
    /// Rows and columns of zeros at the right and at the bottom.
    padding: usize,
}

impl Activations {
    /// A stage begins with the channels of the one before it.
    pub(super) fn of_decoder(config: &AutoencoderKLConfig) -> Self {
        let widths = &config.block_out_channels;
        let level = |i: usize| widths[i].max(widths.get(i + 1).copied().unwrap_or(config.latent_channels));
        let mut channels: Vec<usize> = (0..widths.len()).map(level).collect();
        channels[0] = channels[0].max(config.out_channels);
        Self { channels, padding: 0 }
    }

    /// The same. Before it is halved, an image is padded.
    pub(super) fn of_encoder(config: &AutoencoderKLConfig) -> Self {
        let widths = &config.block_out_channels;
        let level = |i: usize| widths[i].max(if i == 0 { config.in_channels } else { widths[i - 1] });
        let mut channels: Vec<usize> = (0..widths.len()).map(level).collect();
        let last = channels.len() - 1;
        channels[last] = channels[last].max(2 * config.latent_channels);
        Self { channels, padding: 1 }
    }

    /// The most values of an activation for a picture of so many rows and columns.
    fn values(&self, [rows, columns]: [usize; 2]) -> usize {
        let side = |pixels: usize, level: usize| (pixels >> level) + self.padding;
        let values = |(level, channels): (usize, &usize)| {
            channels.saturating_mul(side(rows, level)).saturating_mul(side(columns, level))
        };
        self.channels.iter().enumerate().map(values).max().unwrap_or(0)
    }

    /// Whether the device can take a picture of so many rows and columns by itself: its tensors can be as large, and its memory
    /// holds them.
    pub(super) fn fit<B: Backend>(&self, backend: &B, size: [usize; 2]) -> bool {
        let values = self.values(size);
        values <= backend.most_values() && (is_small(size) || has_room(backend, values))
    }

    /// Applies `work` to the batch `x`, from or to pictures of `size`, in parts that the device can take, and joins what it
    /// returns.
    ///
    /// # Errors
    /// Those of `work` and of the device; [`Error::Invalid`] where it can't take a single one.
    pub(super) fn run<B: Backend>(
        &self,
        backend: &B,
        x: &B::Tensor,
        size: [usize; 2],
        work: impl Fn(&B::Tensor) -> Result<B::Tensor>,
    ) -> Result<B::Tensor> {
        let (images, values, most) = (backend.shape(x)[0], self.values(size), backend.most_values());
        let together = most / values.max(1);
        if together >= images {
            return work(x);
        }
        if together == 0 {
            let [rows, columns] = size;
            return Err(Error::Invalid(format!(
                "a picture of {columns}x{rows} pixels needs {values} values at once in the VAE, and {} takes {most}: it must be \
                 done in tiles, or in smaller ones",
                backend.name()
            )));
        }
        let part = |first| work(&backend.images(x, first, together.min(images - first))?);
        let parts = (0..images).step_by(together).map(part).collect::<Result<Vec<_>>>()?;
        Ok(backend.stack(&parts.iter().collect::<Vec<_>>())?)
    }
}

/// Pictures of up to 1024x1024 pixels, which are tried whatever the memory.
fn is_small([rows, columns]: [usize; 2]) -> bool {
    rows.saturating_mul(columns) <= 1 << 20
}

/// Whether half of the free memory, where it is known, holds all that there is at a time: the activation, what becomes of it,
/// what is added to it, and a convolution's working memory.
fn has_room<B: Backend>(backend: &B, values: usize) -> bool {
    const AT_A_TIME: u64 = 4;
    let needed = (values as u64).saturating_mul(AT_A_TIME * size_of::<f32>() as u64);
    backend.free_memory().is_some_and(|free| needed <= free / 2)
}

#[cfg(test)]
mod tests {
    use reverie_kernels::cpu::CpuBackend;

    use super::*;

    #[test]
    fn large_pictures_are_whole_where_memory_holds_them() {
        let config = AutoencoderKLConfig {
            block_out_channels: vec![128, 256, 512, 512],
            ..AutoencoderKLConfig::default()
        };
        let backend = CpuBackend::new(1);
        let wide = Activations::of_decoder(&config);
        assert!(wide.fit(&backend, [1024, 1024]));
        // 16 TiB for an activation.
        assert!(!wide.fit(&backend, [1 << 17, 1 << 17]));
        if backend.free_memory().is_some_and(|free| free > 1 << 30) {
            let narrow = AutoencoderKLConfig { block_out_channels: vec![4, 8, 8, 8], ..config };
            assert!(Activations::of_decoder(&narrow).fit(&backend, [1032, 1024]));
        }
    }

    /// SDXL's, at 1024 by 1024: the last but one stage hands 256 channels on to the last at the picture's size. Eight of them are
    /// 2^31 values, one more than a GPU's tensors have.
    #[test]
    fn widest_activations() {
        let config = AutoencoderKLConfig {
            block_out_channels: vec![128, 256, 512, 512],
            ..AutoencoderKLConfig::default()
        };
        assert_eq!(Activations::of_decoder(&config).values([1024, 1024]), 256 << 20);
        assert_eq!(Activations::of_encoder(&config).values([1024, 1024]), 128 * 1025 * 1025);
        // Nothing overflows.
        assert_eq!(Activations::of_decoder(&config).values([usize::MAX; 2]), usize::MAX);
    }
}
