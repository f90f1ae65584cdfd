//! `reverie doctor`: looks at everything that a server needs, and says what is wrong and what to do about it.
//!
//! One file for each area. An area reports [`Finding`]s; whatever goes wrong in one stops no other. Nothing is changed: the ledger
//! is only read, a store is given a small object which is deleted again, and folders are tried with a file that is removed.

mod combinations;
mod comfy;
mod configuration;
mod device;
mod disk;
mod examination;
mod http;
mod ledger;
mod models;
mod plugins;
mod ports;
mod report;
mod storage;
mod table;

use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::runtime::Runtime;

use crate::config::Sources;
pub use device::Devices;
pub use examination::{Examination, Extent};
pub use report::{Area, Finding, Level, Report};

/// How much is looked at.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    pub examine: Extent,
    /// Says on stderr what is being looked at.
    pub progress: bool,
}

/// Looks at everything that these sources configure.
pub fn examine(sources: &Sources, options: Options, runtime: &Runtime) -> Report {
    let mut report = Report::default();
    let config = look(&mut report, options, "configuration", |area| configuration::check(sources, area));
    // Without one nothing else can be looked at; the panic is among the findings.
    let Some(config) = config else { return report };
    report.devices = look(&mut report, options, "device", |area| device::check(&config.execution, area));
    let gpu = report.devices.as_ref().and_then(|devices| devices.used);
    report.examination =
        look(&mut report, options, "gpu", |area| examination::check(gpu, options, area)).flatten();
    let room = report.devices.as_ref().map(Devices::room);
    look(&mut report, options, "models", |area| models::check(&config, room, area));
    look(&mut report, options, "plugins", |area| runtime.block_on(plugins::check(&config, area)));
    look(&mut report, options, "ledger", |area| ledger::check(&config.jobs, area));
    look(&mut report, options, "storage", |area| runtime.block_on(storage::check(&config, area)));
    look(&mut report, options, "ports", |area| runtime.block_on(ports::check(&config.server, area)));
    look(&mut report, options, "comfy", |area| runtime.block_on(comfy::check(&config, area)));
    report
}

/// Looks at one area. A panic there is a finding, and what the area would have given is none.
fn look<T>(
    report: &mut Report,
    options: Options,
    name: &'static str,
    check: impl FnOnce(&mut Area<'_>) -> T,
) -> Option<T> {
    if options.progress {
        eprintln!("looking at: {name}");
    }
    let mut area = report.area(name);
    let looked = catch_unwind(AssertUnwindSafe(|| check(&mut area)));
    looked
        .map_err(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            let found =
                format!("this could not be looked at to its end, by a fault of reverie doctor: {text}");
            area.error(found, "report it with this output; the other areas were looked at");
        })
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_area_that_panics_stops_no_other() {
        let mut report = Report::default();
        let options = Options::default();
        let none = look(&mut report, options, "first", |area| {
            area.ok("a beginning");
            panic!("of all things {}", 7);
        });
        assert_eq!(none, None::<()>);
        assert_eq!(look(&mut report, options, "second", |area| area.ok("well")), Some(()));
        let levels: Vec<_> = report.findings.iter().map(|finding| (finding.area, finding.level)).collect();
        assert_eq!(levels, [("first", Level::Ok), ("first", Level::Error), ("second", Level::Ok)]);
        assert!(report.findings[1].found.contains("of all things 7"));
    }
}
