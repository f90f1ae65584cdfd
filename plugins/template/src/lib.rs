//! A plugin to copy. It takes one message and one job:
//!
//! ```text
//! {"type": "hello:greet", "name": "Ada", "id": "1"}  ->  {"type": "hello:greeting", "text": "Hello, Ada!", "id": "1"}
//! {"type": "job:submit", "jobType": "hello-count", "to": 3, "id": "2"}  ->  job:ack, job:progress ..., job:complete
//! ```
//!
//! Build it with `cargo build -p reverie-plugin-template --release --target wasm32-wasip2`, copy
//! `target/wasm32-wasip2/release/hello.wasm` into the server's plugin folder, and it is live. Change the code, build and
//! copy again: the running server switches to the new version without a restart.

use reverie_plugin_sdk::{Error, Handler, Job, Manifest, Message, clock, export};
use serde::Deserialize;
use serde_json::json;

struct Hello;

// Makes a component of this crate. Once per crate.
export!(Hello);

// Clients send JSON; name the fields you want. The schemas below let the host turn wrong input away with a good message,
// before this code runs, so parsing it can hardly fail.
#[derive(Deserialize)]
struct Greet {
    name: Option<String>,
}

#[derive(Deserialize)]
struct Count {
    to: u32,
}

impl Handler for Hello {
    // Who the plugin is and which types it takes. No two plugins may take the same one. A plugin that wants more than to
    // answer asks for it here, for example `.capabilities(&["storage"])`, and the operator grants it.
    fn manifest() -> Manifest {
        Manifest::new("hello", env!("CARGO_PKG_VERSION"), "Greets and counts.")
            .message("hello:greet", "Greets one person.", r#"{"properties": {"name": {"type": "string"}}}"#)
            .job(
                "hello-count",
                "Counts up, slowly.",
                r#"{"properties": {"to": {"type": "integer", "minimum": 1, "maximum": 1000}}, "required": ["to"]}"#,
            )
    }

    // One message of one client. The reply carries the message's `id` by itself.
    fn message(message: Message) -> Result<(), Error> {
        let greet: Greet = message.parse()?;
        let name = greet.name.unwrap_or_else(|| "stranger".to_owned());
        message.reply(&json!({"type": "hello:greeting", "text": format!("Hello, {name}!")}))
    }

    // One job, from start to end. An error ends it with `job:error`; `complete` is required for success.
    fn job(job: Job) -> Result<(), Error> {
        let count: Count = job.params()?;
        for n in 1..=count.to {
            job.check_cancelled()?;
            clock::sleep(100); // costs no thread: the host suspends the plugin
            job.progress(n as f32 / count.to as f32);
        }
        job.complete(&[], &json!({"counted": count.to}))
    }
}
