//! Time, randomness, the log and the plugin's own configuration.

use std::{
    sync::OnceLock,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::super::{
    bindings::reverie::handler::{clock, config, log, random},
    instance::CallState,
    log_lines::plain,
};

const MAX_RANDOM_BYTES: u32 = 65536;

impl clock::Host for CallState {
    fn now_ms(&mut self) -> wasmtime::Result<u64> {
        Ok(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_millis() as u64))
    }

    fn monotonic_ns(&mut self) -> wasmtime::Result<u64> {
        static START: OnceLock<Instant> = OnceLock::new();
        Ok(START.get_or_init(Instant::now).elapsed().as_nanos() as u64)
    }

    async fn sleep(&mut self, ms: u32) -> wasmtime::Result<()> {
        tokio::time::sleep(Duration::from_millis(ms.into())).await;
        Ok(())
    }
}

impl random::Host for CallState {
    fn get_u64(&mut self) -> wasmtime::Result<u64> {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).map_err(|e| wasmtime::format_err!("no randomness: {e}"))?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn bytes(&mut self, length: u32) -> wasmtime::Result<Vec<u8>> {
        let length = length.min(MAX_RANDOM_BYTES) as usize;
        let mut bytes = vec![0; length];
        getrandom::fill(&mut bytes).map_err(|e| wasmtime::format_err!("no randomness: {e}"))?;
        Ok(bytes)
    }
}

impl log::Host for CallState {
    fn write(&mut self, level: log::Level, message: String) -> wasmtime::Result<()> {
        self.log(level, &message);
        Ok(())
    }
}

impl CallState {
    /// Writes a line of the plugin's to the server's log, unless it has written too many.
    pub(super) fn log(&self, level: log::Level, message: &str) {
        let shown = match level {
            log::Level::Error => tracing::enabled!(target: "plugin", tracing::Level::ERROR),
            log::Level::Warn => tracing::enabled!(target: "plugin", tracing::Level::WARN),
            log::Level::Info => tracing::enabled!(target: "plugin", tracing::Level::INFO),
            log::Level::Debug => tracing::enabled!(target: "plugin", tracing::Level::DEBUG),
        };
        if !shown || !self.services.log_lines.admit(&self.plugin, self.log_lines_per_minute) {
            return;
        }
        let message = plain(message);
        let (plugin, job) = (&*self.plugin, self.job().map(|job| job.id.to_string()));
        match level {
            log::Level::Error => tracing::error!(target: "plugin", plugin, job, "{message}"),
            log::Level::Warn => tracing::warn!(target: "plugin", plugin, job, "{message}"),
            log::Level::Info => tracing::info!(target: "plugin", plugin, job, "{message}"),
            log::Level::Debug => tracing::debug!(target: "plugin", plugin, job, "{message}"),
        }
    }
}

impl config::Host for CallState {
    fn get(&mut self) -> wasmtime::Result<String> {
        let table = self.services.config.plugins.get(&*self.plugin).map(|plugin| &plugin.config);
        Ok(table.map_or_else(|| "{}".into(), |table| serde_json::to_string(table).expect("TOML fits JSON")))
    }
}
