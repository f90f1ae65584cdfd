//! From bytes to a plugin that may serve: compiled, its imports and exports checked, its manifest read and believed only
//! where it proves true.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::Semaphore;
use wasmtime::component::{Component, types::ComponentItem};

use super::{
    CAPABILITIES, Engine, Entry, Plugin, Schema, Services, WAITING_PER_CALL,
    bindings::{PluginPre, exports::reverie::handler::handler as wit},
    instance::{self, Allowance, CallState, Origin, Warm},
};

const PACKAGE: &str = "reverie:handler/";
/// The versions of the contract that components may be made for: each only adds to the one before.
const VERSIONS: &[&str] = &["0.2.0", "0.2.1", "0.2.2", "0.2.3", "0.2.4"];
const EXPORT: &str = "reverie:handler/handler@0.2.4";

/// What `http` is called where it is standard.
const OUTGOING_HTTP: &str = "wasi:http/outgoing-handler@";

/// What reading a manifest may take.
const MANIFEST_ALLOWANCE: Allowance = Allowance { cpu_ms: 500, wall_ms: 2000 };

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Characters of a version.
const MAX_VERSION: usize = 64;

/// Bytes of all texts of a manifest: they are kept as long as the plugin.
const MAX_MANIFEST: usize = 1 << 20;

/// Types that the host handles itself.
const RESERVED: &[&str] = &["ping", "pong", "error"];
const RESERVED_DOMAINS: &[&str] = &["job:", "system:"];

/// Loads a component.
///
/// # Errors
/// A message that says what is wrong with it and what would be right.
pub async fn load(
    engine: &Arc<Engine>,
    services: &Arc<Services>,
    bytes: Arc<[u8]>,
    digest: String,
) -> Result<Plugin, String> {
    let compiling = engine.clone();
    let compiled = tokio::task::spawn_blocking(move || compile(&compiling, &bytes)).await;
    let (pre, imports) = compiled.map_err(|_| "the compiler failed on it".to_owned())??;
    let manifest = read_manifest(engine, services, &pre).await?;
    check_manifest(&manifest)?;
    check_capabilities(&manifest, &imports, services)?;
    let name: Arc<str> = manifest.name.as_str().into();
    let limits = services.config.limits(&name);
    let calls = limits.message_concurrency;
    Ok(Plugin {
        id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
        messages: entries("message", manifest.messages, &[])?,
        jobs: entries("job", manifest.jobs, &manifest.background)?,
        version: manifest.version,
        description: manifest.description,
        capabilities: manifest.capabilities,
        running: Arc::new(Semaphore::new(calls)),
        admitted: Arc::new(Semaphore::new(calls * (1 + WAITING_PER_CALL))),
        limits,
        digest,
        name,
        pre,
        warm: Warm::default(),
    })
}

type Compiled = (PluginPre<CallState>, BTreeSet<String>);

fn compile(engine: &Engine, bytes: &[u8]) -> Result<Compiled, String> {
    if bytes.starts_with(b"\0asm\x01\0\0\0") {
        return Err(
            "it is a core WebAssembly module, not a component: build it for the target wasm32-wasip2".into(),
        );
    }
    if !bytes.starts_with(b"\0asm") {
        return Err("it is not a WebAssembly component (the file does not begin with \\0asm)".into());
    }
    let component = Component::new(&engine.wasmtime, bytes)
        .map_err(|e| format!("it is not a valid component: {}", first_line(&e)))?;
    let kind = component.component_type();
    let exports: Vec<String> = kind.exports(&engine.wasmtime).map(|(name, _)| name.to_owned()).collect();
    let handler = |name: &str| {
        let version = name.strip_prefix(PACKAGE).and_then(|name| name.strip_prefix("handler@"));
        version.is_some_and(|version| VERSIONS.contains(&version))
    };
    if !exports.iter().any(|name| handler(name)) {
        let other = exports.iter().find(|name| name.starts_with(PACKAGE));
        return Err(match other {
            Some(other) => {
                format!("it exports {other}; this server runs {EXPORT}: build it with the current SDK")
            }
            None => format!("it does not export {EXPORT} (it exports: {})", list(&exports)),
        });
    }
    let mut imports = BTreeSet::new();
    for (name, item) in kind.imports(&engine.wasmtime) {
        if !matches!(item.ty, ComponentItem::ComponentInstance(_)) {
            return Err(format!("it imports '{name}', which this server does not provide"));
        }
        match name.strip_prefix(PACKAGE) {
            Some(interface) => match interface.split_once('@') {
                Some((interface, version)) if VERSIONS.contains(&version) => {
                    imports.insert(interface.to_owned());
                }
                _ => {
                    return Err(format!(
                        "it imports {name}; this server provides the versions {}",
                        VERSIONS.join(", ")
                    ));
                }
            },
            None if name.starts_with(OUTGOING_HTTP) => {
                imports.insert("http".to_owned());
            }
            None if name.starts_with("wasi:") => {}
            None => return Err(format!("it imports '{name}', which this server does not provide")),
        }
    }
    let pre = engine
        .linker
        .instantiate_pre(&component)
        .and_then(PluginPre::new)
        .map_err(|e| format!("it does not fit this server's interfaces: {}", first_line(&e)))?;
    Ok((pre, imports))
}

async fn read_manifest(
    engine: &Arc<Engine>,
    services: &Arc<Services>,
    pre: &PluginPre<CallState>,
) -> Result<wit::Manifest, String> {
    let limits = services.config.plugin_runtime.limits.clone();
    let mut store = instance::store(
        engine,
        services.clone(),
        "".into(),
        Origin::Loader,
        &limits,
        MANIFEST_ALLOWANCE.cpu_ms,
    );
    let pre = pre.clone();
    let slot = engine.instances.clone().acquire_owned().await.expect("never closed");
    let reading = engine.runtime().spawn(async move {
        let _slot = slot;
        let handler = pre.instantiate_async(&mut store).await?;
        handler.reverie_handler_handler().call_describe(&mut store).await
    });
    let abort = reading.abort_handle();
    match tokio::time::timeout(Duration::from_millis(MANIFEST_ALLOWANCE.wall_ms), reading).await {
        Ok(Ok(Ok(manifest))) => Ok(manifest),
        Ok(Ok(Err(error))) => Err(format!("its manifest can't be read: {}", error.root_cause())),
        Ok(Err(_)) => Err("its manifest can't be read: the call failed".into()),
        Err(_) => {
            abort.abort();
            Err(format!("its manifest can't be read: it took longer than {} ms", MANIFEST_ALLOWANCE.wall_ms))
        }
    }
}

fn check_manifest(manifest: &wit::Manifest) -> Result<(), String> {
    let name = &manifest.name;
    let entries = manifest.messages.iter().chain(&manifest.jobs);
    let texts = entries.map(|entry| entry.name.len() + entry.description.len() + entry.schema.len() + 64);
    let lists = manifest.background.iter().chain(&manifest.capabilities).map(|name| name.len() + 64);
    let bytes = manifest.description.len() + texts.chain(lists).sum::<usize>();
    if bytes > MAX_MANIFEST {
        return Err(format!("its manifest has {bytes} bytes; accepted are {MAX_MANIFEST}"));
    }
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
        return Err(format!(
            "its manifest's name {:?} is not valid: accepted are 1 to 64 lower-case letters, digits and '-'",
            name.chars().take(80).collect::<String>()
        ));
    }
    let numbers = manifest.version.split(['-', '+']).next().unwrap_or_default();
    let numbers: Vec<&str> = numbers.split('.').collect();
    let plain =
        manifest.version.len() <= MAX_VERSION && manifest.version.bytes().all(|b| b.is_ascii_graphic());
    if !plain || numbers.len() != 3 || numbers.iter().any(|n| n.parse::<u32>().is_err()) {
        return Err(format!(
            "its manifest's version {:?} is not a semantic version such as 1.2.0",
            manifest.version.chars().take(MAX_VERSION).collect::<String>()
        ));
    }
    if manifest.messages.is_empty() && manifest.jobs.is_empty() {
        return Err("its manifest claims no message type and no job type".into());
    }
    for entry in &manifest.messages {
        let kind = &entry.name;
        if RESERVED.contains(&kind.as_str()) || RESERVED_DOMAINS.iter().any(|domain| kind.starts_with(domain))
        {
            return Err(format!(
                "its manifest claims the message type '{kind}': job:*, system:*, ping, pong and error are the host's own"
            ));
        }
        let parts: Vec<&str> = kind.split(':').collect();
        if parts.len() < 2 || parts.iter().any(|part| part.is_empty()) || kind.len() > 64 {
            return Err(format!("its manifest claims the message type '{kind}': accepted is domain:action"));
        }
    }
    for entry in &manifest.jobs {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if entry.name.is_empty() || entry.name.len() > 64 || !entry.name.bytes().all(plain) {
            return Err(format!(
                "its manifest claims the job type {:?}: accepted are 1 to 64 letters, digits, '-' and '_'",
                entry.name
            ));
        }
    }
    if let Some(name) =
        manifest.background.iter().find(|name| manifest.jobs.iter().all(|job| job.name != **name))
    {
        return Err(format!(
            "its manifest runs the job type '{name}' in the background but does not claim it"
        ));
    }
    Ok(())
}

fn check_capabilities(
    manifest: &wit::Manifest,
    imports: &BTreeSet<String>,
    services: &Services,
) -> Result<(), String> {
    let name = &manifest.name;
    for wanted in &manifest.capabilities {
        if !CAPABILITIES.contains(&wanted.as_str()) {
            return Err(format!(
                "its manifest wants the capability '{wanted}', which does not exist; there are: {}",
                CAPABILITIES.join(", ")
            ));
        }
    }
    // `hub` is imported for replies too, which need no grant: its other functions are checked when they are called.
    let undeclared = imports
        .iter()
        .find(|i| CAPABILITIES.contains(&i.as_str()) && *i != "hub" && !manifest.capabilities.contains(i));
    if let Some(interface) = undeclared {
        return Err(format!(
            "it imports '{interface}' but its manifest does not ask for the capability '{interface}'"
        ));
    }
    let missing: Vec<&str> =
        manifest.capabilities.iter().map(String::as_str).filter(|c| !services.grants(name, c)).collect();
    if !missing.is_empty() {
        let all: Vec<String> = manifest.capabilities.iter().map(|c| format!("{c:?}")).collect();
        return Err(format!(
            "plugin '{name}' wants capabilities that are not granted: {}. To grant them: [plugins.{name}] capabilities = \
             [{}]",
            missing.join(", "),
            all.join(", ")
        ));
    }
    Ok(())
}

fn entries(
    what: &str,
    entries: Vec<wit::Entry>,
    background: &[String],
) -> Result<BTreeMap<String, Arc<Entry>>, String> {
    let mut map = BTreeMap::new();
    for entry in entries {
        let schema = Schema::compile(&entry.schema)
            .map_err(|e| format!("its manifest's schema of the {what} type '{}' {e}", entry.name))?;
        let name = entry.name.clone();
        let background = background.contains(&name);
        let entry = Entry { name: entry.name, description: entry.description, schema, background };
        if map.insert(name.clone(), Arc::new(entry)).is_some() {
            return Err(format!("its manifest claims the {what} type '{name}' twice"));
        }
    }
    Ok(map)
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "nothing".into() } else { names.join(", ") }
}

fn first_line(error: &wasmtime::Error) -> String {
    format!("{error:#}").lines().next().unwrap_or_default().to_owned()
}
