//! Times the GPU backend at the shapes of Stable Diffusion 1.5 (512×512), SDXL (1024×1024) and Real-ESRGAN.
//!
//! `cargo bench -p reverie-kernels --bench gpu [-- [--device N] [--wgmma] [FILTER…]]`; a filter is part of a name, and
//! `--wgmma` has attention by these instructions. Prints name, milliseconds, rate and its share of what the device does at best,
//! separated by tabs; `reverie_examine::speed` says what these are.

use reverie_examine::{
    correctness::Sizes,
    speed::{Speed, ceilings, speeds},
};
use reverie_kernels::{
    Result,
    gpu::{Device as _, cuda::Cuda},
};

fn print(speed: &Speed) {
    let Speed { operation, case, ms, rate, unit, share, .. } = speed;
    println!(
        "{:<36}\t{ms:>9.4}\t{rate:>7.1} {unit}\t{:>4.0} %",
        format!("{operation} {case}"),
        100.0 * share
    );
}

fn main() -> Result<()> {
    let (mut device, mut wgmma, mut filters) = (0, false, Vec::new());
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--device" => device = args.next().and_then(|arg| arg.parse().ok()).unwrap_or(0),
            "--wgmma" => wgmma = true,
            _ => filters.push(arg),
        }
    }
    let cuda = match Cuda::new(device, None, wgmma) {
        Ok(cuda) => cuda,
        Err(error) => {
            println!("# skipped: {error}");
            return Ok(());
        }
    };
    let best = ceilings(&cuda, Sizes::Real)?;
    println!("# {}; name, ms, rate, share of the ceiling", cuda.name());
    println!("# ceilings: {:.0} GB/s of a copy, {:.0} TFLOP/s by mma", best.copy_gb_s, best.product_tflop_s);
    speeds(&cuda, &best, Sizes::Real, &filters, &mut print)?;
    Ok(())
}
