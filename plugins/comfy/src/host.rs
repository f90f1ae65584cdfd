//! What the plugin needs of the world around it, as a trait: the real one is in `component`, tests have one of their own.

use reverie_plugin_sdk::Error;
use serde_json::Value;

/// An HTTP request to a ComfyUI server.
pub struct Request {
    pub method: &'static str,
    pub url: String,
    /// The media type and the bytes of the body.
    pub body: Option<(String, Vec<u8>)>,
    pub timeout_ms: u64,
    pub max_bytes: usize,
}

/// Its answer.
pub struct Response {
    pub status: u16,
    /// The media type; empty where the server named none.
    pub media_type: String,
    pub body: Vec<u8>,
}

/// A WebSocket message.
pub enum Frame {
    Text(String),
    Binary(Vec<u8>),
}

/// An open WebSocket.
pub trait Socket {
    /// # Errors
    /// The connection is closed.
    fn send(&self, text: &str) -> Result<(), Error>;

    /// Waits for the next message; none when none came in time.
    ///
    /// # Errors
    /// The connection is closed.
    fn receive(&self, timeout_ms: u64) -> Result<Option<Frame>, Error>;
}

/// The host, the network and the job at hand.
pub trait Host {
    type Socket: Socket;

    /// # Errors
    /// `denied` when the operator granted no such origin, `unavailable` when no answer came.
    fn call(&self, request: Request) -> Result<Response, Error>;

    /// Opens a WebSocket.
    ///
    /// # Errors
    /// As [`Host::call`].
    fn connect(&self, url: &str, timeout_ms: u64) -> Result<Self::Socket, Error>;

    /// Milliseconds of a clock that never goes back.
    fn now_ms(&self) -> u64;
    fn sleep(&self, ms: u64);
    fn random(&self) -> u64;
    fn log(&self, line: &str);

    /// Whether the client asked for the job to stop.
    fn cancelled(&self) -> bool;
    fn progress(&self, fraction: f64, detail: &Value);
    /// Shows a picture of a step to those who follow the job.
    fn preview(&self, step: Option<f64>, content: Vec<u8>, media_type: &str);
    /// Bytes and media type of an upload.
    ///
    /// # Errors
    /// It does not exist (any more).
    fn upload(&self, file_ref: &str) -> Result<(Vec<u8>, String), Error>;
    /// Stores an output and returns its key.
    ///
    /// # Errors
    /// The store fails.
    fn store(&self, content: Vec<u8>, media_type: &str) -> Result<String, Error>;
}
