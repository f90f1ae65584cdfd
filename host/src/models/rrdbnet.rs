//! RRDBNet: residual-in-residual dense blocks (Wang et al. 2018, "ESRGAN"), as RealESRGAN_x4plus uses it.

use reverie_kernels::{Activation, Backend, Conv2dDesc, Filter};

use super::{Upscale, Weights, WeightsError};

/// Residuals are scaled by this before they are added.
const RESIDUAL: f32 = 0.2;
const SLOPE: f32 = 0.2;

/// The overlap of tiles for networks of up to [`SHALLOW`] blocks and for deeper ones. The receptive field is hundreds of
/// pixels, but far ones weigh little: on a photograph, tiled and untiled results differ by at most so many steps of 255:
///
/// | overlap | x4plus-anime (6 blocks) | x4plus (23 blocks) |
/// |---|---|---|
/// | 10 | 30 | 38 |
/// | 32 | 6 | 12 |
/// | 64 | 1 | 2 |
/// | 96 | 1 | 1 |
const OVERLAP: [usize; 2] = [64, 96];
const SHALLOW: usize = 8;

/// The rows of features that are enlarged at once. At four times the size a row takes sixteen times the memory; so in
/// strips, the largest tensors stay smaller than those of the dense blocks.
const STRIP: usize = 32;

/// How many rows of features beyond its own a strip needs: three 3x3 convolutions at four times the size and one at twice
/// see 3/4 + 1/2 rows of the features.
const STRIP_MARGIN: usize = 2;

/// Field names are the checkpoint's tensor names.
pub struct RrdbNet<B: Backend> {
    conv_first: B::Conv2d,
    body: Vec<Rrdb<B>>,
    conv_body: B::Conv2d,
    conv_up1: B::Conv2d,
    conv_up2: B::Conv2d,
    conv_hr: B::Conv2d,
    conv_last: B::Conv2d,
    /// Space that is folded into channels before the first convolution: 1 for x4, 2 for x2 networks.
    unshuffle: usize,
}

struct Rrdb<B: Backend> {
    rdb1: DenseBlock<B>,
    rdb2: DenseBlock<B>,
    rdb3: DenseBlock<B>,
}

/// `conv1` to `conv5`.
struct DenseBlock<B: Backend> {
    convs: Vec<B::Conv2d>,
}

/// The sizes that the tensors tell.
struct Sizes {
    /// Channels of the first convolution's input: 3 · unshuffle².
    input: usize,
    unshuffle: usize,
    features: usize,
    growth: usize,
    blocks: usize,
}

impl Sizes {
    fn of(weights: &Weights) -> Result<Self, WeightsError> {
        let (features, input) = weights.conv3x3("conv_first")?;
        let unshuffle = match input {
            3 => 1,
            12 => 2,
            _ => {
                return Err(weights.unknown(format!("conv_first takes {input} channels; known are 3 and 12")));
            }
        };
        let (growth, _) = weights.conv3x3("body.0.rdb1.conv1")?;
        let blocks = (0..).take_while(|i| weights.has(&format!("body.{i}.rdb1.conv1.weight"))).count();
        Ok(Self { input, unshuffle, features, growth, blocks })
    }

    /// Every convolution in the order in which the picture meets them: name, input and output channels, and whether an
    /// activation follows.
    fn convs(&self) -> Vec<(String, usize, usize, bool)> {
        let Self { input, features, growth, .. } = *self;
        let mut convs = vec![("conv_first".to_owned(), input, features, false)];
        for block in 0..self.blocks {
            for dense in 1..=3 {
                convs.extend((0..5).map(|i| {
                    let output = if i < 4 { growth } else { features };
                    (format!("body.{block}.rdb{dense}.conv{}", i + 1), features + i * growth, output, i < 4)
                }));
            }
        }
        convs.push(("conv_body".to_owned(), features, features, false));
        convs.extend(
            ["conv_up1", "conv_up2", "conv_hr"].map(|name| (name.to_owned(), features, features, true)),
        );
        convs.push(("conv_last".to_owned(), features, 3, false));
        convs
    }
}

/// The factor of a file, all of whose tensors are checked.
///
/// # Errors
/// The tensor that is missing or misshapen.
pub fn scale(weights: &Weights) -> Result<u32, WeightsError> {
    let sizes = Sizes::of(weights)?;
    for (name, input, output, _) in sizes.convs() {
        weights.check(&format!("{name}.weight"), &[output, input, 3, 3])?;
        weights.check(&format!("{name}.bias"), &[output])?;
    }
    Ok(4 / sizes.unshuffle as u32)
}

impl<B: Backend> RrdbNet<B> {
    /// Reads the network; depth, width and scale come from the tensors.
    ///
    /// # Errors
    /// The tensor that is missing or misshapen.
    pub fn load(backend: &B, weights: &Weights) -> Result<Self, WeightsError> {
        let sizes = Sizes::of(weights)?;
        let mut convs = sizes.convs().into_iter();
        let mut next = || -> Result<B::Conv2d, WeightsError> {
            let (name, input, output, active) = convs.next().expect("as many as are asked for below");
            let kernel = weights.tensor(&format!("{name}.weight"), &[output, input, 3, 3])?;
            let bias = weights.tensor(&format!("{name}.bias"), &[output])?;
            let activation = if active { Activation::LeakyRelu(SLOPE) } else { Activation::None };
            backend
                .prepare_conv2d(Conv2dDesc::same(input, output, 3), &kernel, Some(&bias), activation)
                .map_err(|e| weights.backend_error(e))
        };
        let conv_first = next()?;
        let mut dense = || Ok(DenseBlock { convs: (0..5).map(|_| next()).collect::<Result<_, _>>()? });
        let body = (0..sizes.blocks).map(|_| Ok(Rrdb { rdb1: dense()?, rdb2: dense()?, rdb3: dense()? }));
        let body = body.collect::<Result<_, WeightsError>>()?;
        // The fields of a struct expression are evaluated in the order in which they are written.
        Ok(Self {
            conv_first,
            body,
            conv_body: next()?,
            conv_up1: next()?,
            conv_up2: next()?,
            conv_hr: next()?,
            conv_last: next()?,
            unshuffle: sizes.unshuffle,
        })
    }

    /// What the dense blocks make of a picture, at its size: N, features, H, W.
    fn features(&self, backend: &B, picture: &B::Tensor) -> reverie_kernels::Result<B::Tensor> {
        let first = backend.conv2d(picture, &self.conv_first)?;
        let mut x = first.clone();
        for block in &self.body {
            let y = block.rdb1.forward(backend, &x)?;
            let y = block.rdb2.forward(backend, &y)?;
            let y = block.rdb3.forward(backend, &y)?;
            x = backend.scale_add(&y, RESIDUAL, &x)?;
        }
        backend.conv2d_residual(&x, &self.conv_body, 1.0, &first)
    }

    /// Features, N, C, H, W, to colours, N, 3, 4·H, 4·W.
    fn enlarge(&self, backend: &B, features: &B::Tensor) -> reverie_kernels::Result<B::Tensor> {
        let mut x = features.clone();
        for conv in [&self.conv_up1, &self.conv_up2] {
            let [_, _, h, w] = backend.shape(&x);
            x = backend.conv2d(&backend.resize(&x, h * 2, w * 2, Filter::Nearest)?, conv)?;
        }
        x = backend.conv2d(&x, &self.conv_hr)?;
        backend.conv2d(&x, &self.conv_last)
    }

    /// [`Self::enlarge`] for one picture, strip by strip. The result is exactly the same.
    fn enlarge_in_strips(&self, backend: &B, features: &B::Tensor) -> reverie_kernels::Result<B::Tensor> {
        let [_, channels, height, width] = backend.shape(features);
        if height <= STRIP + 2 * STRIP_MARGIN {
            return self.enlarge(backend, features);
        }
        let values = backend.to_vec(features)?;
        let (out_width, out_area) = (4 * width, 16 * width * height);
        let mut out = vec![0.0; 3 * out_area];
        for top in (0..height).step_by(STRIP) {
            let bottom = (top + STRIP).min(height);
            let (from, to) = (top.saturating_sub(STRIP_MARGIN), (bottom + STRIP_MARGIN).min(height));
            let strip = rows(&values, height * width, from * width..to * width);
            let strip = backend.tensor(strip, [1, channels, to - from, width])?;
            let made = backend.to_vec(&self.enlarge(backend, &strip)?)?;
            let own = 4 * (top - from) * out_width..4 * (bottom - from) * out_width;
            for (out, made) in out.chunks_exact_mut(out_area).zip(made.chunks_exact(16 * (to - from) * width))
            {
                out[4 * top * out_width..4 * bottom * out_width].copy_from_slice(&made[own.clone()]);
            }
        }
        backend.tensor(out, [1, 3, 4 * height, 4 * width])
    }
}

/// The same range of each plane.
fn rows(values: &[f32], plane: usize, range: std::ops::Range<usize>) -> Vec<f32> {
    values.chunks_exact(plane).flat_map(|plane| &plane[range.clone()]).copied().collect()
}

impl<B: Backend> DenseBlock<B> {
    fn forward(&self, backend: &B, x: &B::Tensor) -> reverie_kernels::Result<B::Tensor> {
        let mut parts = vec![x.clone()];
        for conv in &self.convs[..4] {
            let made = backend.conv2d(&backend.concat(&parts.iter().collect::<Vec<_>>())?, conv)?;
            parts.push(made);
        }
        let joined = backend.concat(&parts.iter().collect::<Vec<_>>())?;
        backend.conv2d_residual(&joined, &self.convs[4], RESIDUAL, x)
    }
}

impl<B: Backend> Upscale<B> for RrdbNet<B> {
    fn overlap(&self) -> usize {
        OVERLAP[usize::from(self.body.len() > SHALLOW)]
    }

    fn grid(&self) -> usize {
        self.unshuffle
    }

    fn forward(&self, backend: &B, picture: &B::Tensor, scale: usize) -> reverie_kernels::Result<B::Tensor> {
        let [n, _, height, width] = backend.shape(picture);
        let picture = match self.unshuffle {
            1 => picture.clone(),
            factor => {
                let (values, shape) =
                    pixel_unshuffle(&backend.to_vec(picture)?, [n, 3, height, width], factor);
                backend.tensor(values, shape)?
            }
        };
        let features = self.features(backend, &picture)?;
        let x = match n {
            1 => self.enlarge_in_strips(backend, &features)?,
            _ => self.enlarge(backend, &features)?,
        };
        let wanted = [n, 3, height * scale, width * scale];
        if backend.shape(&x) == wanted {
            return Ok(x);
        }
        // An odd side was filled up to a multiple before it was folded.
        let values = crop(&backend.to_vec(&x)?, backend.shape(&x), wanted);
        backend.tensor(values, wanted)
    }
}

/// `torch.nn.PixelUnshuffle`, with sides filled up to a multiple of `factor` by repeating the last pixel.
fn pixel_unshuffle(values: &[f32], [n, c, h, w]: [usize; 4], factor: usize) -> (Vec<f32>, [usize; 4]) {
    let (rows, columns) = (h.div_ceil(factor), w.div_ceil(factor));
    let mut out = Vec::with_capacity(n * c * factor * factor * rows * columns);
    for plane in values.chunks_exact(h * w) {
        for (dy, dx) in (0..factor).flat_map(|dy| (0..factor).map(move |dx| (dy, dx))) {
            for y in 0..rows {
                let row = &plane[(y * factor + dy).min(h - 1) * w..][..w];
                out.extend((0..columns).map(|x| row[(x * factor + dx).min(w - 1)]));
            }
        }
    }
    (out, [n, c * factor * factor, rows, columns])
}

fn crop(values: &[f32], [_, _, h, w]: [usize; 4], [_, _, rows, columns]: [usize; 4]) -> Vec<f32> {
    let planes = values.chunks_exact(h * w);
    planes
        .flat_map(|plane| plane.chunks_exact(w).take(rows).flat_map(|row| &row[..columns]))
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use reverie_kernels::cpu::CpuBackend;

    use super::*;

    #[test]
    fn equals_pytorch() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures");
        let bytes = std::fs::read(format!("{folder}/rrdbnet.safetensors")).unwrap();
        let golden = std::fs::read(format!("{folder}/rrdbnet-golden.safetensors")).unwrap();
        let golden = Weights::parse("golden", &golden).unwrap();
        let backend = CpuBackend::new(2);
        let net = RrdbNet::load(&backend, &Weights::parse("tiny", &bytes).unwrap()).unwrap();
        let input = backend.tensor(golden.tensor("input", &[1, 3, 13, 10]).unwrap(), [1, 3, 13, 10]).unwrap();
        let expected = golden.tensor("output", &[1, 3, 52, 40]).unwrap();
        let made = backend.to_vec(&net.forward(&backend, &input, 4).unwrap()).unwrap();
        let range = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
        for (made, expected) in made.iter().zip(&expected) {
            assert!((made - expected).abs() < 1e-4 * range, "{made} {expected}");
        }
    }

    #[test]
    fn errors_name_the_tensor() {
        let tensor =
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![8, 3, 3, 3], &[0; 864])
                .unwrap();
        let bytes = safetensors::serialize([("conv_first.weight", tensor)], None).unwrap();
        let backend = CpuBackend::new(1);
        let error = RrdbNet::load(&backend, &Weights::parse("x.safetensors", &bytes).unwrap()).err().unwrap();
        assert_eq!(error.to_string(), "x.safetensors has no tensor 'body.0.rdb1.conv1.weight'");
    }

    #[test]
    fn strips_change_nothing() {
        let bytes =
            std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/rrdbnet.safetensors"))
                .unwrap();
        let backend = CpuBackend::new(2);
        let net = RrdbNet::load(&backend, &Weights::parse("tiny", &bytes).unwrap()).unwrap();
        let (height, width) = (2 * STRIP + 7, 5);
        let values = (0..8 * height * width).map(|i| (i as f32 * 0.37).sin()).collect();
        let features = backend.tensor(values, [1, 8, height, width]).unwrap();
        let whole = backend.to_vec(&net.enlarge(&backend, &features).unwrap()).unwrap();
        let strips = backend.to_vec(&net.enlarge_in_strips(&backend, &features).unwrap()).unwrap();
        let difference = whole.iter().zip(&strips).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(difference < 1e-5, "{difference}");
    }

    #[test]
    fn unshuffle_is_the_inverse_of_shuffle() {
        let backend = CpuBackend::new(1);
        let values: Vec<f32> = (0..3 * 4 * 6).map(|i| i as f32).collect();
        let (folded, shape) = pixel_unshuffle(&values, [1, 3, 4, 6], 2);
        let back = backend.pixel_shuffle(&backend.tensor(folded, shape).unwrap(), 2).unwrap();
        assert_eq!(backend.to_vec(&back).unwrap(), values);
    }
}
