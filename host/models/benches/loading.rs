//! How long a checkpoint of 1 GB takes from its file to layers of the CPU, and how much memory at the most: linear layers and
//! convolutions of SD 1.5's sizes with random fp16 weights, from a file that is in the page cache. `cargo bench -p
//! reverie-models --bench loading -- RUNS`, 5 by default.

use std::{io::Write, time::Instant};

use reverie_kernels::{Activation, Conv2dDesc, cpu::CpuBackend};
use reverie_models::{LayerCache, Loader, Weights};

/// Outputs, inputs, side of the kernel (none for a linear layer), and how many.
const LAYERS: [(usize, usize, Option<usize>, usize); 4] =
    [(320, 320, Some(3), 24), (1280, 1280, Some(3), 20), (1280, 2560, None, 70), (320, 320, None, 300)];

fn names() -> impl Iterator<Item = (String, usize, usize, Option<usize>)> {
    LAYERS.iter().enumerate().flat_map(|(kind, &(outputs, inputs, kernel, count))| {
        (0..count).map(move |i| (format!("kind{kind}.{i}"), outputs, inputs, kernel))
    })
}

fn write(path: &std::path::Path) -> std::io::Result<usize> {
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (name, outputs, inputs, kernel) in names() {
        let side = kernel.map_or(Vec::new(), |side| vec![side, side]);
        let shape = [vec![outputs, inputs], side].concat();
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        let about = serde_json::json!({"dtype": "F16", "shape": shape, "data_offsets": [start, end]});
        header.insert(format!("{name}.weight"), about);
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    let mut state = 1u64;
    for _ in 0..end / 2 {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        // Of either sign, and of a size below 2.
        let half = (state >> 48) as u16 & 0xbfff;
        file.write_all(&half.to_le_bytes())?;
    }
    file.flush()?;
    Ok(end)
}

fn load(path: &std::path::Path) -> Result<usize, reverie_models::Error> {
    let backend = CpuBackend::new(0);
    let cache = LayerCache::default();
    let loader = Loader::new(&backend, Weights::open(&[path])?, &cache);
    for (name, outputs, inputs, kernel) in names() {
        match kernel {
            None => drop(loader.linear(&name, inputs, outputs)?),
            Some(side) => {
                drop(loader.conv2d(&name, Conv2dDesc::same(inputs, outputs, side), Activation::None)?);
            }
        }
    }
    Ok(cache.len())
}

/// The most that was resident and not of a file, in MiB, where the system says.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = |key: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse().ok()).unwrap_or(0)
    };
    kib("VmHWM:") / 1024
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runs = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(5);
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("random.safetensors");
    let bytes = write(&path)?;
    // The first brings the file into the page cache.
    for run in 0..=runs {
        let began = Instant::now();
        let layers = load(&path)?;
        let seconds = began.elapsed().as_secs_f64();
        println!(
            "run {run}: {layers} layers, {} MiB in {seconds:.3} s; peak memory {} MiB",
            bytes >> 20,
            peak()
        );
    }
    Ok(())
}
