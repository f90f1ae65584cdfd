//! The plugins: each is loaded as by a server, beside a ledger and a store of its own in memory.

use std::path::PathBuf;

use super::{Area, disk};
use crate::{
    config::{Backend, Config},
    plugins::{Report, Source, builtin},
    server,
};

pub async fn check(config: &Config, area: &mut Area<'_>) {
    let runtime = &config.plugin_runtime;
    if runtime.dir.exists() && std::fs::read_dir(&runtime.dir).is_err() {
        area.error(
            format!("plugin_runtime.dir '{}' can't be read", runtime.dir.display()),
            "let this user read it, or set plugin_runtime.dir to another folder",
        );
    }
    let mut looked_at = config.clone();
    looked_at.jobs.ledger = PathBuf::new();
    looked_at.storage.location = "memory:".into();
    // Other areas look at these; here they would only take time.
    looked_at.execution.backend = Backend::Cpu;
    looked_at.execution.models_dir = PathBuf::new();
    if !runtime.cache_dir.as_os_str().is_empty()
        && let Err(error) = disk::try_writing(&runtime.cache_dir)
    {
        area.error(
            format!("plugin_runtime.cache_dir '{}' takes no files: {error}", runtime.cache_dir.display()),
            "let this user write there, set it to another folder, or to \"\": plugins are then compiled at every start",
        );
        looked_at.plugin_runtime.cache_dir = PathBuf::new();
    }
    let registry = match server::registry(looked_at).await {
        Ok(registry) => registry,
        Err(error) => {
            let remedy = "lower plugin_runtime.max_instances where memory can't be reserved (ulimit -v)";
            return area.error(format!("the plugin runtime does not start: {error}"), remedy);
        }
    };
    let reports = registry.reports().await;
    for report in &reports {
        tell(report, config, area);
    }
    tell_pins(&reports, config, area);
    if reports.is_empty() {
        area.warning(
            "there is no plugin: the server handles no job",
            format!("set plugin_runtime.builtin = true, or put components into '{}'", runtime.dir.display()),
        );
    }
    let loaded: Vec<&str> =
        reports.iter().filter_map(|report| report.plugin.as_ref()).map(|p| &*p.name).collect();
    let all = if loaded.is_empty() { "none".to_owned() } else { loaded.join(", ") };
    for name in config.plugins.keys().filter(|name| !loaded.contains(&name.as_str())) {
        // A refused one was told of; the tables of those in the binary stand in the defaults.
        let refused = reports
            .iter()
            .any(|report| report.last_error.as_ref().is_some_and(|e| e.contains(&format!("'{name}'"))));
        let inside = builtin().any(|builtin| builtin == name);
        if !refused && !inside {
            area.warning(
                format!("[plugins.{name}] has no effect: no plugin of that name is loaded"),
                format!(
                    "correct the name, or put its component into '{}'; loaded are: {all}",
                    runtime.dir.display()
                ),
            );
        }
    }
}

/// Says whether any file may be a plugin, and which pinned ones are missed.
fn tell_pins(reports: &[Report], config: &Config, area: &mut Area<'_>) {
    let runtime = &config.plugin_runtime;
    let (digests, keys) = (&runtime.allowed_digests, runtime.minisign_keys.len());
    if digests.is_empty() && keys == 0 {
        let files = reports.iter().filter(|report| matches!(report.source, Source::File(_)));
        let loaded: Vec<&str> = files
            .filter(|report| report.plugin.is_some())
            .filter_map(|report| report.digest.as_deref())
            .collect();
        if !loaded.is_empty() {
            area.note(
                "any file in the plugin folder is loaded",
                format!("to pin those that are there now, set plugin_runtime.allowed_digests = {loaded:?}"),
            );
        }
        return;
    }
    area.ok(format!("files are pinned: by {} digest(s) and {keys} key(s) of minisign", digests.len()));
    let found = |digest: &str| reports.iter().any(|report| report.digest.as_deref() == Some(digest));
    for digest in digests.iter().filter(|digest| !found(&digest.to_ascii_lowercase())) {
        area.note(
            format!("plugin_runtime.allowed_digests has {digest}, which no file has"),
            "take it out unless that file is still to come",
        );
    }
}

fn tell(report: &Report, config: &Config, area: &mut Area<'_>) {
    if let Some(plugin) = &report.plugin {
        let types: Vec<&str> = plugin.jobs.keys().chain(plugin.messages.keys()).map(String::as_str).collect();
        area.ok(format!(
            "{} {} ({}, {}): {}",
            plugin.name,
            plugin.version,
            report.state,
            report.source,
            types.join(", ")
        ));
        // The table holds for the plugin that serves.
        let unused: Vec<&str> = match config.plugins.get(&*plugin.name) {
            Some(table) if report.state == "active" => table
                .capabilities
                .iter()
                .map(String::as_str)
                .filter(|c| !plugin.capabilities.iter().any(|own| own == c))
                .collect(),
            _ => Vec::new(),
        };
        if !unused.is_empty() {
            area.note(
                format!("{} is granted what it does not ask for: {}", plugin.name, unused.join(", ")),
                format!("take it out of plugins.{}.capabilities", plugin.name),
            );
        }
    }
    if let Some(error) = &report.last_error {
        let remedy = match &report.source {
            Source::File(path) if error.contains("not granted") => {
                format!("grant it as it says, if you trust the plugin, or remove {}", path.display())
            }
            Source::File(path) if error.contains("allowed_digests") => {
                format!("add its digest if you trust it, or remove {}", path.display())
            }
            Source::File(path) => format!(
                "replace {} by a component for wasm32-wasip2 that this server runs (reverie plugins FILE checks one), or \
                 remove it",
                path.display()
            ),
            Source::Builtin(name) => {
                format!("give [plugins.{name}] back what it asks for, or set plugin_runtime.builtin = false")
            }
        };
        area.error(format!("{} is refused: {error}", report.source), remedy);
    }
}
