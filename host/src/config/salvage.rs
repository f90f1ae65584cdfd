//! What can be used of a configuration that is refused, and all that is wrong with it at once.

use toml::{Table, Value};

use super::{
    Config, Sources,
    load::{self, DEFAULTS, assignment, put, read, variable},
};

/// A setting that is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Where it stands: a file, an environment variable, or a flag.
    pub place: String,
    /// What is wrong with it, and what is accepted.
    pub why: String,
}

/// A value for a key, of one of the sources.
struct Setting {
    place: String,
    keys: Vec<String>,
    value: Value,
}

/// The configuration of `sources` without the settings that are refused, in whose place the defaults stand, and those settings.
/// Each setting is tried by itself, so that one mistake hides no other. Nothing is refused where [`super::load`] succeeds.
pub fn salvage(sources: &Sources) -> (Config, Vec<Refused>) {
    let defaults: Table = DEFAULTS.parse().expect("the embedded reverie.toml is tested");
    let mut refused = Vec::new();
    let mut settings = Vec::new();
    let (path, named) = sources.path();
    if named || path.exists() {
        match read(&path) {
            Ok(file) => leaves(file, &path.display().to_string(), &mut Vec::new(), &mut settings),
            Err(why) => refused.push(Refused { place: path.display().to_string(), why }),
        }
    }
    let variables = sources.env.iter().filter_map(|(name, text)| {
        let keys = variable(name)?;
        Some((format!("environment variable {name}"), Ok((keys, text.as_str()))))
    });
    let flags = sources.set.iter().map(|text| (format!("--set {text}"), assignment(text)));
    for (place, given) in variables.chain(flags) {
        match given.and_then(|(keys, text)| Ok((load::value(&defaults, &keys, text)?, keys))) {
            Ok((value, keys)) => settings.push(Setting { place, keys, value }),
            Err(why) => refused.push(Refused { place, why }),
        }
    }

    let mut kept = defaults;
    for Setting { place, keys, value } in settings {
        // An empty table names a plugin without anything of its own; it takes nothing away.
        if value.as_table().is_some_and(Table::is_empty) && has(&kept, &keys) {
            continue;
        }
        let mut with = kept.clone();
        match put(&mut with, &keys, value).and_then(|()| checked(&with)) {
            Ok(_) => kept = with,
            Err(why) => {
                // What the parser says stands on lines of its own.
                let (key, why) = (keys.join("."), why.trim().replace('\n', ", "));
                let why = if why.starts_with(&key) { why } else { format!("{key}: {why}") };
                refused.push(Refused { place, why });
            }
        }
    }
    let mut config = checked(&kept).expect("each step was checked");
    config.sources = sources.clone();
    (config, refused)
}

fn checked(table: &Table) -> Result<Config, String> {
    let config = Config::deserialize_table(table.clone()).map_err(|e| e.to_string())?;
    config.check()?;
    Ok(config)
}

fn has(table: &Table, keys: &[String]) -> bool {
    let Some((last, sections)) = keys.split_last() else { return true };
    let table = sections.iter().try_fold(table, |table, section| table.get(section)?.as_table());
    table.is_some_and(|table| table.contains_key(last))
}

/// The settings of a table, each by itself; a mode is one setting, as it is nothing without its model.
fn leaves(table: Table, place: &str, at: &mut Vec<String>, into: &mut Vec<Setting>) {
    for (key, value) in table {
        at.push(key);
        match value {
            Value::Table(table) if !(table.is_empty() || at.len() == 2 && at[0] == "modes") => {
                leaves(table, place, at, into);
            }
            value => into.push(Setting { place: place.to_owned(), keys: at.clone(), value }),
        }
        at.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(file: &str, set: &[&str]) -> (Config, Vec<Refused>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("my.toml");
        std::fs::write(&path, file).unwrap();
        let set = set.iter().map(|text| text.to_string()).collect();
        salvage(&Sources { file: Some(path), set, ..Sources::default() })
    }

    #[test]
    fn every_mistake_is_told_and_the_rest_is_used() {
        let file = "[server]\nprot = 1\nport = \"x\"\nhost = \"::1\"\n[execution]\ntile = 7\n[modes.a]\nmodle = \"x\"\n\
                    [modes.b]\nmodel = \"x\"\n[plugins.mine]\ncapabilities = [\"hub\"]\norigins = [\"here\"]\n";
        let (config, refused) = of(file, &["hub.max_clients=7", "jobs.concurrency=0", "nonsense"]);
        let told = |part: &str| refused.iter().filter(|r| r.why.contains(part)).count();
        for part in [
            "server.prot: unknown field `prot`, expected one of `host`, `port`",
            "server.port: invalid type",
            "execution.tile = 7: must be from 32 to 4096",
            "modes.a: unknown field `modle`",
            "plugins.mine.origins: 'here' is not an origin",
            "jobs.concurrency = 0: must be at least 1",
            "expected section.key=value",
        ] {
            assert_eq!(told(part), 1, "{part}: {refused:#?}");
        }
        assert_eq!(refused.len(), 7, "{refused:#?}");
        assert!(refused.iter().all(|r| !r.why.contains('\n')));
        assert!(refused.iter().any(|r| r.place == "--set jobs.concurrency=0"));
        assert_eq!(
            (config.server.host.as_str(), config.server.port, config.hub.max_clients),
            ("::1", 8000, 7)
        );
        assert_eq!(config.modes.keys().collect::<Vec<_>>(), ["b"]);
        assert_eq!(config.plugins["mine"].capabilities, ["hub"]);
    }

    #[test]
    fn a_file_that_is_no_toml_leaves_the_defaults() {
        let (config, refused) = of("[server\n", &["server.port=9"]);
        assert_eq!(config.server.port, 9);
        assert!(refused[0].why.contains("line 1"), "{refused:?}");
        assert_eq!(refused.len(), 1);
    }

    #[test]
    fn what_loads_is_salvaged_whole() {
        let file = "[modes.b]\nmodel = \"x\"\nsize = \"8x8\"\n[plugins.sr.config]\nmodel = \"y\"\n[plugins.new]\n[plugins.dream]\n[hub]\nping_interval_s = 3\n";
        let (config, refused) = of(file, &["execution.backend=cpu"]);
        assert_eq!(refused, []);
        let loaded = crate::config::load(&Sources {
            file: None,
            env: vec![("REVERIE_HUB__PING_INTERVAL_S".into(), "3".into())],
            set: vec![
                "modes.b={ model = \"x\", size = \"8x8\" }".into(),
                "plugins.sr.config.model=y".into(),
                "plugins.new={}".into(),
                "execution.backend=cpu".into(),
            ],
        });
        let text = |config: &Config| toml::to_string(config).unwrap();
        assert_eq!(text(&config), text(&loaded.unwrap()));
    }
}
