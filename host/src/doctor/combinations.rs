//! Settings that are accepted one by one and yet hardly meant so.

use std::path::Path;

use reverie_access::Authority;
use tracing_subscriber::EnvFilter;

use super::Area;
use crate::{
    config::{Attention, Backend, Config, Plugin},
    keys,
    outbound::Origin,
    plugins::CAPABILITIES,
};

pub fn check(config: &Config, area: &mut Area<'_>) {
    server(config, area);
    limits(config, area);
    execution(config, area);
    for (name, plugin) in &config.plugins {
        grants(name, plugin, area);
    }
    if let Err(error) = EnvFilter::try_new(&config.log.level) {
        area.error(
            format!("log.level = {:?}: {error}", config.log.level),
            "set it to error, warn, info, debug or trace, or to a filter such as \"info,reverie::plugins=debug\"",
        );
    }
    let similarity =
        config.plugins.get("dream").and_then(|dream| dream.config.get("similarity_scale")?.as_float());
    if !config.scoring.model.as_os_str().is_empty() && similarity == Some(1.3) {
        area.note(
            "scoring.model is set, and plugins.dream.config.similarity_scale is the one of the embedded dual encoder (1.3)",
            "set plugins.dream.config.similarity_scale for that model: 2.5 fits OpenAI's CLIP models",
        );
    }
}

fn server(config: &Config, area: &mut Area<'_>) {
    let server = &config.server;
    match keys::keyring(config) {
        Err(why) => area.error(why, "mend or remove that key: the server does not start with it"),
        Ok(ring) if keys::exposed(config, &ring).is_some() => area.error(
            format!(
                "server.host = {:?} serves other machines, and there are no keys: the server does not start so",
                server.host
            ),
            "make a key with `reverie key add NAME --scope admin`, set server.open = true if everyone may do everything, or \
             server.host = \"127.0.0.1\" for this machine alone",
        ),
        Ok(ring) if ring.is_empty() && !keys::is_local(&server.host) => area.warning(
            format!("server.host = {:?} serves other machines, and server.open = true: anyone may do everything", server.host),
            "make a key with `reverie key add NAME --scope admin`",
        ),
        Ok(_) => {}
    }
    for host in server.hosts.iter().filter(|host| *host != "*") {
        if Authority::parse(host).is_none() {
            area.warning(
                format!("server.hosts: '{host}' is no name of a host: it never matches"),
                "write the name alone, such as gpu.example.com",
            );
        }
    }
    if server.allowed_origins.iter().any(|origin| origin == "*") && ring_is_empty(config) {
        area.warning(
            "server.allowed_origins has \"*\", and there are no keys: every website that somebody on this machine visits can use \
             the server",
            "list the origins of your pages, or make keys with `reverie key add`",
        );
    }
    for origin in server.allowed_origins.iter().filter(|origin| *origin != "*") {
        // As browsers state them: nothing behind the port.
        if Origin::listed(origin).is_err() || origin.ends_with('/') {
            area.warning(
                format!("server.allowed_origins: '{origin}' is no origin as browsers state them: it never matches"),
                "write SCHEME://HOST or SCHEME://HOST:PORT without anything behind, such as https://example.com",
            );
        }
    }
}

fn ring_is_empty(config: &Config) -> bool {
    keys::keyring(config).is_ok_and(|ring| ring.is_empty())
}

fn limits(config: &Config, area: &mut Area<'_>) {
    if config.hub.max_clients > config.server.max_connections {
        area.warning(
            format!(
                "hub.max_clients = {} is more than server.max_connections = {}: that many clients never come in",
                config.hub.max_clients, config.server.max_connections
            ),
            "set server.max_connections to more than hub.max_clients, which are connections too",
        );
    }
    let (hub, uploads) = (&config.hub, &config.uploads);
    if hub.idle_timeout_s <= hub.ping_interval_s {
        area.warning(
            format!(
                "hub.idle_timeout_s = {} is not more than hub.ping_interval_s = {}: quiet clients are dropped before \
                 they are asked",
                hub.idle_timeout_s, hub.ping_interval_s
            ),
            "set hub.idle_timeout_s to two or three times hub.ping_interval_s",
        );
    }
    if uploads.max_file_bytes > uploads.max_total_bytes {
        area.warning(
            format!(
                "uploads.max_file_bytes = {} is more than uploads.max_total_bytes = {}: no file of that size is ever taken",
                uploads.max_file_bytes, uploads.max_total_bytes
            ),
            "set uploads.max_total_bytes to at least as much",
        );
    }
    if config.diffusion.max_pixels > config.images.max_output_pixels {
        area.note(
            "diffusion.max_pixels is more than images.max_output_pixels, which holds for all pictures",
            "set both to the same, or images.max_output_pixels higher",
        );
    }
}

fn execution(config: &Config, area: &mut Area<'_>) {
    let execution = &config.execution;
    if execution.backend == Backend::Cpu {
        let mut idle = Vec::new();
        if execution.attention == Attention::Wgmma {
            idle.push("execution.attention");
        }
        if execution.vram_budget_mb > 0 {
            idle.push("execution.vram_budget_mb");
        }
        if execution.numerics {
            idle.push("execution.numerics");
        }
        if !idle.is_empty() {
            let verb = if idle.len() == 1 { "has" } else { "have" };
            area.note(
                format!("{} {verb} no effect with execution.backend = \"cpu\"", idle.join(" and ")),
                "remove it, or set execution.backend to \"auto\" or \"cuda\"",
            );
        }
    } else if execution.numerics {
        area.note(
            "execution.numerics = true: on a GPU all takes many times longer",
            "set it to false once the operation that gave infinities or NaN is known",
        );
    }
}

fn grants(name: &str, plugin: &Plugin, area: &mut Area<'_>) {
    let granted = |capability: &str| plugin.capabilities.iter().any(|own| own == capability);
    for capability in plugin.capabilities.iter().filter(|own| !CAPABILITIES.contains(&own.as_str())) {
        area.warning(
            format!("plugins.{name}.capabilities: there is no '{capability}'"),
            format!("remove or correct it; there are: {}", CAPABILITIES.join(", ")),
        );
    }
    let reaches = granted("http") || granted("websocket");
    if !(reaches || plugin.origins.is_empty() && plugin.private_networks.is_empty()) {
        area.note(
            format!("plugins.{name}: origins and private_networks have no effect without the capabilities http and websocket"),
            "grant one of them, or remove origins and private_networks",
        );
    }
    match (&plugin.folder, granted("files")) {
        (Some(_), false) => area.note(
            format!("plugins.{name}.folder has no effect without the capability files"),
            "grant it, or remove the folder",
        ),
        (None, true) => area.note(
            format!("plugins.{name} is granted files, and has no folder to read"),
            format!("set plugins.{name}.folder, or take the capability away"),
        ),
        (Some(folder), true) => files(name, folder, area),
        (None, false) => {}
    }
}

fn files(name: &str, folder: &Path, area: &mut Area<'_>) {
    if folder.exists() && std::fs::read_dir(folder).is_err() {
        area.warning(
            format!("plugins.{name}.folder '{}' is no folder that can be read", folder.display()),
            format!("let this user read it, or set plugins.{name}.folder to another one"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Sources,
        doctor::{Level, Report},
    };

    fn of(set: &[&str]) -> Report {
        let set = set.iter().map(|text| text.to_string()).collect();
        let config = crate::config::load(&Sources { set, ..Sources::default() }).unwrap();
        let mut report = Report::default();
        check(&config, &mut report.area("configuration"));
        report
    }

    #[test]
    fn the_defaults_go_together() {
        assert_eq!(of(&[]).findings, []);
    }

    #[test]
    fn what_hardly_is_meant_is_found_with_what_to_do() {
        for (set, level, part) in [
            (&["server.host=0.0.0.0"][..], Level::Error, "there are no keys"),
            (&["server.host=0.0.0.0", "server.open=true"], Level::Warning, "anyone may do everything"),
            (&["server.allowed_origins=[\"*\"]"], Level::Warning, "every website"),
            (&["server.hosts=[\"http://a\"]"], Level::Warning, "'http://a'"),
            (&["server.allowed_origins=[\"https://a/\"]"], Level::Warning, "'https://a/'"),
            (&["server.max_connections=1000"], Level::Warning, "hub.max_clients = 1024"),
            (&["hub.idle_timeout_s=30"], Level::Warning, "hub.idle_timeout_s = 30"),
            (&["uploads.max_total_bytes=5"], Level::Warning, "uploads.max_file_bytes"),
            (&["images.max_output_pixels=5"], Level::Note, "diffusion.max_pixels"),
            (&["execution.backend=cpu", "execution.attention=wgmma"], Level::Note, "execution.attention has"),
            (&["execution.backend=cpu", "execution.numerics=true"], Level::Note, "execution.numerics has"),
            (&["execution.numerics=true"], Level::Note, "many times longer"),
            (&["plugins.x.capabilities=[\"fly\"]"], Level::Warning, "there is no 'fly'"),
            (&["plugins.x.origins=[\"http://a\"]"], Level::Note, "plugins.x: origins"),
            (&["plugins.x.folder=a"], Level::Note, "plugins.x.folder"),
            (&["plugins.x.capabilities=[\"files\"]"], Level::Note, "no folder to read"),
            (&["plugins.comfy.folder=/dev/null"], Level::Warning, "/dev/null"),
            (&["log.level=reverie=loud"], Level::Error, "log.level"),
            (&["scoring.model=x"], Level::Note, "similarity_scale"),
        ] {
            let report = of(set);
            let [finding] = &report.findings[..] else { panic!("{set:?}: {report}") };
            assert!(finding.level == level && finding.found.contains(part), "{set:?}: {report}");
            assert!(finding.remedy.is_some());
        }
        assert_eq!(of(&["server.host=0.0.0.0", "server.auth_token=x"]).findings, []);
        assert_eq!(of(&["server.host=::1"]).findings, []);
    }
}
