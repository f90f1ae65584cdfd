//! Runs an operator's ComfyUI workflows: a handler that owns a whole remote protocol inside of its sandbox. What it needs of
//! the world goes through `host::Host`, so that all but `component` and `library::Granted` is tested natively.

#![forbid(unsafe_code)]

mod api;
mod component;
mod config;
mod derive;
mod events;
#[cfg(test)]
mod fake;
mod follow;
mod host;
mod job;
mod library;
mod messages;
mod object_info;
mod outputs;
mod params;
mod request;
mod servers;
mod sidecar;
mod workflow;

use component::Component;
use config::Config;
use host::Host as _;
use library::Granted;
use request::Request;
use reverie_plugin_sdk::{Error, Handler, Job, Manifest, Message, config as table, export};

/// The job type.
const JOB: &str = "comfy";

struct Comfy;

export!(Comfy);

fn read_config() -> Result<Config, Error> {
    table::<Config>()?.checked()
}

impl Handler for Comfy {
    fn manifest() -> Manifest {
        Manifest::new(
            "comfy",
            env!("CARGO_PKG_VERSION"),
            "Runs ComfyUI workflows on servers of the operator's.",
        )
        .message("comfy:workflows", "Lists the workflows with the schemas of their inputs.", "")
        .message("comfy:servers", "Tells how the ComfyUI servers are doing.", "")
        .message("comfy:check", "Checks a job's parameters without running it.", &request::schema())
        .job(JOB, "Runs a workflow.", &request::schema())
        .capabilities(&["uploads", "storage", "images", "http", "websocket", "files"])
    }

    fn message(message: Message) -> Result<(), Error> {
        messages::handle(&message, &Component(None), &Granted, &read_config()?)
    }

    fn job(job: Job) -> Result<(), Error> {
        let config = read_config()?;
        let request: Request = job.params()?;
        let host = Component(Some(&job));
        let entry = library::find(&Granted, &request.workflow_id)?;
        let task = job::Task {
            id: &job.job_id,
            workflow_id: &entry.id,
            first_attempt: job.attempt <= 1,
            sidecar: &entry.sidecar,
            patched: request.patch(&entry, host.random())?,
            previews: request.previews(),
            max_wait_s: request.max_wait_s(&entry)?,
        };
        let made = job::run(&host, &config, task)?;
        let keys: Vec<&str> = made.keys.iter().map(String::as_str).collect();
        job.complete(&keys, &made.meta)
    }
}
