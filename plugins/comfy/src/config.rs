//! The plugin's table in the configuration file.

use reverie_plugin_sdk::Error;
use serde::Deserialize;

/// What `host/reverie.toml` documents.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub servers: Vec<String>,
    pub stale_s: f64,
    pub limit_s: f64,
    pub reconnect_s: f64,
    pub probe_timeout_s: f64,
    pub transfer_timeout_s: f64,
    pub max_output_mb: usize,
    pub validate: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            servers: vec!["http://127.0.0.1:8188".into()],
            stale_s: 60.0,
            limit_s: 900.0,
            reconnect_s: 10.0,
            probe_timeout_s: 3.0,
            transfer_timeout_s: 120.0,
            max_output_mb: 128,
            validate: true,
        }
    }
}

impl Config {
    /// Checks what serde can't, and cuts slashes off the servers' ends.
    ///
    /// # Errors
    /// `internal`, naming the key: it is the operator's mistake, not the client's.
    pub fn checked(mut self) -> Result<Self, Error> {
        let wrong = |key: &str, what: &str| {
            Err(Error::internal(format!("the configuration's plugins.comfy.config.{key} {what}")))
        };
        if self.servers.is_empty() {
            return wrong(
                "servers",
                "is empty: accepted are ComfyUI servers such as [\"http://127.0.0.1:8188\"]",
            );
        }
        for server in &mut self.servers {
            *server = server.trim_end_matches('/').to_owned();
            if !server.starts_with("http://") && !server.starts_with("https://") {
                let what = format!("has '{server}': accepted are http://HOST:PORT and https://HOST:PORT");
                return wrong("servers", &what);
            }
        }
        let seconds = [
            ("stale_s", self.stale_s),
            ("limit_s", self.limit_s),
            ("reconnect_s", self.reconnect_s),
            ("probe_timeout_s", self.probe_timeout_s),
            ("transfer_timeout_s", self.transfer_timeout_s),
        ];
        for (key, seconds) in seconds {
            if !(seconds > 0.0 && seconds < 1e6) {
                return wrong(key, "must be seconds over 0 and under 1000000");
            }
        }
        Ok(self)
    }
}

/// Whole milliseconds of so many seconds.
pub fn ms(seconds: f64) -> u64 {
    (seconds * 1000.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_of_the_operator_are_named() {
        assert_eq!(Config::default().checked().unwrap().servers, ["http://127.0.0.1:8188"]);
        let slash = Config { servers: vec!["https://gpu.example/comfy/".into()], ..Config::default() };
        assert_eq!(slash.checked().unwrap().servers, ["https://gpu.example/comfy"]);
        let bare = Config { servers: vec!["127.0.0.1:8188".into()], ..Config::default() };
        assert!(
            bare.checked().unwrap_err().message.contains("servers has '127.0.0.1:8188': accepted are http")
        );
        let never = Config { stale_s: 0.0, ..Config::default() };
        assert!(never.checked().unwrap_err().message.contains("stale_s must be"));
    }
}
