//! The ledger of jobs: only read, so that a server may go on writing it.

use super::{Area, disk};
use crate::jobs;

pub fn check(config: &jobs::Config, area: &mut Area<'_>) {
    let path = &config.ledger;
    if path.as_os_str().is_empty() {
        return area.note(
            "jobs.ledger is empty: accepted jobs are lost when the server ends",
            "set jobs.ledger to a file, unless that is meant",
        );
    }
    let shown = path.display();
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(".".as_ref());
    match path.metadata() {
        Ok(file) if file.is_dir() => {
            return area.error(
                format!("jobs.ledger '{shown}' is a folder"),
                "set jobs.ledger to a file in it, such as ledger.db",
            );
        }
        Ok(file) => held(config, file.len(), area),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            area.ok(format!("{shown} is not there yet: it is made at the first start"));
        }
        Err(error) => {
            area.error(
                format!("{shown}: {error}"),
                "let this user read it, or set jobs.ledger to another file",
            );
        }
    }
    // It is replaced now and then by a new file beside it.
    if let Err(error) = disk::try_writing(folder) {
        area.error(
            format!("the ledger's folder '{}' takes no files: {error}", folder.display()),
            "let this user write there, or set jobs.ledger to a file in another folder: without it no job is accepted",
        );
    }
    match disk::free(folder) {
        Some(free) if disk::is_nearly_full(free) => area.warning(
            format!("{} are left on the disk of '{}'", disk::bytes(free), folder.display()),
            "make room: when the disk is full, no job is accepted",
        ),
        Some(free) => {
            area.ok(format!("{} are left on the disk of '{}'", disk::bytes(free), folder.display()))
        }
        None => {}
    }
}

fn held(config: &jobs::Config, bytes: u64, area: &mut Area<'_>) {
    let shown = config.ledger.display();
    let size = disk::bytes(bytes);
    match jobs::inspect(&config.ledger) {
        Ok(found) => {
            let jobs::Inspected { active, finished, damaged, in_use } = found;
            let used = if in_use { "; a server has it open" } else { "" };
            area.ok(format!("{shown}: {finished} finished and {active} unfinished jobs, {size}{used}"));
            if damaged > 0 {
                area.warning(
                    format!("{shown}: {damaged} record(s) can't be read"),
                    "nothing: the next start takes over what is sound, and keeps the damaged file beside the new one",
                );
            }
        }
        Err(error) => area.error(
            format!("{error} ({size})"),
            format!("if it is meant to be one, the next start takes what is sound in it; if not, set jobs.ledger to another file than {shown}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{Level, Report};

    #[test]
    fn what_a_ledger_has_is_told_and_nothing_changes() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = dir.path().join("ledger.db");
        let defaults = crate::config::load(&Default::default()).unwrap().jobs;
        let config = jobs::Config { ledger: ledger.clone(), ..defaults };
        let look = || {
            let mut report = Report::default();
            check(&config, &mut report.area("ledger"));
            let worst = report.findings.iter().map(|finding| finding.level).max().unwrap();
            (worst, report.to_string())
        };
        let (level, text) = look();
        assert!(level <= Level::Warning && text.contains("made at the first start"), "{text}");
        assert!(!ledger.exists());
        let other = "{\"job\":\n{\"job\":\n";
        std::fs::write(&ledger, other).unwrap();
        let (level, text) = look();
        assert!(level == Level::Error && text.contains("is no ledger") && text.contains("sound"), "{text}");
        assert_eq!(std::fs::read_to_string(&ledger).unwrap(), other);
    }
}
