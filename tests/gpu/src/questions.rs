//! The questions, each asked of the first device.

use std::{error::Error, time::Instant};

use reverie_examine::{
    correctness::Sizes,
    modules::compile_all,
    speed::{self, Speed},
};
use reverie_kernels::{
    Backend as _,
    gpu::{GpuBackend, cuda::Cuda},
};

use crate::{Asked, End, table::Table};

pub type Answer = Result<End, Box<dyn Error>>;

/// The first device, or why there is none.
pub fn open(wgmma: bool) -> Result<Cuda, End> {
    Cuda::new(0, None, wgmma).map_err(|error| End::Skipped(error.to_string()))
}

/// By `mma`, then by `wgmma` where the device has it.
pub fn ways() -> Result<Vec<Cuda>, End> {
    let mma = open(false)?;
    let has_wgmma = mma.properties().lacks_wgmma().is_none();
    Ok(std::iter::once(mma).chain(has_wgmma.then(|| open(true)).transpose()?).collect())
}

macro_rules! or_end {
    ($found:expr) => {
        match $found {
            Ok(found) => found,
            Err(end) => return Ok(end),
        }
    };
}

pub(crate) use or_end;

fn sizes(small: bool) -> Sizes {
    if small { Sizes::Small } else { Sizes::Real }
}

pub fn environment() -> Answer {
    let devices = or_end!(Cuda::list().map_err(|error| End::Skipped(error.to_string())));
    for device in &devices {
        let [major, minor] = device.compute_capability;
        println!(
            "- {}: {}, compute capability {major}.{minor}, {} multiprocessors, {} MiB of memory, {} MiB of L2 cache, {} KiB of \
             shared memory for a block; driver of CUDA {}.{}{}",
            device.ordinal,
            device.name,
            device.multiprocessors,
            device.memory_total >> 20,
            device.l2_bytes >> 20,
            device.shared_per_block >> 10,
            device.driver[0],
            device.driver[1],
            device.too_old().map(|why| format!("; {why}")).unwrap_or_default(),
        );
    }
    Ok(if devices.is_empty() { End::Skipped("no NVIDIA GPU".into()) } else { End::Right })
}

/// A kernel's result comes back, and is right.
pub fn ping() -> Answer {
    let start = Instant::now();
    let gpu = GpuBackend::new(or_end!(open(false)));
    let x = gpu.tensor(vec![1.0, 2.0, 3.0, 4.0], [1, 1, 2, 2])?;
    let sum = gpu.to_vec(&gpu.add(&x, &x)?)?;
    if sum != [2.0, 4.0, 6.0, 8.0] {
        return Ok(End::Wrong(format!("twice 1, 2, 3, 4 is {sum:?}")));
    }
    println!("{} ms", start.elapsed().as_millis());
    Ok(End::Right)
}

pub fn modules(asked: &Asked) -> Answer {
    let cuda = or_end!(open(false));
    let columns = [
        "variant",
        "entry",
        "compile_ms",
        "registers",
        "local_bytes",
        "shared_bytes",
        "threads",
        "blocks_per_multiprocessor",
        "error",
    ];
    let mut table = Table::open(asked.out.as_deref(), &columns)?;
    let start = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let modules = compile_all(&cuda, threads, &|_, _| {});
    let mut refused = 0;
    for module in &modules {
        let error = module.error.clone().unwrap_or_default();
        refused += usize::from(module.error.is_some());
        if !error.is_empty() || module.local_bytes > 0 {
            println!(
                "{} {}: {} bytes of local memory {error}",
                module.variant, module.entry, module.local_bytes
            );
        }
        table.row(&[
            module.variant.clone(),
            module.entry.clone(),
            format!("{:.1}", module.compile_ms),
            module.registers.to_string(),
            module.local_bytes.to_string(),
            module.shared_bytes.to_string(),
            module.threads.to_string(),
            module.blocks_per_multiprocessor.to_string(),
            error,
        ])?;
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("{} kernels in {seconds:.1} s on {threads} threads, {refused} refused", modules.len());
    Ok(if refused > 0 { End::Wrong(format!("{refused} refused")) } else { End::Right })
}

pub fn speeds(asked: &Asked) -> Answer {
    let sizes = sizes(asked.small);
    let ways = or_end!(ways());
    let mut ceilings = Table::open(asked.ceilings.as_deref(), &["what", "rate", "unit"])?;
    let columns = ["operation", "case", "path", "ms", "rate", "unit", "share"];
    let mut table = Table::open(asked.out.as_deref(), &columns)?;
    let best = speed::ceilings(&ways[0], sizes)?;
    let rows = [("copy", best.copy_gb_s, "GB/s"), ("mma out of registers", best.product_tflop_s, "TFLOP/s")];
    for (what, rate, unit) in rows {
        println!("{what}: {rate:.1} {unit}");
        ceilings.row(&[what.into(), format!("{rate:.1}"), unit.into()])?;
    }
    let mut written = Ok(());
    let mut count = 0;
    let mut each = |speed: &Speed, way: usize| {
        // What `wgmma` can't do has been measured.
        if way > 0 && speed.path != "wgmma" {
            return;
        }
        let Speed { operation, case, path, ms, rate, unit, share } = speed;
        println!("{operation} {case} {path}: {ms:.4} ms, {rate:.1} {unit}, {:.0} %", 100.0 * share);
        let cells = [
            (*operation).into(),
            case.clone(),
            (*path).into(),
            format!("{ms:.4}"),
            format!("{rate:.1}"),
            (*unit).into(),
            format!("{share:.3}"),
        ];
        count += 1;
        if let Err(error) = table.row(&cells) {
            written = Err(error);
        }
    };
    for (way, cuda) in ways.iter().enumerate() {
        // Attention alone has more than one way.
        let filters = if way == 0 { asked.words.clone() } else { vec!["attention".into()] };
        speed::speeds(cuda, &best, sizes, &filters, &mut |speed| each(speed, way))?;
    }
    written?;
    println!("{count} operations");
    Ok(End::Right)
}

pub fn once(asked: &Asked) -> Answer {
    let cuda = or_end!(open(asked.wgmma));
    for name in speed::once(&cuda, sizes(asked.small), &asked.words)? {
        println!("{name}");
    }
    Ok(End::Right)
}
