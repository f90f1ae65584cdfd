//! The GPU: what its driver makes of the kernels, whether their results are right, and how fast they are.

use std::{
    sync::mpsc::{self, RecvTimeoutError},
    time::{Duration, Instant},
};

use reverie_examine::{
    correctness::{self, Check, Sizes, Verdict},
    modules::{self, Module},
    speed::{self, Ceilings, Speed},
};
use reverie_kernels::gpu::{Device as _, cuda::Cuda};
use serde::Serialize;

use super::{Area, Options};

/// How long the GPU may stay silent: a kernel that never ends leaves nothing else to see.
const PATIENCE: Duration = Duration::from_secs(300);

/// Bytes that the examination of memory fills: little, as a server may be at work there.
const FILLED: u64 = 256 << 20;

/// Findings of one kind that are told one by one; the table has all.
const SHOWN: usize = 5;

const REPORT: &str =
    "report it with the output of reverie doctor --json; until it is mended, set execution.backend = \"cpu\"";

/// How much of the GPU is examined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Extent {
    /// Nothing.
    None,
    /// Every kernel and operation, at sizes of a tile or two, and no speeds.
    Small,
    /// At the sizes of real models too, and speeds.
    #[default]
    Full,
}

/// What was found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Examination {
    /// In words.
    pub device: String,
    pub modules: Vec<Module>,
    pub checks: Vec<Check>,
    pub ceilings: Option<Ceilings>,
    pub speeds: Vec<Speed>,
}

/// What the examining thread tells.
enum Told {
    Modules(Vec<Module>),
    Check(Check),
    Ceilings(Ceilings),
    Speed(Speed),
    /// It does something else from now on, or still does the same.
    Working(String),
    Failed(String),
    Done,
}

/// Examines the GPU of this number.
pub fn check(gpu: Option<usize>, options: Options, area: &mut Area<'_>) -> Option<Examination> {
    let Some(number) = gpu else {
        area.ok("not examined: no GPU computes");
        return None;
    };
    if options.examine == Extent::None {
        area.note(
            "the examination of the GPU was left out (--quick)",
            "run reverie doctor without it once after a new GPU or driver was installed",
        );
        return None;
    }
    let (tell, told) = mpsc::channel();
    let examining = std::thread::Builder::new().name("examination".into()).spawn(move || {
        let mut tell = |what: Told| drop(tell.send(what));
        match examine(number, options.examine, &mut tell) {
            Ok(()) => tell(Told::Done),
            Err(error) => tell(Told::Failed(error.to_string())),
        }
    });
    if let Err(error) = examining {
        area.error(
            format!("the examination does not start: {error}"),
            "allow this user more threads (ulimit -u)",
        );
        return None;
    }
    let mut examination = Examination::default();
    let failed = gather(&told, &mut examination, options);
    judge(&examination, options.examine, area);
    if let Some(error) = failed {
        area.error(error, REPORT);
    }
    Some(examination)
}

/// Takes in what the thread tells until it is done; why it did not come to its end, where it did not.
fn gather(told: &mpsc::Receiver<Told>, examination: &mut Examination, options: Options) -> Option<String> {
    let mut doing = String::from("opening it");
    let began = Instant::now();
    loop {
        match told.recv_timeout(PATIENCE) {
            Ok(Told::Modules(modules)) => examination.modules = modules,
            Ok(Told::Check(check)) => {
                doing = format!("checking what comes after {}", check.name());
                examination.checks.push(check);
            }
            Ok(Told::Ceilings(ceilings)) => examination.ceilings = Some(ceilings),
            Ok(Told::Speed(speed)) => examination.speeds.push(speed),
            Ok(Told::Working(what)) => {
                if options.progress {
                    eprintln!("  {:4.0} s  {what}", began.elapsed().as_secs_f32());
                }
                if examination.device.is_empty() {
                    examination.device.clone_from(&what);
                }
                doing = what;
            }
            Ok(Told::Done) => return None,
            Ok(Told::Failed(error)) => return Some(format!("the examination ended while {doing}: {error}")),
            Err(RecvTimeoutError::Disconnected) => {
                return Some(format!("the examination ended while {doing}, by a fault of its own"));
            }
            // The thread stays: nothing ends a kernel but the process.
            Err(RecvTimeoutError::Timeout) => {
                let seconds = PATIENCE.as_secs();
                return Some(format!(
                    "the GPU did not answer for {seconds} s, while {doing}; the rest was left out"
                ));
            }
        }
    }
}

fn examine(number: usize, extent: Extent, tell: &mut dyn FnMut(Told)) -> reverie_kernels::Result<()> {
    let mma = Cuda::new(number, None, false)?;
    // Where it has no such instructions, the error says so.
    let wgmma = Cuda::new(number, None, true).ok();
    tell(Told::Working(mma.name().to_owned()));

    tell(Told::Working("compiling the kernels".into()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    tell(Told::Modules(modules::compile_all(&mma, threads, &|_, _| ())));

    let sizes: &[Sizes] = if extent == Extent::Full { &[Sizes::Small, Sizes::Real] } else { &[Sizes::Small] };
    for size in sizes {
        tell(Told::Working(format!("checking operations, {size:?} sizes").to_lowercase()));
        let mut each = |check: &Check| tell(Told::Check(check.clone()));
        correctness::operations(&mma, wgmma.as_ref(), *size, &[], &mut each);
    }
    tell(Told::Working("checking transfers, recordings, lanes and memory".into()));
    let free = mma.properties().memory_free.unwrap_or(FILLED);
    let little = Cuda::new(number, Some(FILLED.min(free / 2)), false)?;
    correctness::device(&little, &mut |check| tell(Told::Check(check.clone())));
    drop(little);

    if extent == Extent::Full {
        tell(Told::Working("measuring speeds".into()));
        let ceilings = speed::ceilings(&mma, Sizes::Real)?;
        tell(Told::Ceilings(ceilings));
        for cuda in [Some(&mma), wgmma.as_ref()].into_iter().flatten() {
            // Attention alone has two ways.
            let filters: &[String] = if cuda.wgmma() { &["attention".into()] } else { &[] };
            speed::speeds(cuda, &ceilings, Sizes::Real, filters, &mut |speed| {
                tell(Told::Speed(speed.clone()))
            })?;
        }
    }
    Ok(())
}

/// What follows from it.
fn judge(examination: &Examination, extent: Extent, area: &mut Area<'_>) {
    let Examination { modules, checks, ceilings, speeds, .. } = examination;
    let refused: Vec<&Module> = modules.iter().filter(|module| module.error.is_some()).collect();
    if refused.is_empty() && !modules.is_empty() {
        area.ok(format!("all {} kernels compile", modules.len()));
    }
    for module in refused.iter().take(SHOWN) {
        let error = module.error.as_deref().unwrap_or_default();
        area.error(
            format!("the driver refuses the kernel {}: {error}", module.variant),
            format!("update NVIDIA's driver; if that does not help, {REPORT}"),
        );
    }
    more(&refused, "kernels are refused", area);

    let (wrong, others): (Vec<&Check>, Vec<&Check>) = checks.iter().partition(|check| check.is_wrong());
    let right = others.iter().filter(|check| matches!(check.verdict, Verdict::Right)).count();
    let skipped = others.len() - right;
    for check in wrong.iter().take(SHOWN) {
        let what = match &check.verdict {
            Verdict::Differs(_) => {
                format!("differs from the CPU by {:.1e}, {:.0e} is allowed", check.worst, check.allowed)
            }
            Verdict::Failed(error) => format!("failed: {error}"),
            Verdict::Right | Verdict::Skipped(_) => continue,
        };
        let remedy = match check.path {
            "wgmma" => {
                "set execution.attention = \"mma\", and report it with the output of reverie doctor --json"
            }
            _ => REPORT,
        };
        area.error(format!("{}: {what}", check.name()), remedy);
    }
    more(&wrong, "checks went wrong", area);
    if right > 0 {
        let (of, skipped) = (
            checks.len() - skipped,
            if skipped > 0 { format!("; {skipped} skipped") } else { String::new() },
        );
        area.ok(format!("{right} of {of} checks are right{skipped}"));
    }
    if let Some(ceilings) = ceilings {
        area.ok(format!(
            "{} speeds measured; the device copies {:.0} GB/s and multiplies {:.1} TFLOP/s at best",
            speeds.len(),
            ceilings.copy_gb_s,
            ceilings.product_tflop_s
        ));
    } else if extent == Extent::Small {
        area.note(
            "real sizes and speeds were left out (--examine small)",
            "run reverie doctor without it to have them",
        );
    }
}

fn more<T>(wrong: &[T], what: &str, area: &mut Area<'_>) {
    if wrong.len() > SHOWN {
        area.error(format!("{} further {what}: see the table", wrong.len() - SHOWN), REPORT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{Level, Report};

    fn check(path: &'static str, verdict: Verdict) -> Check {
        Check { operation: "attention", case: "1x64".into(), path, worst: 0.5, allowed: 2e-3, verdict }
    }

    fn judged(checks: Vec<Check>) -> Report {
        let mut report = Report::default();
        judge(&Examination { checks, ..Examination::default() }, Extent::Full, &mut report.area("gpu"));
        report
    }

    #[test]
    fn what_differs_is_an_error_that_says_what_to_set() {
        let report =
            judged(vec![check("mma", Verdict::Right), check("wgmma", Verdict::Differs("row 3".into()))]);
        assert_eq!((report.count(Level::Error), report.count(Level::Ok)), (1, 1));
        let finding = &report.findings[0];
        assert!(
            finding.found.contains("attention 1x64 wgmma: differs from the CPU by 5.0e-1, 2e-3"),
            "{report}"
        );
        assert!(finding.remedy.as_ref().unwrap().contains("execution.attention = \"mma\""), "{report}");
        assert!(report.findings[1].found.contains("1 of 2 checks"), "{report}");
    }

    #[test]
    fn a_lost_device_is_not_told_a_hundred_times() {
        let report = judged(vec![check("", Verdict::Failed("gone".into())); 100]);
        assert_eq!(report.count(Level::Error), SHOWN + 1);
        assert!(report.to_string().contains("95 further checks"), "{report}");
        let report = judged(vec![check("", Verdict::Right), check("", Verdict::Skipped("no room".into()))]);
        assert!(report.to_string().contains("1 of 1 checks are right; 1 skipped"), "{report}");
    }

    #[test]
    fn an_examination_that_does_not_come_to_its_end_says_where() {
        let gathered = |told: Vec<Told>| {
            let (tell, receiver) = mpsc::channel();
            told.into_iter().for_each(|what| tell.send(what).unwrap());
            drop(tell);
            let mut examination = Examination::default();
            (gather(&receiver, &mut examination, Options::default()), examination.checks.len())
        };
        let right = || Told::Check(check("mma", Verdict::Right));
        assert_eq!(gathered(vec![right(), Told::Done]), (None, 1));
        let (error, checks) = gathered(vec![right()]);
        assert!(checks == 1 && error.unwrap().contains("after attention 1x64 mma, by a fault"));
        let (error, _) = gathered(vec![Told::Working("compiling".into()), Told::Failed("gone".into())]);
        assert_eq!(error.unwrap(), "the examination ended while compiling: gone");
    }

    #[test]
    fn without_a_gpu_or_when_left_out_nothing_is_examined() {
        let mut report = Report::default();
        let quick = Options { examine: Extent::None, progress: false };
        assert!(super::check(None, Options::default(), &mut report.area("gpu")).is_none());
        assert!(super::check(Some(0), quick, &mut report.area("gpu")).is_none());
        assert_eq!((report.count(Level::Ok), report.count(Level::Note)), (1, 1));
    }
}
