//! `reverie config`.

use crate::config::Config;

/// Prints the configuration in effect as TOML, secrets masked.
pub fn print(config: &Config) -> Result<(), String> {
    print!("{}", toml::to_string(&config.redacted()).map_err(|e| e.to_string())?);
    Ok(())
}
