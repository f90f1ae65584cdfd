//! Times the UNet and the VAE decoder of Stable Diffusion 1.5's size, as four steps of LCM use them; or those of another folder,
//! such as of SDXL's size as `tests/gpu/peers/weights.py` makes it on a GPU.
//!
//! ```text
//! python tests/oracles/diffusion/make_full_size.py FOLDER             random weights, once
//! python tests/oracles/diffusion/make_single_file.py FOLDER           and an encoded prompt for them
//! export REVERIE_FULL_SIZE=FOLDER
//! cargo bench -p reverie-models --bench sd15 -- --size 256 --size 512
//! cargo bench -p reverie-models --bench sd15 -- --device cuda:0 --batch 8 --size 512 [--wgmma]
//! cargo bench -p reverie-models --bench sd15 -- --device cuda:0 --size 512 --trace FILE         the launches of a step
//! cargo bench -p reverie-models --bench sd15 -- --serve               driven by tests/bench/diffusion/sd15.py
//! ```
//!
//! It prints the time of each part and the peak memory; on the CPU the operations by their share, too, and the time of each
//! step. With `--serve` it says that it is ready, then for each line on its standard input (the pictures' side and how many,
//! and optionally a file for their values) makes them in one batch and answers with a JSON object. Without the device that is
//! asked for it says that it was skipped.

mod machine;
mod picture;
mod timed;

use std::{
    io::BufRead,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use machine::{Machine, TRACED, memory_mb};
use picture::{Models, Pictures};
use reverie_kernels::{
    cpu::CpuBackend,
    gpu::{GpuBackend, cuda::Cuda},
};
use reverie_models::Result;
use timed::Timed;

struct Arguments {
    sizes: Vec<usize>,
    batch: usize,
    threads: usize,
    /// The GPU's number; none: the CPU.
    gpu: Option<usize>,
    /// Attention by these instructions.
    wgmma: bool,
    serve: bool,
    /// Where the launches of a step go.
    trace: Option<PathBuf>,
}

fn main() {
    let mut arguments = Arguments {
        sizes: Vec::new(),
        batch: 1,
        threads: 2,
        gpu: None,
        wgmma: false,
        serve: false,
        trace: None,
    };
    let mut bench = false;
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().expect("a value after the option");
        let number = |word: String| word.parse().expect("a number after the option");
        match word.as_str() {
            "--bench" => bench = true,
            "--wgmma" => arguments.wgmma = true,
            "--serve" => arguments.serve = true,
            "--size" => arguments.sizes.push(number(value())),
            "--batch" => arguments.batch = number(value()),
            "--threads" => arguments.threads = number(value()),
            "--trace" => arguments.trace = Some(value().into()),
            "--device" => arguments.gpu = gpu_number(&value()),
            other => panic!("unknown argument {other}"),
        }
    }
    // `cargo test --all-targets` runs benchmarks too, without this flag: there is nothing to test here.
    if !bench && !arguments.serve {
        return;
    }
    let Some(folder) = std::env::var_os("REVERIE_FULL_SIZE").map(PathBuf::from) else {
        eprintln!("SKIPPED: REVERIE_FULL_SIZE names no folder made by make_single_file.py");
        return;
    };
    let result = match arguments.gpu.map(|number| Cuda::new(number, None, arguments.wgmma)) {
        None => run(Timed::new(CpuBackend::new(arguments.threads)), &folder, &arguments),
        Some(Ok(cuda)) => run(GpuBackend::new(cuda), &folder, &arguments),
        Some(Err(error)) if arguments.serve => {
            println!("{}", serde_json::json!({ "skipped": error.to_string() }));
            return;
        }
        Some(Err(error)) => {
            println!("skipped: {error}");
            return;
        }
    };
    result.expect("a folder made by make_single_file.py, and memory for so many pictures");
}

/// Of `cpu`, `cuda` or `cuda:N`.
fn gpu_number(device: &str) -> Option<usize> {
    match device.strip_prefix("cuda") {
        None if device == "cpu" => None,
        Some("") => Some(0),
        other => {
            let number = other.and_then(|rest| rest.strip_prefix(':')?.parse().ok());
            Some(number.unwrap_or_else(|| panic!("unknown device {device}; known are cpu, cuda, cuda:N")))
        }
    }
}

fn run<M: Machine>(backend: M, folder: &Path, arguments: &Arguments) -> Result<()> {
    let start = Instant::now();
    let backend = Arc::new(backend);
    let models = Models::load(backend.clone(), folder)?;
    let load_s = start.elapsed().as_secs_f64();
    if arguments.serve {
        let about = serde_json::json!({
            "name": models.backend.name(),
            "load_s": load_s,
            "load_peak_mb": memory_mb("VmHWM"),
            "loaded_mb": memory_mb("VmRSS"),
        });
        println!("{about}");
        return serve(&models);
    }
    println!("{}", models.backend.name());
    println!("loading {load_s:.1} s, peak {} MB, then {} MB", memory_mb("VmHWM"), memory_mb("VmRSS"));
    print_operations(&*models.backend);
    let sizes = if arguments.sizes.is_empty() { &[256, 512] } else { &arguments.sizes[..] };
    for &size in sizes {
        report(&models, size, arguments.batch)?;
        if let Some(file) = &arguments.trace {
            // Others, whose network has made nothing yet: what is recorded can't be traced.
            let rows = Models::load(backend.clone(), folder)?.trace(&models, size, arguments.batch)?;
            let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
            std::fs::write(file, format!("{TRACED}\n{lines}")).expect("a file that can be written");
            println!("{} launches of a step", rows.len());
        }
    }
    Ok(())
}

fn report<M: Machine>(models: &Models<M>, size: usize, batch: usize) -> Result<()> {
    // Twice: the first fills the memory pool, and has the device record its steps.
    models.pictures(size, batch)?;
    models.backend.operations();
    let Pictures { steps, vae, peak_mb, .. } = models.pictures(size, batch)?;
    let all: Duration = steps.iter().sum();
    print!("\n{size}x{size}, batch {batch}: ");
    if let Some(memory) = models.backend.memory() {
        // When a step but the last ends on the device is not known here.
        println!("steps together {:.4} s, VAE {:.4} s", all.as_secs_f64(), vae.as_secs_f64());
        println!("on the device {} MB in tensors, {} MB held", memory.peak >> 20, memory.held >> 20);
    } else {
        let steps: Vec<String> = steps.iter().map(|step| format!("{:.2}", step.as_secs_f64())).collect();
        println!("steps {} s, VAE {:.2} s", steps.join(" "), vae.as_secs_f64());
    }
    println!("peak memory {peak_mb} MB");
    print_operations(&*models.backend);
    Ok(())
}

fn print_operations<M: Machine>(backend: &M) {
    backend.operations().iter().for_each(|line| println!("  {line}"));
}

/// Answers the driver's lines.
fn serve<M: Machine>(models: &Models<M>) -> Result<()> {
    for line in std::io::stdin().lock().lines().map_while(std::result::Result::ok) {
        let mut words = line.split_whitespace();
        let mut number = || words.next().and_then(|word| word.parse().ok()).expect("a side and a batch");
        let (size, batch) = (number(), number());
        let pictures = models.pictures(size, batch)?;
        if let Some(file) = words.next() {
            let bytes: Vec<u8> = pictures.values.iter().flat_map(|value| value.to_le_bytes()).collect();
            std::fs::write(file, bytes).expect("a file that can be written");
        }
        let steps: Vec<f64> = pictures.steps.iter().map(Duration::as_secs_f64).collect();
        let mut answer = serde_json::json!({
            "steps_s": steps,
            "vae_s": pictures.vae.as_secs_f64(),
            "cpu_s": pictures.cpu_s,
            "peak_mb": pictures.peak_mb,
        });
        if let Some(memory) = models.backend.memory() {
            answer["tensors_mb"] = (memory.peak >> 20).into();
            answer["held_mb"] = (memory.held >> 20).into();
        }
        println!("{answer}");
    }
    Ok(())
}
