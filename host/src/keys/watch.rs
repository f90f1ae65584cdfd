//! Reads the keys again when the configuration file or the file of keys changes: what was revoked ends at once.

use std::{path::PathBuf, sync::Arc, time::Duration};

use notify::{RecursiveMode, Watcher as _};
use reverie_crash::vital;
use tokio::sync::mpsc;

use super::keyring;
use crate::{config, plugins::Services};

/// Rest after a change: an edited file changes many times in a row.
const SETTLE: Duration = Duration::from_millis(100);

/// Keeps the files watched while it lives.
pub type Watcher = notify::RecommendedWatcher;

/// Watches for as long as the returned watcher is kept. Must be called inside a tokio runtime.
///
/// # Errors
/// A message that names what can't be watched: a revoked key would go on being taken.
pub fn watch(services: &Arc<Services>) -> Result<Watcher, String> {
    let (changed, mut changes) = mpsc::unbounded_channel();
    let keys_file = &services.config.server.keys_file;
    let files = [Some(services.config.sources.path().0), Some(keys_file.clone())];
    let files = files.into_iter().flatten().filter(|file| !file.as_os_str().is_empty());
    let files: Vec<PathBuf> =
        files.map(std::path::absolute).collect::<Result<_, _>>().map_err(|e| e.to_string())?;
    let watched = files.clone();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if let Ok(event) = event
            && !event.kind.is_access()
            && event.paths.iter().any(|path| watched.contains(path))
        {
            let _ = changed.send(());
        }
    })
    .map_err(|e| format!("the keys can't be watched: {e}"))?;
    if let Some(folder) = keys_file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)
            .map_err(|e| format!("server.keys_file '{}': {e}", keys_file.display()))?;
    }
    for folder in files.iter().filter_map(|file| file.parent()).filter(|folder| folder.is_dir()) {
        let watched = watcher.watch(folder, RecursiveMode::NonRecursive);
        watched.map_err(|e| format!("the keys in '{}' can't be watched: {e}", folder.display()))?;
    }

    // What changed since they were first read.
    reload(services);
    let services = Arc::downgrade(services);
    let work = async move {
        while changes.recv().await.is_some() {
            tokio::time::sleep(SETTLE).await;
            while changes.try_recv().is_ok() {}
            let Some(services) = services.upgrade() else { return };
            reload(&services);
        }
    };
    tokio::spawn(vital::task("watch of the keys", work));
    Ok(watcher)
}

/// Takes the keys over that there are now, and closes the connections of those that are gone or changed.
fn reload(services: &Services) {
    let mut config = config::load(&services.config.sources).unwrap_or_else(|error| {
        tracing::error!(error, "the configuration can't be read: its keys stay as they were");
        services.config.as_ref().clone()
    });
    // Which file it is does not change while the server runs.
    config.server.keys_file.clone_from(&services.config.server.keys_file);
    match keyring(&config) {
        Ok(keys) => {
            let before = services.access.keys();
            if *before == keys {
                return;
            }
            tracing::info!(target: "audit", keys = keys.iter().count(), "the keys were read again");
            services.access.replace(keys);
            services.hub.close_revoked(&services.access);
            // A limit may have been lifted.
            services.jobs.wake();
        }
        Err(error) => tracing::error!(error, "the keys stay as they were"),
    }
}
