//! The embedded networks against ncnn, and what tiling, colour types and cancellation must not change.

use std::sync::atomic::{AtomicUsize, Ordering};

use image::{DynamicImage, GenericImageView, ImageBuffer, Luma, Rgb, Rgba};
use reverie::execution::backend::cpu;
use reverie::models::{Cancelled, Control, Scale, UpscaleError, UpscaleRequest, Upscalers};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/sr");

struct Quiet;

impl Control for Quiet {
    fn before_tile(&self) -> Result<(), Cancelled> {
        Ok(())
    }

    fn tile_done(&self, _: usize, _: usize) {}
}

fn upscalers(tile: usize) -> Upscalers {
    let (upscalers, warnings) = Upscalers::new(cpu(0), None, tile);
    assert!(warnings.is_empty(), "{warnings:?}");
    upscalers
}

fn request(model: &str, scale: Scale) -> UpscaleRequest {
    UpscaleRequest { model: model.into(), scale }
}

fn network(scale: f32) -> UpscaleRequest {
    request("realesr-animevideov3", Scale::Factor(scale))
}

fn photo() -> DynamicImage {
    DynamicImage::ImageRgb8(image::open(format!("{FIXTURES}/photo.png")).unwrap().to_rgb8())
}

fn largest_difference(a: &[u8], b: &[u8]) -> u8 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

#[test]
fn equals_ncnn_within_two_steps_everywhere() {
    let upscalers = upscalers(512);
    for scale in [2, 3, 4] {
        let golden = image::open(format!("{FIXTURES}/ncnn-x{scale}.png")).unwrap();
        let made = upscalers.upscale(photo(), &network(scale as f32), &Quiet).unwrap();
        assert_eq!(made.dimensions(), golden.dimensions());
        let difference = largest_difference(made.as_bytes(), golden.to_rgb8().as_raw());
        assert!(difference <= 2, "x{scale}: {difference}/255");
    }
}

#[test]
fn tiles_leave_no_seams() {
    let picture = photo().crop_imm(40, 30, 131, 97);
    for scale in [2.0, 3.0, 4.0] {
        let whole = upscalers(512).upscale(picture.clone(), &network(scale), &Quiet).unwrap();
        let tiled = upscalers(32).upscale(picture.clone(), &network(scale), &Quiet).unwrap();
        let difference = largest_difference(whole.as_bytes(), tiled.as_bytes());
        assert!(difference <= 1, "x{scale}: {difference}/255");
    }
}

#[test]
fn any_size_works() {
    let upscalers = upscalers(32);
    for (width, height) in [(1, 1), (1, 7), (3, 5), (65, 2)] {
        let picture = photo().crop_imm(0, 0, width, height);
        for scale in [2, 3, 4] {
            let made = upscalers.upscale(picture.clone(), &network(scale as f32), &Quiet).unwrap();
            assert_eq!(made.dimensions(), (width * scale, height * scale));
        }
        for model in ["nearest", "bilinear", "bicubic", "lanczos3"] {
            let asked = request(model, Scale::Factor(2.5));
            let expected = upscalers.output_size(width, height, &asked).unwrap();
            assert_eq!(upscalers.upscale(picture.clone(), &asked, &Quiet).unwrap().dimensions(), expected);
        }
    }
}

#[test]
fn passes_multiply() {
    let upscalers = upscalers(512);
    let picture = photo().crop_imm(0, 0, 20, 10);
    for (passes, factor) in [(1, 2), (2, 4), (3, 8)] {
        let asked = request("realesr-animevideov3", Scale::Passes(passes));
        assert_eq!(upscalers.output_size(20, 10, &asked).unwrap(), (20 * factor, 10 * factor));
        let made = upscalers.upscale(picture.clone(), &asked, &Quiet).unwrap();
        assert_eq!(made.dimensions(), (20 * factor, 10 * factor));
    }
}

#[test]
fn colour_types_stay() {
    let upscalers = upscalers(512);
    let grey: ImageBuffer<Luma<u8>, _> = photo().crop_imm(50, 50, 24, 24).to_luma8();
    let made = upscalers.upscale(DynamicImage::ImageLuma8(grey), &network(2.0), &Quiet).unwrap();
    assert_eq!(made.color(), image::ColorType::L8);

    // Opaque on the left, transparent on the right: it stays so, away from the edge.
    let cut = ImageBuffer::from_fn(24, 24, |x, y| {
        let Rgb([r, g, b]) = *photo().to_rgb8().get_pixel(100 + x, 100 + y);
        Rgba([r, g, b, if x < 12 { 255 } else { 0 }])
    });
    let made = upscalers.upscale(DynamicImage::ImageRgba8(cut), &network(2.0), &Quiet).unwrap().to_rgba8();
    assert!((0..48).all(|y| made.get_pixel(10, y)[3] == 255 && made.get_pixel(40, y)[3] == 0));

    // A gradient finer than 8 bits: 16-bit output has values between the 8-bit steps.
    let fine = ImageBuffer::from_fn(32, 32, |x, y| Rgb([20_000 + (x * 40 + y * 7) as u16; 3]));
    let made = upscalers.upscale(DynamicImage::ImageRgb16(fine), &network(2.0), &Quiet).unwrap();
    assert_eq!(made.color(), image::ColorType::Rgb16);
    assert!(made.to_rgb16().iter().any(|v| v % 257 != 0));
}

#[test]
fn cancelling_stops_before_the_next_tile() {
    struct StopAfter(usize, AtomicUsize);
    impl Control for StopAfter {
        fn before_tile(&self) -> Result<(), Cancelled> {
            if self.1.load(Ordering::Relaxed) < self.0 { Ok(()) } else { Err(Cancelled) }
        }

        fn tile_done(&self, done: usize, total: usize) {
            assert_eq!(total, 12);
            self.1.store(done, Ordering::Relaxed);
        }
    }
    let control = StopAfter(3, AtomicUsize::new(0));
    let stopped = upscalers(32).upscale(photo().crop_imm(0, 0, 128, 96), &network(2.0), &control);
    assert!(matches!(stopped, Err(UpscaleError::Cancelled)));
    assert_eq!(control.1.load(Ordering::Relaxed), 3);
}

#[test]
fn errors_say_what_is_accepted() {
    let upscalers = upscalers(512);
    let error = |asked: UpscaleRequest| upscalers.output_size(8, 8, &asked).unwrap_err().to_string();
    assert!(error(request("nope", Scale::Passes(1))).contains("lanczos3"));
    assert!(error(network(5.0)).contains("2, 3, 4"));
    assert!(error(request("bicubic", Scale::Factor(f32::NAN))).contains("1 to 8"));
    assert!(error(request("bicubic", Scale::Passes(9))).contains("1 to 3"));
}

#[test]
fn the_operators_networks_are_loaded_and_broken_ones_reported() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/rrdbnet.safetensors");
    std::fs::copy(tiny, dir.path().join("tiny-x4.safetensors")).unwrap();
    std::fs::write(dir.path().join("broken.safetensors"), b"not tensors").unwrap();
    let (upscalers, warnings) = Upscalers::new(cpu(0), Some(dir.path()), 512);
    assert!(warnings.len() == 1 && warnings[0].to_string().contains("broken.safetensors"), "{warnings:?}");
    let made = upscalers
        .upscale(photo().crop_imm(0, 0, 9, 7), &request("tiny-x4", Scale::Passes(1)), &Quiet)
        .unwrap();
    assert_eq!(made.dimensions(), (36, 28));
}

/// The embedded network with one layer's biases so large that the next one overflows.
#[test]
fn a_network_that_makes_no_numbers_is_named() {
    use safetensors::{Dtype, SafeTensors, tensor::TensorView};

    let whole =
        std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/weights/realesr-animevideov3.safetensors"))
            .unwrap();
    let network = SafeTensors::deserialize(&whole).unwrap();
    let large = |view: &TensorView| f32::MAX.to_le_bytes().repeat(view.shape().iter().product());
    let tensors: Vec<_> = network
        .iter()
        .map(|(name, view)| match name.ends_with("body.2.bias") {
            true => (name, Dtype::F32, view.shape().to_vec(), large(&view)),
            false => (name, view.dtype(), view.shape().to_vec(), view.data().to_vec()),
        })
        .collect();
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broken.safetensors");
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    let (upscalers, warnings) = Upscalers::new(cpu(0), Some(folder.path()), 64);
    assert!(warnings.is_empty(), "{warnings:?}");
    let request = request("broken", Scale::Passes(1));
    let pictures = [photo(), DynamicImage::ImageRgb16(photo().to_rgb16())];
    for picture in pictures.map(|picture| picture.crop_imm(0, 0, 70, 20)) {
        let error = upscalers.upscale(picture, &request, &Quiet).unwrap_err();
        assert!(
            matches!(&error, UpscaleError::NotFinite(file) if file.ends_with("broken.safetensors")),
            "{error}"
        );
    }
}
