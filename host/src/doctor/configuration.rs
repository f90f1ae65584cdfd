//! The configuration: where it comes from, what of it is refused, and what of it has no effect.

use super::{Area, combinations};
use crate::config::{self, Config, Refused, Sources};

/// Prefix of the variables that set keys, as `REVERIE_SERVER__PORT`.
const PREFIX: &str = "REVERIE_";

/// What can be used of it: in place of what is refused the defaults stand.
pub fn check(sources: &Sources, area: &mut Area<'_>) -> Config {
    let (config, refused) = config::salvage(sources);
    let (path, named) = sources.path();
    let shown = path.display();
    match (path.exists(), named) {
        (true, _) => area.ok(format!("file: {shown}")),
        // The error is among those that follow.
        (false, true) => {}
        (false, false) => area.ok(format!("no file (./{shown} is not there): the defaults hold")),
    }
    let of_us = |name: &str| name.starts_with(PREFIX);
    let variables: Vec<&str> =
        sources.env.iter().map(|(name, _)| name.as_str()).filter(|n| of_us(n)).collect();
    let (setting, other): (Vec<&str>, Vec<&str>) =
        variables.into_iter().partition(|name| name.contains("__"));
    if !setting.is_empty() {
        area.ok(format!("set by environment: {}", setting.join(", ")));
    }
    for name in other.into_iter().filter(|name| *name != "REVERIE_CONFIG") {
        area.warning(
            format!("the environment variable {name} has no effect"),
            "name section and key, with two underscores between them, such as REVERIE_SERVER__PORT",
        );
    }
    if let Some((_, level)) = sources.env.iter().find(|(name, _)| name == "RUST_LOG") {
        area.ok(format!("RUST_LOG={level} stands in the place of log.level"));
    }
    if !sources.set.is_empty() {
        area.ok(format!("set by --set: {}", keys(&sources.set).join(", ")));
    }
    for refusal in &refused {
        let Refused { place, why } = refusal;
        let found = if why.contains(place.as_str()) { why.clone() } else { format!("{place}: {why}") };
        area.error(found, remedy(refusal));
    }
    if !refused.is_empty() {
        area.note(
            "what follows was found with the defaults in the place of what is refused",
            "mend the errors above, and run reverie doctor again",
        );
    }
    combinations::check(&config, area);
    config
}

/// The keys alone: the values may be secret.
fn keys(assignments: &[String]) -> Vec<&str> {
    assignments.iter().map(|text| text.split_once('=').map_or(text.as_str(), |(key, _)| key)).collect()
}

fn remedy(Refused { why, .. }: &Refused) -> String {
    if why.contains("cannot read") {
        "name a file that is there and that this user may read (--config, REVERIE_CONFIG)".into()
    } else if why.contains("TOML parse error") {
        "correct that line: TOML has lines of key = value below lines of [section]; the whole file counts as empty".into()
    } else if why.contains("unknown field") {
        "correct or remove the key; reverie config --default explains every one".into()
    } else {
        "correct the value; reverie config --default says what each key takes".into()
    }
}
