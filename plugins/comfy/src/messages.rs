//! What clients ask beside jobs: which workflows there are, how the servers are, whether parameters fit.

use reverie_plugin_sdk::{Error, Message};
use serde_json::{Value, json};

use crate::{
    api::Server,
    config::Config,
    host::Host,
    library::{self, Entry, Folder},
    object_info::Infos,
    params,
    request::Request,
    servers,
};

/// How long servers are asked about nodes; a message's call has a limit.
const ASKING_MS: u64 = 6000;

/// Handles any of the plugin's messages.
///
/// # Errors
/// What is wrong with it.
pub fn handle(
    message: &Message,
    host: &impl Host,
    folder: &impl Folder,
    config: &Config,
) -> Result<(), Error> {
    message.reply(&match message.kind.as_str() {
        "comfy:workflows" => workflows(host, folder, config)?,
        "comfy:servers" => json!({"type": "comfy:servers:result", "servers": servers::health(host, config)}),
        _ => check(&message.parse()?, folder)?,
    })
}

/// Lists the folder. Each workflow is checked by a server's nodes, if one answers.
fn workflows(host: &impl Host, folder: &impl Folder, config: &Config) -> Result<Value, Error> {
    let (entries, refused) = library::all(folder)?;
    let chosen = if entries.is_empty() || !config.validate {
        None
    } else {
        servers::choose(host, config, &Vec::new(), 0).ok()
    };
    let mut infos = Infos::default();
    let begun = host.now_ms();
    let listed: Vec<Value> = entries
        .iter()
        .map(|entry| {
            let Entry { id, workflow, sidecar } = entry;
            let checked = chosen
                .filter(|_| host.now_ms() - begun < ASKING_MS)
                .is_some_and(|url| Server { host, url, config }.learn(&mut infos, workflow).is_ok());
            let problems = if checked { infos.problems(workflow, &[]) } else { Vec::new() };
            json!({
                "id": id,
                "title": sidecar.title.as_deref().unwrap_or(id),
                "description": sidecar.description,
                "schema": params::schema(workflow, sidecar, checked.then_some(&infos)),
                "inputImage": sidecar.picture().map(|input| &input.name),
                "derived": sidecar.derived,
                "checked": checked.then_some(chosen).flatten(),
                "problems": problems,
            })
        })
        .collect();
    let refused: Vec<Value> =
        refused.iter().map(|refused| json!({"file": refused.file, "error": refused.error})).collect();
    Ok(json!({"type": "comfy:workflows:result", "workflows": listed, "refused": refused}))
}

/// Whether a job would be accepted, as far as that can be told without a server.
fn check(request: &Request, folder: &impl Folder) -> Result<Value, Error> {
    let entry = library::find(folder, &request.workflow_id)?;
    let warnings = request.patch(&entry, 0)?.warnings;
    request.max_wait_s(&entry)?;
    Ok(json!({"type": "comfy:check:result", "workflowId": entry.id, "ok": true, "warnings": warnings}))
}
