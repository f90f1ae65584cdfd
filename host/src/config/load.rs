//! Where a setting's value comes from: flag, environment, file, embedded default, in this order.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::Config;

/// The documented defaults.
pub const DEFAULTS: &str = include_str!("../../reverie.toml");

const FILE: &str = "reverie.toml";
const ENV_PREFIX: &str = "REVERIE_";

/// What the command line and the environment say.
#[derive(Debug, Default, Clone)]
pub struct Sources {
    /// `--config FILE`, else `REVERIE_CONFIG`, else `./reverie.toml` if it exists.
    pub file: Option<PathBuf>,
    /// Names and values of environment variables; only those that begin with `REVERIE_` count.
    pub env: Vec<(String, String)>,
    /// `section.key=value`, as `--set` takes it.
    pub set: Vec<String>,
}

impl Sources {
    /// The file, and whether it was named, and so must exist.
    pub fn path(&self) -> (PathBuf, bool) {
        let from_env =
            self.env.iter().find(|(name, _)| name == "REVERIE_CONFIG").map(|(_, path)| path.into());
        match self.file.clone().or(from_env) {
            Some(path) => (path, true),
            None => (FILE.into(), false),
        }
    }
}

/// Merges the sources into a checked configuration.
///
/// # Errors
/// A message that names the source, the key and what is accepted.
pub fn load(sources: &Sources) -> Result<Config, String> {
    let defaults: Table = DEFAULTS.parse().map_err(|e| format!("embedded reverie.toml: {e}"))?;
    let mut merged = defaults.clone();

    let (path, named) = sources.path();
    if named || path.exists() {
        let file = read(&path)?;
        // Deserialised by itself first, so that the error shows the line in the operator's own file.
        merge(&mut merged, file);
        Config::deserialize_table(merged.clone()).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    for (name, text) in &sources.env {
        let Some(keys) = variable(name) else { continue };
        let set = value(&defaults, &keys, text).and_then(|value| put(&mut merged, &keys, value));
        set.map_err(|e| format!("environment variable {name}: {e}"))?;
    }
    for text in &sources.set {
        let set =
            assignment(text).and_then(|(keys, text)| put(&mut merged, &keys, value(&defaults, &keys, text)?));
        set.map_err(|e| format!("--set {text}: {e}"))?;
    }
    let mut config = Config::deserialize_table(merged).map_err(|e| format!("configuration: {e}"))?;
    config.sources = sources.clone();
    config.check().map_err(|e| format!("configuration: {e}"))?;
    Ok(config)
}

impl Config {
    pub(super) fn deserialize_table(table: Table) -> Result<Config, toml::de::Error> {
        table.try_into()
    }
}

pub fn read(path: &Path) -> Result<Table, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    text.parse().map_err(|e| format!("{}: {e}", path.display()))
}

fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(old)), Value::Table(new)) => merge(old, new),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// The key that an environment variable sets; none for one that sets none.
pub fn variable(name: &str) -> Option<Vec<String>> {
    let key = name.strip_prefix(ENV_PREFIX).filter(|key| key.contains("__"))?;
    Some(key.split("__").map(str::to_lowercase).collect())
}

/// Key and value of `section.key=value`.
pub fn assignment(text: &str) -> Result<(Vec<String>, &str), String> {
    let (key, value) = text.split_once('=').ok_or("expected section.key=value, such as server.port=9000")?;
    Ok((key.split('.').map(str::to_owned).collect(), value))
}

/// The value of a key from its text. The default's type decides how that is read: a token of digits stays a string.
pub fn value(defaults: &Table, keys: &[String], text: &str) -> Result<Value, String> {
    let (last, sections) = keys.split_last().filter(|(_, s)| !s.is_empty()).ok_or("expected section.key")?;
    let table = sections.iter().try_fold(defaults, |table, section| table.get(section)?.as_table());
    Ok(match table.and_then(|table| table.get(last)) {
        Some(Value::String(_)) => Value::String(text.to_owned()),
        Some(Value::Integer(_)) => match (text.parse(), text.parse()) {
            (Ok(whole), _) => Value::Integer(whole),
            (_, Ok(number)) => Value::Float(number),
            _ => return Err(format!("'{text}' is not a number")),
        },
        _ => format!("v = {text}")
            .parse::<Table>()
            .ok()
            .and_then(|mut t| t.remove("v"))
            .unwrap_or_else(|| Value::String(text.to_owned())),
    })
}

/// Sets a key, in sections that are made where they are missing.
pub fn put(table: &mut Table, keys: &[String], value: Value) -> Result<(), String> {
    let (last, sections) = keys.split_last().ok_or("expected section.key")?;
    let mut table = table;
    for section in sections {
        let entry = table.entry(section.clone()).or_insert_with(|| Value::Table(Table::new()));
        table = entry.as_table_mut().ok_or_else(|| format!("'{section}' is not a section"))?;
    }
    table.insert(last.clone(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(env: &[(&str, &str)], set: &[&str]) -> Result<Config, String> {
        load(&Sources {
            file: None,
            env: env.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
            set: set.iter().map(|s| s.to_string()).collect(),
        })
    }

    #[test]
    fn every_key_has_a_documented_default() {
        let config = with(&[], &[]).unwrap();
        // What the file states is all there is: serialising the parsed defaults gives back the same keys and values.
        fn flat(table: Table, at: &str, into: &mut Vec<(String, String)>) {
            for (key, value) in table {
                let key = format!("{at}.{key}");
                match value {
                    Value::Table(table) => flat(table, &key, into),
                    Value::Integer(whole) => into.push((key, (whole as f64).to_string())),
                    value => into.push((key, value.to_string().trim_end_matches(".0").to_owned())),
                }
            }
        }
        let (mut documented, mut effective) = (Vec::new(), Vec::new());
        flat(DEFAULTS.parse().unwrap(), "", &mut documented);
        flat(toml::to_string(&config).unwrap().parse().unwrap(), "", &mut effective);
        assert_eq!(documented, effective);
    }

    #[test]
    fn flags_win_over_environment_which_wins_over_defaults() {
        let config = with(&[("REVERIE_SERVER__PORT", "9000"), ("REVERIE_SERVER__HOST", "::1")], &[]).unwrap();
        assert_eq!((config.server.port, config.server.host.as_str()), (9000, "::1"));
        let config = with(&[("REVERIE_SERVER__PORT", "9000")], &["server.port=9001"]).unwrap();
        assert_eq!(config.server.port, 9001);
        let config = with(&[("REVERIE_SERVER__AUTH_TOKEN", "123")], &[]).unwrap();
        assert_eq!(config.server.auth_token, "123");
        assert_eq!(config.redacted().server.auth_token, "********");
    }

    #[test]
    fn a_file_needs_only_what_differs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("my.toml");
        std::fs::write(&path, "[plugins.sr]\nmemory_mb = 32\n[plugins.mine]\ncapabilities = [\"hub\"]\n")
            .unwrap();
        let config = load(&Sources { file: Some(path), ..Default::default() }).unwrap();
        assert_eq!(config.limits("sr").memory_mb, 32);
        assert_eq!(config.plugins["sr"].capabilities.len(), 4);
        assert_eq!(config.plugins["mine"].capabilities, ["hub"]);
    }

    #[test]
    fn errors_name_the_key_and_what_is_accepted() {
        let error = with(&[("REVERIE_SERVER__PROT", "1")], &[]).unwrap_err();
        assert!(error.contains("prot") && error.contains("port"), "{error}");
        let error = with(&[], &["execution.tile=7"]).unwrap_err();
        assert!(error.contains("execution.tile") && error.contains("32 to 4096"), "{error}");
        let error = with(&[], &["hub.ping_interval_s=soon"]).unwrap_err();
        assert!(error.contains("not a number"), "{error}");
        let error = with(&[], &["server.allowed_origins=[\"not an origin\"]"]).unwrap_err();
        assert!(error.contains("server.allowed_origins") && error.contains("https://example.com"), "{error}");
        assert!(with(&[], &["server.allowed_origins=[\"*\", \"https://page.example\"]"]).is_ok());
        let error = with(&[], &["plugins.x.origins=[\"example.org\"]"]).unwrap_err();
        assert!(error.contains("plugins.x.origins") && error.contains("SCHEME://HOST"), "{error}");
        let error = with(&[], &["plugins.x.private_networks=[\"10.0.0.0\"]"]).unwrap_err();
        assert!(error.contains("plugins.x.private_networks") && error.contains("10.0.0.0/8"), "{error}");
        let error = load(&Sources { file: Some("/nowhere.toml".into()), ..Default::default() }).unwrap_err();
        assert!(error.contains("/nowhere.toml"), "{error}");
    }
}
