//! Whose fault it was where an earlier server crashed: read when the ledger is opened, and forgotten once that is stored.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

use reverie_crash::report::{self, Crash};
use uuid::Uuid;

use crate::jobs::Jobs;

/// What earlier servers on a ledger have left, and where.
pub struct Crashes {
    file: PathBuf,
    crashes: Vec<Crash>,
}

impl Crashes {
    /// Takes up what lies beside a ledger that nobody else has, says it, and has a crash of this process recorded there too. Of
    /// a ledger in memory there is nothing.
    pub fn beside(ledger: &Path) -> Self {
        let file = ledger.with_added_extension("crash");
        if ledger.as_os_str().is_empty() {
            return Self { file, crashes: Vec::new() };
        }
        let crashes = report::read(&file).unwrap_or_else(|error| {
            tracing::error!(%error, file = %file.display(), "whose fault the last crash was can't be read");
            Vec::new()
        });
        crashes.iter().for_each(say);
        if let Err(error) = reverie_crash::record_in(&file) {
            tracing::error!(%error, "whose fault a crash is will not be recorded");
        }
        Self { file, crashes }
    }

    /// The jobs that are to be blamed.
    pub fn at_fault(&self) -> HashSet<Uuid> {
        self.crashes.iter().flat_map(|crash| crash.jobs.iter().copied()).collect()
    }

    /// Forgets it all once the jobs have it stored. Where they can't store it, the next start finds it again.
    pub async fn forget(self, jobs: &Jobs) {
        if self.crashes.is_empty() {
            return;
        }
        jobs.answers().await;
        if jobs.health().error.is_none()
            && let Err(error) = fs::remove_file(&self.file)
        {
            tracing::error!(%error, file = %self.file.display(), "a crash that is dealt with can't be forgotten");
        }
    }
}

fn say(crash: &Crash) {
    let signal = crash.signal();
    let jobs: Vec<String> = crash.jobs.iter().map(Uuid::to_string).collect();
    let jobs = jobs.join(", ");
    match (crash.sent_by, crash.on_device) {
        (Some(sender), _) => {
            tracing::warn!(
                "the server was ended by {signal}, which process {sender} sent: no job is at fault"
            );
        }
        (None, _) if jobs.is_empty() => {
            tracing::error!("the server crashed ({signal}), in none of its jobs: none is at fault");
        }
        (None, true) => {
            tracing::error!(jobs, "the server crashed ({signal}) while these jobs were on the device");
        }
        (None, false) => {
            tracing::error!(jobs, "the server crashed ({signal}) in a thread that worked for these jobs");
        }
    }
}
