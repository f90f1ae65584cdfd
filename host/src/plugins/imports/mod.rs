//! The host functions that plugins import, one file for each kind. Bad arguments are errors the guest can handle, never
//! traps.

mod data;
mod diffusion;
mod files;
mod http;
mod images;
mod messages;
mod scoring;
mod system;
mod turn;
mod upscale;
mod websocket;

pub use data::Blob;
pub use http::Http;
pub use images::Picture;
pub use websocket::Connection;

use reverie_crash::blame;
use serde_json::{Map, Value};
use tokio::task::JoinHandle;

use super::{bindings::reverie::handler::types as wit, instance::CallState};
use crate::error::{Error, ErrorKind};

impl CallState {
    /// Does `work` on a thread where it may block. What ends the process there is the fault of the call's job.
    fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let job = self.job().map(|job| job.id);
        tokio::task::spawn_blocking(move || {
            let _working = job.map(|job| blame::working_for([job]));
            work()
        })
    }

    /// # Errors
    /// `Denied` when the operator has not granted `capability`.
    fn granted(&self, capability: &str) -> Result<(), Error> {
        if self.services.grants(&self.plugin, capability) {
            return Ok(());
        }
        let plugin = &self.plugin;
        Err(Error::new(
            ErrorKind::Denied,
            format!(
                "plugin '{plugin}' lacks the capability '{capability}': add it to [plugins.{plugin}] capabilities"
            ),
        ))
    }
}

/// A guest's JSON text as an object; an empty text is an empty object.
fn object(what: &str, text: &str) -> Result<Map<String, Value>, wit::Error> {
    if text.is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_str(text).map_err(|e| Error::invalid(format!("{what} is not a JSON object: {e}")).into())
}
