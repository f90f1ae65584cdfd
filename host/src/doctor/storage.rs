//! The store of outputs, and what else takes room for a while.

use std::{path::Path, time::Duration};

use super::{Area, disk};
use crate::{config::Config, storage::Storage};

/// How long the store may take for a small object.
const PATIENCE: Duration = Duration::from_secs(10);

pub async fn check(config: &Config, area: &mut Area<'_>) {
    let location = &config.storage.location;
    if location == "memory:" {
        area.note(
            "storage.location = \"memory:\": outputs are lost when the server ends",
            "set storage.location to a folder, unless that is meant",
        );
    } else if location.contains("://") {
        area.error(
            format!("storage.location = {location:?} is no folder: other stores are not supported"),
            "set storage.location to a folder, or to \"memory:\"",
        );
    } else {
        folder(config, area).await;
    }
    let uploads = config.uploads.max_total_bytes as u64;
    area.ok(format!(
        "uploads are kept in memory, {} at most (uploads.max_total_bytes)",
        disk::bytes(uploads)
    ));
}

async fn folder(config: &Config, area: &mut Area<'_>) {
    let location = &config.storage.location;
    let folder = Path::new(location);
    let remedy = "let this user make and write files there, or set storage.location to another folder";
    // A folder that is not there is left so: the first start makes it.
    if !folder.exists() {
        match disk::try_writing(folder) {
            Ok(()) => area.ok(format!("'{location}' is not there yet: it is made at the first start")),
            Err(error) => {
                let above = disk::nearest(folder);
                let found =
                    format!("'{location}' can't be made: '{}' takes no files: {error}", above.display());
                return area.error(found, remedy);
            }
        }
    } else {
        let checked = async {
            // The system's own words first, which the store keeps for the log.
            disk::try_writing(folder).map_err(|error| error.to_string())?;
            let storage = Storage::open(&config.storage)?;
            let checked = tokio::time::timeout(PATIENCE, storage.check()).await;
            checked.map_err(|_| format!("no answer within {} s", PATIENCE.as_secs()))?.map_err(|e| e.message)
        };
        match checked.await {
            Ok(()) => area.ok(format!("'{location}': a small object was written, read and deleted")),
            Err(error) => return area.error(format!("'{location}' does not work: {error}"), remedy),
        }
    }
    match disk::free(folder) {
        Some(free) if disk::is_nearly_full(free) => area.warning(
            format!("{} are left on the disk of '{location}'", disk::bytes(free)),
            "make room, or set storage.location to another disk: when it is full, jobs fail as their outputs can't be stored",
        ),
        Some(free) => area.ok(format!("{} are left on the disk of '{location}'", disk::bytes(free))),
        None => {}
    }
}
