//! The operator's networks, and pictures that are partly transparent.

use std::{collections::HashMap, fs, path::Path};

use image::{DynamicImage, Rgba, RgbaImage};
use reverie::execution::backend::cpu;
use reverie::models::{Cancelled, Control, Scale, UpscaleRequest, Upscalers};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures");

struct Quiet;

impl Control for Quiet {
    fn before_tile(&self) -> Result<(), Cancelled> {
        Ok(())
    }

    fn tile_done(&self, _: usize, _: usize) {}
}

fn upscale(upscalers: &Upscalers, picture: &DynamicImage, model: &str, factor: f32) -> DynamicImage {
    let request = UpscaleRequest { model: model.into(), scale: Scale::Factor(factor) };
    upscalers.upscale(picture.clone(), &request, &Quiet).unwrap()
}

/// The tiny RRDBNet as a network for x2: its first convolution takes space folded into channels.
fn write_x2_network(path: &Path) {
    let bytes = fs::read(format!("{FIXTURES}/rrdbnet.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: HashMap<String, TensorView> = tensors.tensors().into_iter().collect();
    let folded: Vec<u8> =
        (0..8 * 12 * 9).flat_map(|i| ((i as f32 * 0.7).sin() * 0.1).to_le_bytes()).collect();
    let first = TensorView::new(Dtype::F32, vec![8, 12, 3, 3], &folded).unwrap();
    tensors.insert("conv_first.weight".into(), first);
    // Mid grey to begin with, so that what the network adds is not clamped away.
    let grey: Vec<u8> = [0.5f32; 3].into_iter().flat_map(f32::to_le_bytes).collect();
    tensors.insert("conv_last.bias".into(), TensorView::new(Dtype::F32, vec![3], &grey).unwrap());
    safetensors::serialize_to_file(tensors, None, path).unwrap();
}

#[test]
fn tiles_of_an_x2_network_are_folded_like_the_whole_picture() {
    let dir = tempfile::tempdir().unwrap();
    write_x2_network(&dir.path().join("x2.safetensors"));
    // 227 pixels in 8 tiles: most of them begin at odd positions.
    let photo = image::open(format!("{FIXTURES}/sr/photo.png")).unwrap().crop_imm(20, 30, 227, 41).to_rgb8();
    let photo = DynamicImage::ImageRgb8(photo);
    let made = [512, 32].map(|tile| {
        let (upscalers, warnings) = Upscalers::new(cpu(0), Some(dir.path()), tile);
        assert!(warnings.is_empty(), "{warnings:?}");
        upscale(&upscalers, &photo, "x2", 2.0).into_rgb8()
    });
    assert_eq!(made[0].dimensions(), (454, 82));
    let (low, high) = (made[0].iter().min().unwrap(), made[0].iter().max().unwrap());
    assert!(*low > 0 && *high < 255 && high - low > 20, "the test's network is too tame: {low} to {high}");
    let largest = made[0].iter().zip(made[1].iter()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    assert!(largest <= 1, "{largest}/255");
}

#[test]
fn the_colour_under_transparent_pixels_makes_no_rim() {
    // A light square, soft at its edge, on black that nobody sees.
    let picture = RgbaImage::from_fn(48, 48, |x, y| {
        let distance = x.abs_diff(24).max(y.abs_diff(24));
        let alpha = 255u32.saturating_sub(distance.saturating_sub(10) * 85) as u8;
        if alpha > 0 { Rgba([230, 220, 210, alpha]) } else { Rgba([0, 0, 0, 0]) }
    });
    let picture = DynamicImage::ImageRgba8(picture);
    let (upscalers, _) = Upscalers::new(cpu(0), None, 512);
    for model in ["realesr-animevideov3", "bilinear", "bicubic", "lanczos3"] {
        let made = upscale(&upscalers, &picture, model, 2.0).into_rgba8();
        let darkest = made.pixels().filter(|pixel| pixel[3] > 0).map(|pixel| pixel[2]).min().unwrap();
        assert!(darkest > 195, "{model}: {darkest}");
    }
    // Copying pixels mixes nothing: there they stay as they are.
    assert_eq!(*upscale(&upscalers, &picture, "nearest", 2.0).into_rgba8().get_pixel(0, 0), Rgba([0; 4]));
}

#[test]
fn a_network_that_is_gone_is_an_error_and_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tiny.safetensors");
    fs::copy(format!("{FIXTURES}/rrdbnet.safetensors"), &file).unwrap();
    let (upscalers, _) = Upscalers::new(cpu(0), Some(dir.path()), 512);
    let request = UpscaleRequest { model: "tiny".into(), scale: Scale::Passes(1) };
    let picture = DynamicImage::new_rgb8(4, 4);

    fs::rename(&file, dir.path().join("elsewhere")).unwrap();
    let error = upscalers.upscale(picture.clone(), &request, &Quiet).unwrap_err();
    assert!(error.to_string().contains("tiny.safetensors") && !error.is_invalid_input(), "{error}");

    write_x2_network(&file);
    let error = upscalers.upscale(picture.clone(), &request, &Quiet).unwrap_err();
    assert!(error.to_string().contains("another one"), "{error}");

    fs::rename(dir.path().join("elsewhere"), &file).unwrap();
    assert_eq!(upscalers.upscale(picture, &request, &Quiet).unwrap().width(), 16);
}

#[test]
fn files_that_cannot_be_used_are_named_with_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = fs::read(format!("{FIXTURES}/rrdbnet.safetensors")).unwrap();
    fs::write(dir.path().join("bicubic.safetensors"), &bytes).unwrap();
    fs::write(dir.path().join("truncated.safetensors"), &bytes[..bytes.len() / 2]).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let without = tensors.tensors().into_iter().filter(|(name, _)| name != "body.1.rdb2.conv3.bias");
    safetensors::serialize_to_file(without, None, &dir.path().join("missing.safetensors")).unwrap();

    let (upscalers, warnings) = Upscalers::new(cpu(0), Some(dir.path()), 512);
    let mut warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    warnings.sort_by_key(|warning| warning.rsplit('/').next().map(str::to_owned));
    let [resampler, missing, truncated] = &warnings[..] else { panic!("{warnings:?}") };
    assert!(resampler.contains("rename the file"), "{resampler}");
    assert!(missing.contains("missing.safetensors has no tensor 'body.1.rdb2.conv3.bias'"), "{missing}");
    assert!(truncated.contains("truncated.safetensors is not a safetensors file"), "{truncated}");
    assert_eq!(upscalers.list().iter().filter(|network| network.kind == "network").count(), 1);
}
