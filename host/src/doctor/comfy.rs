//! The ComfyUI servers that the plugin `comfy` sends its jobs to, reached as the plugin reaches them.

use std::{path::Path, time::Duration};

use super::{Area, http};
use crate::{
    config::{Config, DEFAULTS, Plugin},
    outbound::{Origin, Outbound},
};

const PLUGIN: &str = "comfy";
const PATIENCE: Duration = Duration::from_secs(3);

pub async fn check(config: &Config, area: &mut Area<'_>) {
    let Some(table) = config.plugins.get(PLUGIN) else { return };
    // Where nobody has set it up, nothing is expected to be there.
    let expected = servers(table) != default_servers() || has_workflows(table);
    let outbound = Outbound::new(config, PLUGIN.into());
    for server in servers(table) {
        match reach(&outbound, &server).await {
            Ok(()) => area.ok(format!("{server} answers")),
            Err(error) => {
                let found = if error.contains(&server) { error } else { format!("{server}: {error}") };
                let remedy = "start ComfyUI there, or name your servers in plugins.comfy.config.servers and in \
                              plugins.comfy.origins";
                match expected {
                    true => area.warning(found, remedy),
                    false => area.note(found, format!("nothing, unless workflows are to run: then {remedy}")),
                }
            }
        }
    }
}

fn servers(table: &Plugin) -> Vec<String> {
    let list = table.config.get("servers").and_then(toml::Value::as_array);
    list.into_iter().flatten().filter_map(|server| server.as_str().map(str::to_owned)).collect()
}

fn default_servers() -> Vec<String> {
    let defaults: toml::Table = DEFAULTS.parse().unwrap_or_default();
    let table = defaults.get("plugins").and_then(|plugins| plugins.get(PLUGIN)?.clone().try_into().ok());
    table.map_or_else(Vec::new, |table: Plugin| servers(&table))
}

fn has_workflows(table: &Plugin) -> bool {
    let entries = table.folder.as_deref().map(Path::read_dir);
    entries
        .into_iter()
        .flatten()
        .flatten()
        .flatten()
        .any(|entry| entry.path().extension().is_some_and(|e| e == "json"))
}

async fn reach(outbound: &Outbound, server: &str) -> Result<(), String> {
    let url = server.parse().map_err(|_| "it is no URL such as http://127.0.0.1:8188".to_owned())?;
    let origin = Origin::of(&url)?;
    let (stream, _permit) = outbound.connect(&origin, PATIENCE).await.map_err(|e| e.message)?;
    let path = format!("{}/queue", url.path().trim_end_matches('/'));
    let host = url.authority().map(|authority| authority.as_str()).unwrap_or_default();
    match http::get(stream, host, &path, PATIENCE).await? {
        (200, body) if body.contains("queue_running") => Ok(()),
        (status, _) => Err(format!("GET {path} was answered {status}, and not as ComfyUI does")),
    }
}
