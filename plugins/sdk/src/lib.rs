//! Everything a Reverie plugin needs: implement [`Handler`] for a type, name the type in [`export!`], and build for
//! `wasm32-wasip2`.
//!
//! ```
//! use reverie_plugin_sdk::{Error, Handler, Manifest, Message, export};
//! use serde_json::json;
//!
//! struct Hello;
//!
//! impl Handler for Hello {
//!     fn manifest() -> Manifest {
//!         Manifest::new("hello", "1.0.0", "Greets people.").message("hello:greet", "Greets one person.", "")
//!     }
//!
//!     fn message(message: Message) -> Result<(), Error> {
//!         message.reply(&json!({"type": "hello:greeting", "text": "Hello!"}))
//!     }
//! }
//!
//! export!(Hello);
//! # fn main() {}
//! ```
//!
//! The server starts a fresh instance for every call: nothing kept in memory outlives it. A panic ends the one call, and
//! its text goes to the server's log.
//!
//! The modules ([`images`], [`storage`], ...) are the host's interfaces as `wit/handler.wit` describes them. Those that
//! need a capability work once the manifest asks for it ([`Manifest::capabilities`]) and the operator grants it.

#![deny(unsafe_code, missing_docs)]

#[doc(hidden)]
#[allow(
    clippy::all,
    clippy::pedantic,
    missing_docs,
    unsafe_code,
    reason = "generated code: it speaks the raw ABI"
)]
pub mod bindings;
mod connection;
mod error;
mod handler;
pub mod http;
mod job;
mod json;
pub mod log;
mod manifest;
mod message;
mod url;
#[cfg(target_arch = "wasm32")]
#[allow(unsafe_code, reason = "symbols for libc to find, by the C ABI")]
mod wasi;

pub use bindings::{
    exports::reverie::handler::handler::{Entry, JobRequest as Job, Manifest, Message},
    reverie::handler::{
        clock, diffusion, files, hub, images,
        job::{InterruptionReason as Interruption, Output},
        jobs, random, scoring, storage,
        types::{Blob, Error, ErrorKind},
        uploads, upscale, websocket,
    },
};
#[doc(hidden)]
pub use handler::Adapter;
pub use handler::Handler;
pub use json::{config, reply};
pub use serde;
pub use serde_json;

/// Makes a component of a crate: exports one [`Handler`] to the host. Call it once, in the root of a `cdylib`.
#[macro_export]
macro_rules! export {
    ($handler:ty) => {
        const _: () = {
            type Exported = $crate::Adapter<$handler>;
            // The symbols' names mean something to WebAssembly alone; a linker of the developer's own machine, which
            // links the crate for its unit tests, may stumble over them.
            #[cfg(target_arch = "wasm32")]
    $crate::bindings::export_handler!(Exported with_types_in $crate::bindings);
            #[cfg(not(target_arch = "wasm32"))]
            const _: fn() -> $crate::Manifest =
                <Exported as $crate::bindings::exports::reverie::handler::handler::Guest>::describe;
        };
    };
}
