//! Times the UNet and the VAE decoder of Stable Diffusion 1.5's size, as four steps of LCM use them.
//!
//! ```text
//! python tests/oracles/diffusion/make_full_size.py FOLDER             random weights, once
//! python tests/oracles/diffusion/make_single_file.py FOLDER           and an encoded prompt for them
//! export REVERIE_FULL_SIZE=FOLDER
//! cargo bench -p reverie-models --bench sd15 -- --size 256 --size 512
//! cargo bench -p reverie-models --bench sd15 -- --serve               driven by tests/bench/diffusion/sd15.py
//! ```
//!
//! It prints the time of each part, the operations by their share, and the peak memory. With `--serve` it says that it is
//! ready, then for each line on its standard input (the picture's side, and optionally a file for the picture's values)
//! makes one picture and answers with a JSON object.

mod timed;

use std::{
    io::BufRead,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use reverie_kernels::{Backend, cpu::CpuBackend};
use reverie_models::{
    AutoencoderKLConfig, LayerCache, Loader, Result, Weights,
    random::Generator,
    unet::{Conditions, UNet2DConditionModel},
    vae::AutoencoderKL,
};
use serde::de::DeserializeOwned;
use timed::Timed;

type Device = Timed<CpuBackend>;

/// Of the noise that the picture is made of; the driver's peers take the same.
const SEED: u64 = 7;
/// Pixels in a row of a latent.
const FACTOR: usize = 8;

struct Arguments {
    sizes: Vec<usize>,
    threads: usize,
    serve: bool,
}

fn main() {
    let mut arguments = Arguments { sizes: Vec::new(), threads: 2, serve: false };
    let mut bench = false;
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number =
            || words.next().and_then(|word| word.parse().ok()).expect("a number after the option");
        match word.as_str() {
            "--bench" => bench = true,
            "--serve" => arguments.serve = true,
            "--size" => arguments.sizes.push(number()),
            "--threads" => arguments.threads = number(),
            other => panic!("unknown argument {other}"),
        }
    }
    // `cargo test --all-targets` runs benchmarks too, without this flag: there is nothing to test here.
    if !bench && !arguments.serve {
        return;
    }
    match std::env::var_os("REVERIE_FULL_SIZE") {
        Some(folder) => {
            run(&PathBuf::from(folder), &arguments).expect("a folder made by make_single_file.py")
        }
        None => eprintln!("SKIPPED: REVERIE_FULL_SIZE names no folder made by make_single_file.py"),
    }
}

fn run(folder: &Path, arguments: &Arguments) -> Result<()> {
    let start = Instant::now();
    let models = Models::load(folder, arguments.threads)?;
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
    print_operations(&models.backend);
    let sizes = if arguments.sizes.is_empty() { &[256, 512] } else { &arguments.sizes[..] };
    for &size in sizes {
        // Twice: the first fills the memory pool.
        models.picture(size)?;
        models.backend.take();
        let picture = models.picture(size)?;
        let steps: Vec<String> =
            picture.steps.iter().map(|step| format!("{:.2}", step.as_secs_f64())).collect();
        println!("\n{size}x{size}: steps {} s, VAE {:.2} s", steps.join(" "), picture.vae.as_secs_f64());
        println!("peak memory {} MB", picture.peak_mb);
        print_operations(&models.backend);
    }
    Ok(())
}

/// Answers the driver's lines.
fn serve(models: &Models) -> Result<()> {
    for line in std::io::stdin().lock().lines().map_while(std::result::Result::ok) {
        let mut words = line.split_whitespace();
        let size = words.next().and_then(|word| word.parse().ok()).expect("a side in pixels");
        let picture = models.picture(size)?;
        if let Some(file) = words.next() {
            let bytes: Vec<u8> = picture.values.iter().flat_map(|value| value.to_le_bytes()).collect();
            std::fs::write(file, bytes).expect("a file that can be written");
        }
        let steps: Vec<f64> = picture.steps.iter().map(Duration::as_secs_f64).collect();
        let vae = picture.vae.as_secs_f64();
        let answer = serde_json::json!({
            "steps_s": steps, "vae_s": vae, "cpu_s": picture.cpu_s, "peak_mb": picture.peak_mb,
        });
        println!("{answer}");
    }
    Ok(())
}

struct Models {
    backend: Device,
    unet: UNet2DConditionModel<Device>,
    vae: AutoencoderKL<Device>,
    /// Of the latents as the VAE takes them.
    scaling_factor: f32,
    /// Prompt, timesteps and noise levels, shared with the peers.
    inputs: Weights,
}

struct Picture {
    values: Vec<f32>,
    steps: Vec<Duration>,
    vae: Duration,
    /// Of all threads together.
    cpu_s: f64,
    peak_mb: u64,
}

impl Models {
    fn load(folder: &Path, threads: usize) -> Result<Self> {
        let backend = Timed::new(CpuBackend::new(threads));
        let cache = LayerCache::default();
        let (config, weights) = open(&folder.join("unet"))?;
        let unet = UNet2DConditionModel::load(&Loader::new(&backend, weights, &cache), &config)?;
        let cache = LayerCache::default();
        let (config, weights) = open::<AutoencoderKLConfig>(&folder.join("vae"))?;
        let scaling_factor = config.scaling_factor;
        let vae = AutoencoderKL::load_decoder(&Loader::new(&backend, weights, &cache), &config)?;
        let inputs = Weights::open(&[folder.join("picture.safetensors")])?;
        Ok(Self { backend, unet, vae, scaling_factor, inputs })
    }

    /// Four steps and the decoding of a picture of `size` by `size` pixels.
    fn picture(&self, size: usize) -> Result<Picture> {
        reset_peak();
        let cpu = cpu_seconds();
        let backend = &self.backend;
        let side = size / FACTOR;
        let shape = [1, 4, side, side];
        let prompt = backend.tensor(self.inputs.values("prompt")?, [1, 1, 77, 768])?;
        let timesteps = self.inputs.values("timesteps")?;
        let sigmas = self.inputs.values("sigmas")?;
        let mut latents = Generator::new(SEED).randn(shape.iter().product());
        latents.iter_mut().for_each(|x| *x *= sigmas[0]);
        let mut steps = Vec::new();
        // Euler's steps, with those timesteps and noise levels: the calls of the network are LCM's, and the picture does not
        // hang on how each program draws the noise that LCM adds.
        for (timestep, levels) in timesteps.iter().zip(sigmas.windows(2)) {
            let start = Instant::now();
            let (sigma, next) = (levels[0], levels[1]);
            let scale = 1.0 / (sigma * sigma + 1.0).sqrt();
            let input = backend.tensor(latents.iter().map(|x| x * scale).collect(), shape)?;
            let noise = self.unet.forward(backend, &input, &[*timestep], &prompt, &Conditions::default())?;
            let noise = backend.to_vec(&noise)?;
            latents.iter_mut().zip(noise).for_each(|(x, noise)| *x += noise * (next - sigma));
            steps.push(start.elapsed());
        }
        let start = Instant::now();
        latents.iter_mut().for_each(|x| *x /= self.scaling_factor);
        let values = backend.to_vec(&self.vae.decode(backend, &backend.tensor(latents, shape)?)?)?;
        let (vae, cpu_s) = (start.elapsed(), cpu_seconds() - cpu);
        Ok(Picture { values, steps, vae, cpu_s, peak_mb: memory_mb("VmHWM") })
    }
}

fn open<C: DeserializeOwned>(folder: &Path) -> Result<(C, Weights)> {
    let config = std::fs::read(folder.join("config.json")).expect("a config.json");
    let config = serde_json::from_slice(&config).expect("a configuration of diffusers");
    Ok((config, Weights::open(&[folder.join("diffusion_pytorch_model.safetensors")])?))
}

fn print_operations(backend: &Device) {
    let mut costs: Vec<_> = backend.take().into_iter().collect();
    costs.sort_by_key(|(_, cost)| std::cmp::Reverse(cost.time));
    let total: f64 = costs.iter().map(|(_, cost)| cost.time.as_secs_f64()).sum();
    for (what, cost) in costs {
        let seconds = cost.time.as_secs_f64();
        let rate = if cost.flops > 0.0 {
            format!("{:6.0} GFLOP/s", cost.flops / seconds / 1e9)
        } else {
            String::new()
        };
        println!(
            "  {what:18} {:5} calls {seconds:8.3} s {:5.1} % {rate}",
            cost.calls,
            100.0 * seconds / total
        );
    }
}

/// Has the kernel take the highest memory use from now on.
fn reset_peak() {
    // Where that is not possible, the peak is that of the whole process.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// What the process has used of the processors; 0 where that can't be told.
fn cpu_seconds() -> f64 {
    /// Of Linux' accounting, on every architecture.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name before the closing parenthesis may hold spaces; user and system time are the 12th and 13th field after.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / TICKS_PER_SECOND
}

/// A line of `/proc/self/status` in megabytes; 0 where there is none.
fn memory_mb(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).map_or(0, |kb| kb / 1024)
}
