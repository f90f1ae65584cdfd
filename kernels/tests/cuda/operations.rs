use std::sync::Arc;

use reverie_kernels::{Activation, Backend, Conv2dDesc, Filter, Mask, PixelRange, Unary};

use crate::{
    common::{NUMBERS, TIMESTEPS, timestep_embedding},
    noise, pair, pair_with_wgmma,
};

#[test]
fn convolutions() {
    let Some(pair) = pair() else { return };
    for [n, kernel, stride, inputs, outputs, h, w] in [
        [1, 3, 1, 4, 320, 64, 64],
        [2, 3, 1, 320, 320, 64, 64],
        [1, 3, 2, 320, 320, 64, 64],
        [1, 3, 1, 320, 4, 64, 64],
        [1, 3, 1, 1280, 1280, 16, 16],
        [2, 3, 1, 2560, 1280, 8, 8],
        [1, 1, 1, 960, 320, 64, 64],
        [1, 3, 1, 512, 256, 96, 104],
        [1, 3, 1, 128, 3, 200, 301],
        [1, 3, 1, 3, 64, 75, 101],
        [1, 3, 1, 64, 32, 75, 101],
        [1, 3, 1, 13, 21, 33, 47],
    ] {
        let desc =
            Conv2dDesc { in_channels: inputs, out_channels: outputs, kernel, stride, padding: kernel / 2 };
        let depth = (inputs * kernel * kernel) as f32;
        let weight = noise(desc.weight_len(), depth.powf(-0.5), 7);
        let bias = noise(outputs, 1.0, 8);
        let x = [n, inputs, h, w];
        let slopes = noise(outputs, 0.5, 9);
        for act in [Activation::None, Activation::LeakyRelu(0.2), Activation::PRelu(slopes)] {
            let what = format!("{desc:?} of {x:?}, {:.20}", format!("{act:?}"));
            pair.compare(&what, &[x], 2e-3, |backend, xs| {
                let conv = backend.prepare_conv2d(desc, &weight, Some(&bias), act.clone())?;
                backend.conv2d(xs[0], &conv)
            });
        }
        pair.compare(
            &format!("{desc:?} of {x:?} with a residual"),
            &[x, desc.output_shape(x).unwrap()],
            2e-3,
            |b, xs| {
                b.conv2d_residual(
                    xs[0],
                    &b.prepare_conv2d(desc, &weight, None, Activation::None)?,
                    0.25,
                    xs[1],
                )
            },
        );
    }
}

#[test]
fn linear_layers() {
    let Some(pair) = pair() else { return };
    for [n, rows, inputs, outputs] in [
        [2, 4096, 320, 320],
        [1, 4096, 1280, 320],
        [1, 1024, 640, 5120],
        [2, 77, 768, 1280],
        [1, 77, 2048, 640],
        [1, 1, 320, 1280],
        [3, 5, 13, 21],
    ] {
        let weight = noise(inputs * outputs, (inputs as f32).powf(-0.5), 7);
        let bias = noise(outputs, 1.0, 8);
        let what = format!("{n}x{rows} {inputs}->{outputs}");
        pair.compare(&what, &[[n, 1, rows, inputs]], 2e-3, |backend, xs| {
            backend.linear(xs[0], &backend.prepare_linear(inputs, outputs, &weight, Some(&bias))?)
        });
        pair.compare(&what, &[[n, 1, rows, inputs], [n, 1, rows, outputs]], 2e-3, |backend, xs| {
            backend.linear_residual(xs[0], &backend.prepare_linear(inputs, outputs, &weight, None)?, xs[1])
        });
    }
}

#[test]
fn attention() {
    let Some(pair) = pair() else { return };
    for [n, queries, keys, heads, width] in [
        [1, 4096, 4096, 8, 40],
        [2, 1024, 1024, 8, 80],
        [2, 256, 256, 8, 160],
        [2, 64, 64, 8, 160],
        [2, 4096, 77, 8, 40],
        [1, 1024, 77, 20, 64],
        [1, 1024, 1024, 20, 64],
        [1, 1024, 1024, 1, 512],
        [3, 131, 67, 3, 24],
    ] {
        let [q, k] = [[n, 1, queries, heads * width], [n, 1, keys, heads * width]];
        pair.compare(&format!("{q:?} {k:?} {heads}"), &[q, k, k], 2e-3, |backend, xs| {
            backend.attention(xs[0], xs[1], xs[2], heads, Mask::None)
        });
    }
    for [n, tokens, heads, width] in [[2, 77, 12, 64], [1, 77, 20, 64], [1, 300, 2, 40]] {
        let q = [n, 1, tokens, heads * width];
        pair.compare(&format!("causal {q:?} {heads}"), &[q, q, q], 2e-3, |backend, xs| {
            backend.attention(xs[0], xs[1], xs[2], heads, Mask::Causal)
        });
    }
}

#[test]
fn attention_by_warp_groups() {
    let Some(pair) = pair_with_wgmma() else { return };
    for [n, queries, keys, heads, width] in [
        [1, 4096, 4096, 8, 40],
        [2, 1024, 1024, 8, 80],
        [2, 256, 256, 8, 160],
        [1, 1024, 1024, 20, 64],
        [1, 1024, 1024, 4, 128],
        [2, 1000, 333, 3, 56],
    ] {
        let [q, k] = [[n, 1, queries, heads * width], [n, 1, keys, heads * width]];
        pair.compare(&format!("{q:?} {k:?} {heads}"), &[q, k, k], 2e-3, |backend, xs| {
            backend.attention(xs[0], xs[1], xs[2], heads, Mask::None)
        });
    }
}

#[test]
fn normalisations() {
    let Some(pair) = pair() else { return };
    for ([n, c, h, w], groups) in [
        ([2, 320, 64, 64], 32),
        ([1, 640, 32, 32], 32),
        ([2, 2560, 8, 8], 32),
        ([1, 128, 256, 256], 32),
        ([3, 30, 7, 11], 10),
    ] {
        for act in [Unary::Identity, Unary::Silu] {
            let inputs = [[n, c, h, w], [1, 1, 1, c], [1, 1, 1, c]];
            pair.compare(&format!("{inputs:?} {groups} {act:?}"), &inputs, 2e-3, |backend, xs| {
                backend.group_norm(xs[0], groups, xs[1], xs[2], 1e-5, act)
            });
        }
    }
    for [n, rows, c] in [[2, 4096, 320], [1, 256, 1280], [2, 77, 768], [1, 9, 33]] {
        let inputs = [[n, 1, rows, c], [1, 1, 1, c], [1, 1, 1, c]];
        pair.compare(&format!("{inputs:?}"), &inputs, 2e-3, |b, xs| b.layer_norm(xs[0], xs[1], xs[2], 1e-5));
    }
}

#[test]
fn values_by_themselves() {
    let Some(pair) = pair() else { return };
    let x = [2, 320, 64, 64];
    for f in [Unary::Identity, Unary::Relu, Unary::Silu, Unary::Gelu, Unary::QuickGelu, Unary::Tanh] {
        pair.compare(&format!("{f:?}"), &[x], 1e-3, |backend, xs| backend.unary(xs[0], f));
    }
    pair.compare("scale_add", &[x, x], 1e-3, |backend, xs| backend.scale_add(xs[0], 0.7, xs[1]));
    for count in [1, 2, 3, 4, 5, 6, 11] {
        let latents = [[2, 4, 128, 128]; 11];
        pair.compare(&format!("combine {count}"), &latents[..count], 2e-3, |backend, xs| {
            backend.combine(&xs.iter().map(|x| (0.7, *x)).collect::<Vec<_>>())
        });
    }
    pair.compare("clamp", &[x], 1e-3, |backend, xs| backend.clamp(xs[0], 0.3));
    pair.compare("blend", &[x, x, x], 1e-3, |backend, xs| backend.blend(xs[0], xs[1], xs[2]));
    pair.compare("prelu", &[x], 1e-3, |backend, xs| backend.prelu(xs[0], &noise(320, 1.0, 9)));
    pair.compare("add_channels", &[x, [2, 1, 1, 320]], 1e-3, |backend, xs| {
        backend.add_channels(xs[0], xs[1])
    });
    pair.compare("geglu", &[[2, 1, 4096, 2560]], 1e-3, |backend, xs| backend.geglu(xs[0]));
}

#[test]
fn pictures() {
    let Some(pair) = pair() else { return };
    for filter in [Filter::Nearest, Filter::Bilinear, Filter::Bicubic, Filter::Lanczos3] {
        for (x, [h, w]) in
            [([1, 320, 32, 32], [64, 64]), ([1, 3, 101, 75], [404, 300]), ([2, 4, 64, 48], [37, 91])]
        {
            pair.compare(&format!("{filter:?} {x:?}"), &[x], 2e-3, |backend, xs| {
                backend.resize(xs[0], h, w, filter)
            });
        }
    }
    pair.compare("pixel_shuffle", &[[1, 48, 75, 101]], 1e-3, |backend, xs| backend.pixel_shuffle(xs[0], 4));
    pair.compare("with its base", &[[1, 48, 75, 101], [1, 3, 75, 101]], 1e-3, |backend, xs| {
        backend.pixel_shuffle_add_nearest(xs[0], 4, xs[1])
    });
    pair.compare("pad", &[[2, 3, 75, 101]], 0.0, |backend, xs| backend.pad(xs[0], 3, 5));
    pair.compare("concat", &[[2, 640, 32, 32], [2, 320, 32, 32], [2, 3, 32, 32]], 0.0, |b, xs| b.concat(xs));
    pair.compare("stack", &[[2, 4, 64, 64], [1, 4, 64, 64]], 0.0, |backend, xs| backend.stack(xs));
    pair.compare("images", &[[4, 3, 33, 35]], 0.0, |backend, xs| backend.images(xs[0], 1, 2));
    pair.compare("tokens", &[[2, 320, 24, 40]], 0.0, |backend, xs| {
        backend.from_tokens(
            &backend.scale_add(&backend.to_tokens(xs[0])?, 0.0, &backend.to_tokens(xs[0])?)?,
            40,
            24,
        )
    });
}

#[test]
fn sinusoids() {
    let Some(pair) = pair() else { return };
    let gpu = &pair.0[1];
    for timesteps in TIMESTEPS {
        let out = gpu.to_vec(&gpu.timestep_embedding(&NUMBERS, 1, timesteps).unwrap()).unwrap();
        for (out, (expected, number)) in out.iter().zip(timestep_embedding(&NUMBERS, timesteps)) {
            // The kernel's error as its head has it, and fp16's.
            let allowed = 3e-7 * number + 8e-7 + 2.5e-4;
            let error = (f64::from(*out) - expected).abs();
            assert!(error <= allowed, "{timesteps:?} of {number} is {out}, not {expected}");
        }
    }
}

#[test]
fn lookups() {
    let Some(pair) = pair() else { return };
    for [count, features, tokens] in [[49408, 768, 77], [1000, 1280, 77], [100, 33, 5]] {
        let ids: Vec<u32> = (0..3 * tokens as u32).map(|i| i * 7919 % count as u32).collect();
        let sequences: Vec<&[u32]> = ids.chunks_exact(tokens).collect();
        pair.compare(&format!("{count} rows of {features}"), &[[1, 1, tokens, features]], 1e-3, |b, xs| {
            let rows = Arc::new(move |row| noise(features, 1.0, row as u64));
            b.embedding(&sequences, &b.prepare_embedding(count, features, rows)?, xs[0])
        });
    }
}

#[test]
fn pixels() {
    let Some(pair) = pair() else { return };
    for [n, h, w] in [[1, 512, 512], [2, 101, 75], [1, 1, 1]] {
        let pixels: Vec<u8> = (0..n * h * w * 3).map(|i| (i * i / 7 % 256) as u8).collect();
        for range in [PixelRange::Unit, PixelRange::Signed] {
            let what = format!("{n} {h}x{w} {range:?}");
            pair.compare(&what, &[], 5e-4, |backend, _| backend.from_pixels(&pixels, [n, 3, h, w], range));
            // Values past both ends of the range, and the same bytes from the same halves.
            let values = noise(pixels.len(), 1.5, 1);
            let [cpu, gpu] = pair.0.each_ref().map(|backend| {
                let x = backend.tensor(values.clone(), [n, 3, h, w]).unwrap();
                backend.to_pixels(&x, range).unwrap()
            });
            assert!(cpu == gpu, "{what}");
        }
    }
}
