//! `reverie doctor`.

use std::process::ExitCode;

use clap::Args;

use crate::{
    config::Sources,
    doctor::{self, Extent, Level},
};

/// After the options, in the command's own help.
pub const HELP: &str = "\
Exit status: 0 where nothing is wrong; 1 where there are errors (with --strict: or warnings); 2 for options that are not \
understood.

--json prints one document: format (1), version; ok, note, warning and error (how many findings of each level); findings (area, \
level, found, remedy); devices (cpu, driver, gpus, auto, backend); examination (device, modules, checks, ceilings, speeds), null \
where no GPU was examined.";

#[derive(Args)]
pub struct Options {
    /// How much of a GPU is examined: full takes some minutes, small leaves real sizes and speeds out
    #[arg(long, value_enum, default_value = "full", value_name = "EXTENT")]
    examine: Extent,
    /// Leave the examination of a GPU out: --examine none
    #[arg(long, conflicts_with = "examine")]
    quick: bool,
    /// End with status 1 for warnings too
    #[arg(long)]
    strict: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Looks at everything, prints it, and says how the process is to end.
///
/// # Errors
/// Where the system gives no threads.
pub fn doctor(sources: &Sources, options: &Options) -> Result<ExitCode, String> {
    let examine = if options.quick { Extent::None } else { options.examine };
    let report = doctor::examine(sources, doctor::Options { examine, progress: true }, &super::runtime()?);
    match options.json {
        true => println!("{:#}", report.to_json()),
        false => print!("{report}"),
    }
    let wrong = report.count(Level::Error) + if options.strict { report.count(Level::Warning) } else { 0 };
    Ok(if wrong > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
