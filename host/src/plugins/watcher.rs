//! Watches the plugin folder: a finished write takes effect after a short rest, a half-written file not before its writer
//! closes it.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use notify::{
    EventKind, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode, CreateKind, ModifyKind},
};
use reverie_crash::vital;
use tokio::sync::mpsc;

use super::{Registry, registry, trust::signed_by};

/// Rest after a write that was seen to end (closed, or renamed into place).
const SETTLE: Duration = Duration::from_millis(30);
/// Rest after a write whose end was not seen: the system may not report it.
const SETTLE_OPEN: Duration = Duration::from_millis(750);

/// Keeps the folder watched while it lives.
pub type Watcher = notify::RecommendedWatcher;

/// Watches until the registry is gone. The returned watcher must be kept.
///
/// # Errors
/// A message that names the folder.
pub fn watch(registry: &Arc<Registry>) -> Result<Watcher, String> {
    let dir = registry.services.config.plugin_runtime.dir.clone();
    let at =
        |e: &dyn std::fmt::Display| format!("plugin_runtime.dir '{}' can't be watched: {e}", dir.display());
    std::fs::create_dir_all(&dir).map_err(|e| at(&e))?;
    let (events, mut changes) = mpsc::unbounded_channel();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| match event {
        Ok(event) => {
            if let Some(rest) = rest_after(&event.kind) {
                for path in event.paths {
                    let _ = events.send((path, rest));
                }
            }
        }
        Err(error) => tracing::error!(%error, "watching the plugin folder"),
    })
    .map_err(|e| at(&e))?;
    watcher.watch(&dir, RecursiveMode::NonRecursive).map_err(|e| at(&e))?;

    let registry = Arc::downgrade(registry);
    let work = async move {
        let mut due: HashMap<PathBuf, Instant> = HashMap::new();
        loop {
            let next = due.values().min().copied();
            let wait = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                change = changes.recv() => {
                    let Some((path, rest)) = change else { return };
                    // The events carry the path as the folder was given, plus the name.
                    let path = path.file_name().map_or(path.clone(), |name| dir.join(name));
                    // A signature that comes after its component is for that.
                    let path = signed_by(&path).unwrap_or(path);
                    if registry::is_component(&path) {
                        due.insert(path, Instant::now() + rest);
                    }
                }
                () = wait => {
                    let now = Instant::now();
                    let Some(registry) = registry.upgrade() else { return };
                    let ready: Vec<PathBuf> =
                        due.iter().filter(|(_, at)| **at <= now).map(|(path, _)| path.clone()).collect();
                    for path in ready {
                        due.remove(&path);
                        let (registry, of) = (registry.clone(), path.clone());
                        // A task of its own, so that a component on which the server fails ends nothing else.
                        let loaded = tokio::spawn(async move { registry.load_file(&of).await }).await;
                        if let Err(error) = loaded {
                            tracing::error!(path = %path.display(), %error, "the plugin stays as it was: a fault of the server");
                        }
                    }
                }
            }
        }
    };
    tokio::spawn(vital::task("watch of the plugin folder", work));
    Ok(watcher)
}

/// How long to rest after an event, none if it changes nothing.
fn rest_after(kind: &EventKind) -> Option<Duration> {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(SETTLE),
        EventKind::Modify(ModifyKind::Name(_)) | EventKind::Remove(_) => Some(SETTLE),
        EventKind::Create(CreateKind::File | CreateKind::Any) | EventKind::Modify(_) => Some(SETTLE_OPEN),
        _ => None,
    }
}
