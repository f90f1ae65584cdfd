//! Which plugins serve which types. Readers take a snapshot; a change builds a new table beside it and swaps the pointer,
//! so calls in flight finish on the version they began with.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::RwLock;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;
use tokio::sync::Mutex;

use super::{
    Described, Engine, Entry, Plugin, Services, Trust, loader,
    trust::{digest, signature_of},
};
use crate::{
    health::{Health, Probes},
    hub::Frame,
};

include!(concat!(env!("OUT_DIR"), "/builtin_plugins.rs"));

/// Where a plugin came from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// In the binary.
    Builtin(&'static str),
    File(PathBuf),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Builtin(name) => write!(f, "built-in {name}"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// What a load or removal came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Loaded,
    Reloaded,
    Refused,
    Removed,
}

impl Change {
    fn as_str(self) -> &'static str {
        match self {
            Self::Loaded => "loaded",
            Self::Reloaded => "reloaded",
            Self::Refused => "refused",
            Self::Removed => "removed",
        }
    }
}

/// One source, as `/v1/plugins` shows it.
pub struct Report {
    pub source: Source,
    pub plugin: Option<Arc<Plugin>>,
    /// `active`, `shadowed` (a file has taken a built-in's place) or `failed` (nothing of it serves).
    pub state: &'static str,
    /// Of the content that serves or, where none does, of the newest: `sha256:` and 64 hexadecimal digits.
    pub digest: Option<String>,
    /// Why the newest load was refused. With a plugin: an older version still serves.
    pub last_error: Option<String>,
}

/// A plugin, serving or not, as clients see it.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Plugin")]
pub struct Reported {
    /// None while nothing of it serves.
    #[serde(flatten)]
    plugin: Option<Described>,
    /// A file's path, or `built-in NAME`.
    source: String,
    /// `active`, `shadowed` (a file has taken a built-in's place) or `failed` (nothing of it serves).
    state: &'static str,
    /// Of the content that serves or, where none does, of the newest: `sha256:` and 64 hexadecimal digits.
    digest: Option<String>,
    /// Why the newest load was refused. With a version: an older one still serves.
    last_error: Option<String>,
}

impl Report {
    pub fn describe(&self) -> Reported {
        Reported {
            plugin: self.plugin.as_ref().map(|plugin| plugin.describe()),
            source: self.source.to_string(),
            state: self.state,
            digest: self.digest.clone(),
            last_error: self.last_error.clone(),
        }
    }
}

type Route = (Arc<Plugin>, Arc<Entry>);

#[derive(Default)]
struct Table {
    plugins: Vec<Arc<Plugin>>,
    messages: HashMap<String, Route>,
    jobs: HashMap<String, Route>,
}

#[derive(Default)]
struct Slot {
    plugin: Option<Arc<Plugin>>,
    /// Of the newest content.
    digest: Option<String>,
    last_error: Option<String>,
    /// Refused only because another plugin claims the same: tried again when one goes.
    waiting: Option<Arc<Plugin>>,
}

/// The plugins of this process.
pub struct Registry {
    pub engine: Arc<Engine>,
    pub services: Arc<Services>,
    table: RwLock<Arc<Table>>,
    /// Also serialises changes.
    slots: Mutex<BTreeMap<Source, Slot>>,
    trust: Trust,
    probes: Probes,
}

impl Registry {
    /// Loads the built-in plugins and those of the folder.
    pub async fn start(engine: Arc<Engine>, services: Arc<Services>) -> Arc<Self> {
        let registry = Arc::new(Self {
            engine,
            services: services.clone(),
            table: RwLock::default(),
            slots: Mutex::default(),
            trust: Trust::new(&services.config.plugin_runtime).expect("checked with the configuration"),
            probes: Probes::default(),
        });
        let _ = services.registry.set(Arc::downgrade(&registry));
        let config = &services.config.plugin_runtime;
        if config.builtin {
            for (name, bytes) in BUILTIN {
                registry.load(Source::Builtin(name), (*bytes).into()).await;
            }
        }
        for path in components(&config.dir) {
            registry.load_file(&path).await;
        }
        tokio::spawn(async move { services.count_stored().await });
        registry
    }

    /// How the server is; within a second.
    pub async fn health(&self) -> Health {
        self.probes.ask(self).await
    }

    /// Who handles a message type.
    pub fn message(&self, kind: &str) -> Option<Route> {
        self.table.read().messages.get(kind).cloned()
    }

    /// Who runs a job type.
    pub fn job(&self, job_type: &str) -> Option<Route> {
        self.table.read().jobs.get(job_type).cloned()
    }

    /// The job types there are, sorted.
    pub fn job_types(&self) -> Vec<String> {
        let mut types: Vec<String> = self.table.read().jobs.keys().cloned().collect();
        types.sort();
        types
    }

    /// The plugins that serve.
    pub fn plugins(&self) -> Vec<Arc<Plugin>> {
        self.table.read().plugins.clone()
    }

    /// Every source, serving or not.
    pub async fn reports(&self) -> Vec<Report> {
        let slots = self.slots.lock().await;
        let table = self.table.read().clone();
        slots
            .iter()
            .map(|(source, slot)| {
                let serves = |p: &Arc<Plugin>| table.plugins.iter().any(|q| Arc::ptr_eq(p, q));
                let state = match &slot.plugin {
                    Some(plugin) if serves(plugin) => "active",
                    Some(_) => "shadowed",
                    None => "failed",
                };
                let (plugin, last_error) = (slot.plugin.clone(), slot.last_error.clone());
                let digest = plugin.as_ref().map(|plugin| &plugin.digest).or(slot.digest.as_ref()).cloned();
                Report { source: source.clone(), plugin, state, digest, last_error }
            })
            .collect()
    }

    /// Loads or reloads a file, or removes its plugin when the file is gone.
    pub async fn load_file(&self, path: &Path) -> Change {
        match tokio::fs::read(path).await {
            Ok(bytes) => self.load(Source::File(path.to_owned()), bytes.into()).await,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => self.remove(path).await,
            Err(error) => {
                self.refuse(Source::File(path.to_owned()), None, format!("it can't be read: {error}")).await
            }
        }
    }

    async fn load(&self, source: Source, bytes: Arc<[u8]>) -> Change {
        let began = std::time::Instant::now();
        let digest = digest(&bytes);
        if let Err(error) = self.check_trust(&source, &bytes, &digest).await {
            return self.refuse(source, Some(digest), error).await;
        }
        let plugin = match loader::load(&self.engine, &self.services, bytes, digest.clone()).await {
            Ok(plugin) => Arc::new(plugin),
            Err(error) => return self.refuse(source, Some(digest), error).await,
        };
        let mut slots = self.slots.lock().await;
        if let Err(error) = self.claim(&slots, &source, &plugin) {
            let slot = slots.entry(source.clone()).or_default();
            (slot.waiting, slot.last_error, slot.digest) = (Some(plugin), Some(error.clone()), Some(digest));
            self.announce(Change::Refused, &source, slot.plugin.clone(), Some(error));
            return Change::Refused;
        }
        let slot = slots.entry(source.clone()).or_default();
        let change = if slot.plugin.is_some() { Change::Reloaded } else { Change::Loaded };
        *slot = Slot { plugin: Some(plugin.clone()), ..Slot::default() };
        self.swap(&slots);
        tracing::debug!(%source, ms = began.elapsed().as_millis() as u64, "load took");
        self.announce(change, &source, Some(plugin), None);
        // What it claimed before may be free now.
        self.retry_waiting(&mut slots);
        change
    }

    /// Whether a file is pinned, where files are. What is in the binary is trusted as that is.
    async fn check_trust(&self, source: &Source, bytes: &[u8], digest: &str) -> Result<(), String> {
        let Source::File(path) = source else { return Ok(()) };
        let signature = match self.trust.has_keys() {
            true => tokio::fs::read_to_string(signature_of(path)).await.ok(),
            false => None,
        };
        self.trust.check(bytes, digest, signature.as_deref())
    }

    async fn refuse(&self, source: Source, digest: Option<String>, error: String) -> Change {
        let mut slots = self.slots.lock().await;
        let slot = slots.entry(source.clone()).or_default();
        (slot.last_error, slot.waiting, slot.digest) = (Some(error.clone()), None, digest);
        self.announce(Change::Refused, &source, slot.plugin.clone(), Some(error));
        Change::Refused
    }

    async fn remove(&self, path: &Path) -> Change {
        let source = Source::File(path.to_owned());
        let mut slots = self.slots.lock().await;
        if let Some(slot) = slots.remove(&source) {
            self.swap(&slots);
            self.announce(Change::Removed, &source, slot.plugin, None);
            self.retry_waiting(&mut slots);
        }
        Change::Removed
    }

    /// Whether a plugin may serve from this source beside the others.
    fn claim(&self, slots: &BTreeMap<Source, Slot>, source: &Source, plugin: &Plugin) -> Result<(), String> {
        let is_file = matches!(source, Source::File(_));
        for (other, slot) in slots.iter().filter(|(other, _)| *other != source) {
            let Some(served) = &slot.plugin else { continue };
            if served.name == plugin.name {
                if is_file != matches!(other, Source::File(_)) {
                    // A file takes the place of a built-in of the same name.
                    continue;
                }
                return Err(format!("plugin '{}' is served from {other} already", plugin.name));
            }
            let shadowed = matches!(other, Source::Builtin(_))
                && slots.iter().any(|(s, slot)| {
                    matches!(s, Source::File(_))
                        && slot.plugin.as_ref().is_some_and(|p| p.name == served.name)
                });
            if shadowed {
                continue;
            }
            let clash = |own: &BTreeMap<String, Arc<Entry>>, theirs: &BTreeMap<String, Arc<Entry>>| {
                own.keys().find(|kind| theirs.contains_key(*kind)).cloned()
            };
            for (what, own, theirs) in
                [("message", &plugin.messages, &served.messages), ("job", &plugin.jobs, &served.jobs)]
            {
                if let Some(kind) = clash(own, theirs) {
                    return Err(format!(
                        "plugin '{}' claims the {what} type '{kind}', which plugin '{}' ({other}) serves",
                        plugin.name, served.name
                    ));
                }
            }
        }
        Ok(())
    }

    fn swap(&self, slots: &BTreeMap<Source, Slot>) {
        let mut table = Table::default();
        // Files come after built-ins and so take their places.
        let mut by_name: BTreeMap<&str, &Arc<Plugin>> = BTreeMap::new();
        for plugin in slots.values().filter_map(|slot| slot.plugin.as_ref()) {
            by_name.insert(&plugin.name, plugin);
        }
        for plugin in by_name.into_values() {
            table.plugins.push(plugin.clone());
            for (kind, entry) in &plugin.messages {
                table.messages.insert(kind.clone(), (plugin.clone(), entry.clone()));
            }
            for (kind, entry) in &plugin.jobs {
                table.jobs.insert(kind.clone(), (plugin.clone(), entry.clone()));
            }
        }
        *self.table.write() = Arc::new(table);
        // Jobs of a type that has come, or gone, are looked at again.
        self.services.jobs.wake();
    }

    fn retry_waiting(&self, slots: &mut BTreeMap<Source, Slot>) {
        let sources: Vec<Source> = slots
            .iter()
            .filter(|(_, slot)| slot.waiting.is_some())
            .map(|(source, _)| source.clone())
            .collect();
        for source in sources {
            let plugin = slots[&source].waiting.clone().expect("filtered");
            if self.claim(slots, &source, &plugin).is_ok() {
                slots.insert(source.clone(), Slot { plugin: Some(plugin.clone()), ..Slot::default() });
                self.swap(slots);
                self.announce(Change::Loaded, &source, Some(plugin), None);
            }
        }
    }

    /// Tells the log, the metrics and the clients (`system:plugin`).
    fn announce(&self, change: Change, source: &Source, plugin: Option<Arc<Plugin>>, error: Option<String>) {
        let name = plugin.as_ref().map(|p| p.name.to_string());
        let version = plugin.as_ref().map(|p| p.version.clone());
        let label = name.clone().unwrap_or_else(|| source.to_string());
        match &error {
            Some(error) => {
                let serves = if version.is_some() { "the old version keeps serving" } else { "not served" };
                tracing::error!(%source, plugin = name, version, "plugin refused ({serves}): {error}");
            }
            None => tracing::info!(%source, plugin = name, version, "plugin {}", change.as_str()),
        }
        self.services.metrics.plugin_reloads.with_label_values(&[label.as_str(), change.as_str()]).inc();
        let message = json!({
            "type": "system:plugin",
            "action": change.as_str(),
            "plugin": name,
            "version": version,
            "source": source.to_string(),
            "error": error,
        });
        self.services.hub.broadcast(Frame::new(message.to_string()));
    }
}

/// The names of the plugins in the binary.
pub fn builtin() -> impl Iterator<Item = &'static str> {
    BUILTIN.iter().map(|(name, _)| *name)
}

/// The component files of a folder, sorted.
pub fn components(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|e| e.path()).filter(|p| is_component(p)).collect();
    paths.sort();
    paths
}

/// Whether the watcher cares for a path: `*.wasm`, not hidden (editors and copiers write hidden files first).
pub fn is_component(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
    path.extension().is_some_and(|e| e == "wasm") && !hidden
}
