//! Times super-resolution from the picture's bytes to the result's bytes. It prints one JSON object a line.
//!
//! ```text
//! cargo bench --bench upscale                                   the test photograph, each factor
//! cargo bench --bench upscale -- --serve --image photo.png      driven by tests/bench/sr/bench.py
//! ```
//!
//! With `--serve` it loads the network, says that it is ready, then for each line on its standard input (a factor:
//! 2, 3 or 4, and optionally a file to write the result to) enlarges the picture once and answers with the seconds. So
//! a driver can interleave it with its peers without paying for a start each time.

use std::{
    io::BufRead,
    path::{Path, PathBuf},
    time::Instant,
};

use image::DynamicImage;
use reverie::models::{Cancelled, Control, Scale, UpscaleRequest, Upscalers};

const MODEL: &str = "realesr-animevideov3";
const PHOTO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/sr/photo.png");
const RUNS: usize = 7;

struct Free;

impl Control for Free {
    fn before_tile(&self) -> Result<(), Cancelled> {
        Ok(())
    }

    fn tile_done(&self, _: usize, _: usize) {}
}

struct Arguments {
    image: PathBuf,
    threads: usize,
    tile: usize,
    serve: bool,
}

fn main() {
    let mut arguments = Arguments { image: PHOTO.into(), threads: 2, tile: 512, serve: false };
    let mut bench = false;
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap_or_else(|| panic!("{word} needs a value"));
        match word.as_str() {
            "--bench" => bench = true,
            "--serve" => arguments.serve = true,
            "--image" => arguments.image = value().into(),
            "--threads" => arguments.threads = value().parse().expect("a number of threads"),
            "--tile" => arguments.tile = value().parse().expect("a tile side in pixels"),
            other => panic!("unknown argument {other}"),
        }
    }
    // `cargo test --all-targets` runs benchmarks too, without this flag: there is nothing to test here.
    if bench || arguments.serve {
        run(&arguments);
    }
}

fn run(arguments: &Arguments) {
    let picture = image::open(&arguments.image).expect("a picture").to_rgb8();
    let picture = DynamicImage::ImageRgb8(picture);
    let start = Instant::now();
    let (upscalers, _) =
        Upscalers::new(reverie::execution::backend::cpu(arguments.threads), None, arguments.tile);
    let load = start.elapsed().as_secs_f64();
    let (width, height, backend) = (picture.width(), picture.height(), upscalers.backend());
    println!(
        "{}",
        serde_json::json!({"ready": true, "load_s": load, "width": width, "height": height, "backend": backend})
    );
    if !arguments.serve {
        for factor in [2, 3, 4] {
            // The first run pays for the memory that the others use again.
            enlarge(&upscalers, &picture, factor, None);
            let mut seconds: Vec<f64> =
                (0..RUNS).map(|_| enlarge(&upscalers, &picture, factor, None)).collect();
            seconds.sort_by(f64::total_cmp);
            let (min, median) = (seconds[0], seconds[RUNS / 2]);
            println!("{}", serde_json::json!({"factor": factor, "min_s": min, "median_s": median}));
        }
        return;
    }
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("readable standard input");
        let mut words = line.split_whitespace();
        let Some(factor) = words.next() else { continue };
        let factor = factor.parse().expect("a factor");
        let seconds = enlarge(&upscalers, &picture, factor, words.next().map(Path::new));
        println!("{}", serde_json::json!({"factor": factor, "s": seconds}));
    }
}

/// Enlarges the picture and says how many seconds that took; writing it to `output` does not count.
fn enlarge(upscalers: &Upscalers, picture: &DynamicImage, factor: u32, output: Option<&Path>) -> f64 {
    let request = UpscaleRequest { model: MODEL.into(), scale: Scale::Factor(factor as f32) };
    let picture = picture.clone();
    let start = Instant::now();
    let made = upscalers.upscale(picture, &request, &Free).expect("an enlarged picture");
    let seconds = start.elapsed().as_secs_f64();
    if let Some(output) = output {
        made.save(output).expect("a writable output");
    }
    seconds
}
