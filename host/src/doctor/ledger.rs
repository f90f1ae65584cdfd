//! The ledger of jobs: only read, so that a server may go on writing it.

use super::{Area, disk};
use crate::{config, jobs};

pub fn check(config: &config::Jobs, area: &mut Area<'_>) {
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
                "set jobs.ledger to a file in it, such as ledger.jsonl",
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

fn held(config: &config::Jobs, bytes: u64, area: &mut Area<'_>) {
    let shown = config.ledger.display();
    let size = disk::bytes(bytes);
    match jobs::inspect(&config.ledger) {
        Ok(found) => {
            let jobs::Inspected { active, finished, lines, .. } = found;
            area.ok(format!(
                "{shown}: {finished} finished and {active} unfinished jobs in {lines} lines, {size}"
            ));
            if found.torn {
                area.note(
                    format!("{shown}: the last line is cut short, by a crash or because a server writes it right now"),
                    "nothing: the next start leaves it out, and no job that a client was told to be accepted is lost by it",
                );
            }
        }
        Err(error) => area.error(
            format!("{error} ({size})"),
            format!("the server does not start with it: mend that line in an editor, or move {shown} away"),
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
        let ledger = dir.path().join("ledger.jsonl");
        let defaults = crate::config::load(&Default::default()).unwrap().jobs;
        let config = config::Jobs { ledger: ledger.clone(), ..defaults };
        let look = || {
            let mut report = Report::default();
            check(&config, &mut report.area("ledger"));
            let worst = report.findings.iter().map(|finding| finding.level).max().unwrap();
            (worst, report.to_string())
        };
        let (level, text) = look();
        assert!(level <= Level::Warning && text.contains("made at the first start"), "{text}");
        assert!(!ledger.exists());
        std::fs::write(&ledger, "{\"job\":").unwrap();
        let (level, text) = look();
        assert!(level <= Level::Warning && text.contains("the last line is cut short"), "{text}");
        let torn = "{\"job\":\n{\"job\":\n";
        std::fs::write(&ledger, torn).unwrap();
        let (level, text) = look();
        assert!(level == Level::Error && text.contains("line 1:") && text.contains("move"), "{text}");
        assert_eq!(std::fs::read_to_string(&ledger).unwrap(), torn);
    }
}
