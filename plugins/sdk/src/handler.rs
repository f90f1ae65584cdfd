use std::{marker::PhantomData, panic};

use crate::{Error, Job, Manifest, Message, bindings::exports::reverie::handler::handler::Guest, log};

/// A plugin. The functions have no `self`, because every call starts with a fresh instance.
pub trait Handler {
    /// Who the plugin is and what it takes. Called once, when the component is loaded.
    fn manifest() -> Manifest;

    /// Handles one message of a type that the manifest names.
    ///
    /// # Errors
    /// An error becomes an `error` message to the client.
    fn message(message: Message) -> Result<(), Error> {
        Err(Error::internal(format!("this plugin has no code for the message type '{}'", message.kind)))
    }

    /// Runs one job of a type that the manifest names, to its end. It must call [`Job::complete`] before it returns `Ok`.
    ///
    /// # Errors
    /// An error ends the job with `job:error`.
    fn job(job: Job) -> Result<(), Error> {
        Err(Error::internal(format!("this plugin has no code for the job type '{}'", job.job_type)))
    }
}

/// Fits a [`Handler`] to the generated exports. [`export!`](crate::export) uses it.
#[doc(hidden)]
pub struct Adapter<H>(PhantomData<H>);

impl<H: Handler> Guest for Adapter<H> {
    fn describe() -> Manifest {
        log_panics();
        H::manifest()
    }

    fn handle_message(message: Message) -> Result<(), Error> {
        log_panics();
        H::message(message)
    }

    fn run_job(job: Job) -> Result<(), Error> {
        log_panics();
        H::job(job)
    }
}

/// Standard error leads nowhere in the host, so without this nobody would learn why a plugin panicked.
fn log_panics() {
    panic::set_hook(Box::new(|info| log::error(info.to_string())));
}
