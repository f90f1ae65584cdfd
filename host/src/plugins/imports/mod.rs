//! The host functions that plugins import, one file for each kind. Bad arguments are errors the guest can handle, never
//! traps.

mod data;
mod diffusion;
mod files;
mod http;
mod images;
mod messages;
mod metered;
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

use super::{
    instance::CallState,
    memory::{Part, SMALL},
};
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

/// Bytes that JSON takes in memory beside those of its text, at most about: a value, and an object with places for eleven.
const VALUE: usize = 128;
const OBJECT: usize = 768;

/// Bytes that a JSON text takes at most when it is read and written again.
fn room(text: &str) -> usize {
    let beside = |byte| match byte {
        b',' | b'[' => VALUE,
        b'{' => OBJECT,
        _ => 0,
    };
    text.len().saturating_add(text.bytes().map(beside).sum())
}

impl CallState {
    /// A guest's JSON text as an object; an empty text is an empty object. Also the memory that a large one takes.
    ///
    /// # Errors
    /// `InvalidInput` for anything else, `TooLarge` when the call has not that much memory.
    fn object(&self, what: &str, text: &str) -> Result<(Map<String, Value>, Option<Part>), Error> {
        if text.is_empty() {
            return Ok((Map::new(), None));
        }
        let part = match text.len() {
            ..=SMALL => None,
            _ => Some(self.memory.take(room(text))?),
        };
        let object = serde_json::from_str(text);
        Ok((object.map_err(|e| Error::invalid(format!("{what} is not a JSON object: {e}")))?, part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_enough_for_the_densest_texts() {
        // A list that grows by doubling has room for twice as many as it has.
        let list = "[0".to_owned() + &",0".repeat(9999) + "]";
        assert!(room(&list) >= 10_000 * 2 * size_of::<Value>());
        let objects = "{\"a\":0},".repeat(500);
        assert!(room(&objects) >= 500 * (704 + 2 * size_of::<Value>()));
        assert_eq!(room(&"x".repeat(1 << 20)), 1 << 20, "a picture in base64 is as long as its text");
    }
}
