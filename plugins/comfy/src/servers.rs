//! Which server runs a job: the one with the fewest prompts among those that answer.

use reverie_plugin_sdk::{Error, ErrorKind};
use serde_json::{Value, json};

use crate::{
    api::{Server, Whereabouts},
    config::Config,
    host::Host,
};

/// A server that a job can't have, and why.
pub type Fallen = Vec<(String, String)>;

/// Chooses a server. `tie` spreads jobs that come at the same time over servers with the same load.
///
/// # Errors
/// `denied` when the operator granted none of the servers, else `unavailable`; the message says of each what is wrong.
pub fn choose<'c, H: Host>(
    host: &H,
    config: &'c Config,
    fallen: &Fallen,
    tie: u64,
) -> Result<&'c str, Error> {
    let mut best: Option<(usize, usize, &str)> = None;
    let mut reasons: Vec<String> = fallen.iter().map(|(_, why)| why.clone()).collect();
    let mut denied = true;
    for (index, url) in config.servers.iter().enumerate() {
        if fallen.iter().any(|(server, _)| server == url) {
            denied = false;
            continue;
        }
        match (Server { host, url, config }).queue() {
            Ok(queue) => {
                let load = queue.running.len() + queue.pending.len();
                let turn = (index + tie as usize % config.servers.len()) % config.servers.len();
                if best.is_none_or(|(l, t, _)| (load, turn) < (l, t)) {
                    best = Some((load, turn, url));
                }
            }
            Err(error) => {
                denied &= error.kind == ErrorKind::Denied;
                reasons.push(error.message);
            }
        }
    }
    if let Some((_, _, url)) = best {
        return Ok(url);
    }
    let kind = if denied { ErrorKind::Denied } else { ErrorKind::Unavailable };
    Err(Error::new(kind, format!("no ComfyUI server can run the job: {}", reasons.join("; "))))
}

/// The server that has a prompt already: an earlier attempt of this job left it there.
pub fn holder<'c, H: Host>(host: &H, config: &'c Config, prompt: &str) -> Option<&'c str> {
    let has = |url: &&String| {
        let found = (Server { host, url: url.as_str(), config }).find(prompt);
        found.is_ok_and(|whereabouts| whereabouts != Whereabouts::Absent)
    };
    config.servers.iter().find(has).map(String::as_str)
}

/// How each server is doing.
pub fn health<H: Host>(host: &H, config: &Config) -> Vec<Value> {
    let one = |url: &String| {
        let server = Server { host, url, config };
        match (server.queue(), server.about()) {
            (Ok(queue), Ok(about)) => json!({
                "url": url,
                "ok": true,
                "running": queue.running.len(),
                "pending": queue.pending.len(),
                "version": about["system"]["comfyui_version"],
                "devices": about["devices"].as_array().into_iter().flatten().map(|device| json!({
                    "name": device["name"],
                    "vram_free": device["vram_free"],
                    "vram_total": device["vram_total"],
                })).collect::<Vec<_>>(),
            }),
            (Err(error), _) | (_, Err(error)) => json!({"url": url, "ok": false, "error": error.message}),
        }
    };
    config.servers.iter().map(one).collect()
}
