//! `reverie plugins`.

use std::path::PathBuf;

use serde_json::Value;

use crate::{audit::plain, config::Config, plugins::Report, server};

/// Lists the configured plugins, or loads files beside nothing else and says what they are.
///
/// # Errors
/// When one of the files named is refused.
pub async fn plugins(mut config: Config, files: Vec<PathBuf>, json: bool) -> Result<(), String> {
    // Only looked at: the ledger and the outputs of a running server stay untouched.
    config.jobs.ledger = PathBuf::new();
    config.storage.location = "memory:".into();
    if !files.is_empty() {
        config.plugin_runtime.builtin = false;
        config.plugin_runtime.dir = PathBuf::new();
    }
    let registry = server::registry(config).await?;
    for file in &files {
        if !file.exists() {
            return Err(format!("{} does not exist", file.display()));
        }
        registry.load_file(file).await;
    }
    let reports = registry.reports().await;
    if json {
        let reports: Value = reports.iter().map(|report| serde_json::json!(report.describe())).collect();
        println!("{reports:#}");
    } else {
        reports.iter().for_each(print);
        if reports.is_empty() {
            println!("no plugins");
        }
    }
    let refused = reports.iter().filter(|r| r.last_error.is_some()).count();
    if !files.is_empty() && refused > 0 { Err(format!("{refused} file(s) refused")) } else { Ok(()) }
}

/// What a component says of itself goes to a terminal escaped.
fn print(report: &Report) {
    match &report.plugin {
        Some(plugin) => {
            println!(
                "{} {} ({}, {})",
                plugin.name,
                plain(&plugin.version),
                report.state,
                plain(&report.source.to_string())
            );
            println!("  {}", plain(&plugin.description));
            for entry in plugin.jobs.values() {
                println!("  job      {:20} {}", plain(&entry.name), plain(&entry.description));
            }
            for entry in plugin.messages.values() {
                println!("  message  {:20} {}", plain(&entry.name), plain(&entry.description));
            }
            println!("  granted  {}", plugin.capabilities.join(", "));
        }
        None => println!("{} ({})", plain(&report.source.to_string()), report.state),
    }
    if let Some(digest) = &report.digest {
        println!("  digest   {digest}");
    }
    if let Some(error) = &report.last_error {
        println!("  refused: {}", plain(error));
    }
}
