//! Dreams: a session explores around a prompt while nobody else uses the device. Its candidates are small pictures of one
//! step, scored by how well they fit the prompt and how they look; the best are kept, and some of them rendered in full.

#![forbid(unsafe_code)]

mod config;
mod genes;
mod messages;
mod params;
mod random;
mod schema;
mod score;
mod session;
mod state;
mod strategy;
mod top;

use reverie_plugin_sdk::{Error, Handler, Job, Manifest, Message, export};

/// The job type of a session.
const JOB: &str = "dream";

struct Dream;

export!(Dream);

impl Handler for Dream {
    fn manifest() -> Manifest {
        let about = "Explores around a prompt in the background.";
        let mut manifest = Manifest::new("dream", env!("CARGO_PKG_VERSION"), about)
            .background_job(JOB, "A session; dream:start starts one.", &schema::job())
            .capabilities(&["storage", "images", "diffusion", "scoring", "jobs"]);
        for (name, description, schema) in schema::messages() {
            manifest = manifest.message(name, description, &schema);
        }
        manifest
    }

    fn message(message: Message) -> Result<(), Error> {
        messages::handle(&message)
    }

    fn job(job: Job) -> Result<(), Error> {
        session::run(&job)
    }
}
