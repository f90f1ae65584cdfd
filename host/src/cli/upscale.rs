//! `reverie upscale IN OUT`: the networks without a server.

use std::{io::Write as _, path::PathBuf};

use clap::Args;
use reverie_memory::Budget;

use crate::{
    config::Config,
    execution::backend,
    models::{Cancelled, Control, Scale, UpscaleRequest, Upscalers},
    pictures::{self, Encoding, Format},
};

#[derive(Args)]
pub struct Options {
    /// The picture to read: PNG, JPEG, WebP, GIF, BMP or TIFF
    input: PathBuf,
    /// The file to write: .png, .jpg or .webp
    output: PathBuf,
    /// How many times longer each side becomes, in one pass; networks have 2, 3 or 4, resamplers anything from 1 to 8
    #[arg(long, conflicts_with = "magnitude")]
    scale: Option<f32>,
    /// Passes of the network's smallest factor, 1 to 3 [default: 2]
    #[arg(long)]
    magnitude: Option<u32>,
    /// Network or resampler (nearest, bilinear, bicubic, lanczos3)
    #[arg(long, default_value = "realesr-animevideov3")]
    model: String,
    /// Quality of a JPEG, 1 to 100
    #[arg(long, default_value_t = 92, value_parser = clap::value_parser!(u8).range(1..=100))]
    quality: u8,
}

struct ProgressLine;

impl Control for ProgressLine {
    fn before_tile(&self) -> Result<(), Cancelled> {
        Ok(())
    }

    fn tile_done(&self, done: usize, total: usize) {
        eprint!("\rtile {done}/{total}");
        if done == total {
            eprintln!();
        }
        let _ = std::io::stderr().flush();
    }
}

/// Upscales one file.
///
/// # Errors
/// A message that names the file or option.
pub fn upscale(config: &Config, options: &Options) -> Result<(), String> {
    let Options { input, output, .. } = options;
    let extension = output.extension().map(|e| e.to_string_lossy().into_owned()).unwrap_or_default();
    let format = Format::parse(&extension)
        .ok_or_else(|| format!("{}: accepted endings are .png, .jpg, .jpeg and .webp", output.display()))?;
    let content = std::fs::read(input).map_err(|e| format!("{}: {e}", input.display()))?;
    let memory = Budget::unlimited();
    let picture = pictures::decode(&content, config.images.max_input_pixels, &memory)
        .map_err(|e| format!("{}: {e}", input.display()))?;
    let execution = &config.execution;
    let models_dir = Some(execution.models_dir.as_path()).filter(|dir| !dir.as_os_str().is_empty());
    let (upscalers, warnings) = Upscalers::new(backend::open(config)?, models_dir, execution.tile);
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
    let scale = match options.scale {
        Some(factor) => Scale::Factor(factor),
        None => Scale::Passes(options.magnitude.unwrap_or(2)),
    };
    let request = UpscaleRequest { model: options.model.clone(), scale };
    let (from_width, from_height) = (picture.width(), picture.height());
    let (width, height) =
        upscalers.output_size(from_width, from_height, &request).map_err(|e| e.to_string())?;
    pictures::check_size(width, height, config.images.max_output_pixels).map_err(|e| e.to_string())?;
    let began = std::time::Instant::now();
    let made = upscalers.upscale(picture.apart().0, &request, &ProgressLine).map_err(|e| e.to_string())?;
    let encoding = Encoding { format, quality: options.quality };
    let encoded = pictures::encode(&made, encoding, &memory).map_err(|e| e.to_string())?;
    std::fs::write(output, &*encoded).map_err(|e| format!("{}: {e}", output.display()))?;
    let took = began.elapsed().as_secs_f32();
    println!("{}: {from_width}x{from_height} -> {width}x{height} in {took:.2} s", output.display());
    Ok(())
}
