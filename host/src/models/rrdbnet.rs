//! RRDBNet: residual-in-residual dense blocks (Wang et al. 2018, "ESRGAN"), as RealESRGAN_x4plus uses it.

use reverie_kernels::{Activation, Backend, Conv2dDesc, Filter};

use super::{Upscale, Weights, WeightsError};

/// Residuals are scaled by this before they are added.
const RESIDUAL: f32 = 0.2;
const SLOPE: f32 = 0.2;

/// The receptive field is hundreds of pixels; beyond this many its weight is lost in rounding on trained networks.
const OVERLAP: usize = 32;

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

impl<B: Backend> RrdbNet<B> {
    /// Reads the network; depth, width and scale come from the tensors.
    ///
    /// # Errors
    /// The tensor that is missing or misshapen.
    pub fn load(backend: &B, weights: &Weights) -> Result<Self, WeightsError> {
        let (features, input) = weights.conv3x3("conv_first")?;
        let unshuffle = match input {
            3 => 1,
            12 => 2,
            _ => {
                return Err(weights.unknown(format!("conv_first takes {input} channels; known are 3 and 12")));
            }
        };
        let (growth, _) = weights.conv3x3("body.0.rdb1.conv1")?;
        let load =
            |name: &str, input: usize, output: usize, active: bool| -> Result<B::Conv2d, WeightsError> {
                let kernel = weights.tensor(&format!("{name}.weight"), &[output, input, 3, 3])?;
                let bias = weights.tensor(&format!("{name}.bias"), &[output])?;
                let activation = if active { Activation::LeakyRelu(SLOPE) } else { Activation::None };
                backend
                    .prepare_conv2d(Conv2dDesc::same(input, output, 3), &kernel, Some(&bias), activation)
                    .map_err(|e| weights.backend_error(e))
            };
        let dense = |name: String| -> Result<DenseBlock<B>, WeightsError> {
            let convs = (0..5).map(|i| {
                let output = if i < 4 { growth } else { features };
                load(&format!("{name}.conv{}", i + 1), features + i * growth, output, i < 4)
            });
            Ok(DenseBlock { convs: convs.collect::<Result<_, _>>()? })
        };
        let blocks = (0..).take_while(|i| weights.has(&format!("body.{i}.rdb1.conv1.weight"))).count();
        let body = (0..blocks).map(|i| {
            Ok(Rrdb {
                rdb1: dense(format!("body.{i}.rdb1"))?,
                rdb2: dense(format!("body.{i}.rdb2"))?,
                rdb3: dense(format!("body.{i}.rdb3"))?,
            })
        });
        Ok(Self {
            conv_first: load("conv_first", input, features, false)?,
            body: body.collect::<Result<_, _>>()?,
            conv_body: load("conv_body", features, features, false)?,
            conv_up1: load("conv_up1", features, features, true)?,
            conv_up2: load("conv_up2", features, features, true)?,
            conv_hr: load("conv_hr", features, features, true)?,
            conv_last: load("conv_last", features, 3, false)?,
            unshuffle,
        })
    }
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
    fn scale(&self) -> usize {
        4 / self.unshuffle
    }

    fn overlap(&self) -> usize {
        OVERLAP
    }

    fn forward(&self, backend: &B, picture: &B::Tensor) -> reverie_kernels::Result<B::Tensor> {
        let [n, _, height, width] = backend.shape(picture);
        let picture = match self.unshuffle {
            1 => picture.clone(),
            factor => {
                let (values, shape) =
                    pixel_unshuffle(&backend.to_vec(picture)?, [n, 3, height, width], factor);
                backend.tensor(values, shape)?
            }
        };
        let first = backend.conv2d(&picture, &self.conv_first)?;
        let mut x = first.clone();
        for block in &self.body {
            let y = block.rdb1.forward(backend, &x)?;
            let y = block.rdb2.forward(backend, &y)?;
            let y = block.rdb3.forward(backend, &y)?;
            x = backend.scale_add(&y, RESIDUAL, &x)?;
        }
        let mut x = backend.conv2d_residual(&x, &self.conv_body, 1.0, &first)?;
        for conv in [&self.conv_up1, &self.conv_up2] {
            let [_, _, h, w] = backend.shape(&x);
            x = backend.conv2d(&backend.resize(&x, h * 2, w * 2, Filter::Nearest)?, conv)?;
        }
        let x = backend.conv2d(&backend.conv2d(&x, &self.conv_hr)?, &self.conv_last)?;
        let wanted = [n, 3, height * self.scale(), width * self.scale()];
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
        let made = backend.to_vec(&net.forward(&backend, &input).unwrap()).unwrap();
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
    fn unshuffle_is_the_inverse_of_shuffle() {
        let backend = CpuBackend::new(1);
        let values: Vec<f32> = (0..3 * 4 * 6).map(|i| i as f32).collect();
        let (folded, shape) = pixel_unshuffle(&values, [1, 3, 4, 6], 2);
        let back = backend.pixel_shuffle(&backend.tensor(folded, shape).unwrap(), 2).unwrap();
        assert_eq!(backend.to_vec(&back).unwrap(), values);
    }
}
