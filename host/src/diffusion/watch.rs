//! Reads the modes again when the configuration file or the folder of models changes, and on SIGHUP.

use std::{path::Path, sync::Arc, time::Duration};

use notify::{RecursiveMode, Watcher as _};
use reverie_crash::vital;
use tokio::{sync::mpsc, task::JoinError};

use super::Diffusion;
use crate::error::Error;

/// Rest after a change: a copied model or an edited file changes many times in a row.
const SETTLE: Duration = Duration::from_millis(300);

/// Keeps the files watched while it lives.
pub type Watcher = notify::RecommendedWatcher;

/// Watches for as long as the returned watcher is kept. Must be called inside a tokio runtime.
///
/// # Errors
/// A message that names the folder.
pub fn watch(diffusion: &Arc<Diffusion>) -> Result<Watcher, String> {
    let (changed, mut changes) = mpsc::unbounded_channel();
    let file = std::path::absolute(diffusion.sources.path().0).map_err(|e| e.to_string())?;
    let models = std::path::absolute(&diffusion.settings.dir).map_err(|e| e.to_string())?;
    std::fs::create_dir_all(&models).map_err(|e| format!("diffusion.dir '{}': {e}", models.display()))?;
    let counts = {
        let (file, models) = (file.clone(), models.clone());
        move |path: &Path| path == file || path.starts_with(&models)
    };
    let hangup = changed.clone();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if let Ok(event) = event
            && !event.kind.is_access()
            && event.paths.iter().any(|path| counts(path))
        {
            let _ = changed.send(());
        }
    })
    .map_err(|e| format!("the modes can't be watched: {e}"))?;
    let folder = file.parent().unwrap_or(Path::new("/")).to_owned();
    for folder in [folder, models] {
        // A folder that is not there, as that of a file which was never written, changes nothing.
        if let Err(error) = watcher.watch(&folder, RecursiveMode::NonRecursive) {
            tracing::warn!(%error, folder = %folder.display(), "can't be watched: POST /api/modes/reload reads it again");
        }
    }
    on_hangup(hangup);

    let diffusion = Arc::downgrade(diffusion);
    let work = async move {
        while changes.recv().await.is_some() {
            tokio::time::sleep(SETTLE).await;
            while changes.try_recv().is_ok() {}
            let Some(diffusion) = diffusion.upgrade() else { return };
            let reloaded = tokio::task::spawn_blocking(move || diffusion.reload(false)).await;
            let fault = |error: JoinError| Err(Error::internal(format!("a fault of the server: {error}")));
            if let Err(error) = reloaded.unwrap_or_else(fault) {
                tracing::error!(error = error.message, "the modes stay as they were");
            }
        }
    };
    tokio::spawn(vital::task("watch of the modes", work));
    Ok(watcher)
}

#[cfg(unix)]
fn on_hangup(changed: mpsc::UnboundedSender<()>) {
    use tokio::signal::unix::{SignalKind, signal};
    if let Ok(mut hangup) = signal(SignalKind::hangup()) {
        tokio::spawn(async move { while hangup.recv().await.is_some() && changed.send(()).is_ok() {} });
    }
}

#[cfg(not(unix))]
fn on_hangup(_: mpsc::UnboundedSender<()>) {}
