use serde::{Serialize, de::DeserializeOwned};

use crate::{Error, Interruption, Job, Output, bindings::reverie::handler::job, json};

impl Job {
    /// Reads the job's parameters.
    ///
    /// # Errors
    /// `invalid-input`, with a message that names the field. A good schema makes it rare.
    pub fn params<T: DeserializeOwned>(&self) -> Result<T, Error> {
        json::read(&self.params).map_err(|e| Error::invalid_input(format!("{}: {e}", self.job_type)))
    }

    /// Reports progress, 0 to 1.
    pub fn progress(&self, fraction: f32) {
        job::progress(fraction, "");
    }

    /// Reports progress, 0 to 1, with fields that clients see beside `fraction`.
    ///
    /// # Errors
    /// `detail` cannot be written as JSON.
    pub fn progress_with(&self, fraction: f32, detail: &impl Serialize) -> Result<(), Error> {
        job::progress(fraction, &json::write(detail)?);
        Ok(())
    }

    /// Whether the client asked for the job to stop.
    pub fn cancelled(&self) -> bool {
        job::cancelled()
    }

    /// Ends the job where it stands if the client asked for that: call it with `?` in loops.
    ///
    /// # Errors
    /// `cancelled`.
    pub fn check_cancelled(&self) -> Result<(), Error> {
        if job::cancelled() { Err(Error::cancelled()) } else { Ok(()) }
    }

    /// Whether a background job should store its state, call [`Job::requeue`] and return.
    pub fn interruption(&self) -> Option<Interruption> {
        job::interruption()
    }

    /// Says that what was done so far is stored, so that crashes up to here no longer count.
    pub fn checkpoint(&self) {
        job::checkpoint();
    }

    /// Milliseconds that the job's computations have waited for their turn at the device so far.
    pub fn waited_ms(&self) -> u64 {
        job::waited_ms()
    }

    /// Puts a background job back into the queue once its handler returns: the version of the plugin that serves then runs it
    /// again.
    ///
    /// # Errors
    /// It is no background job, or it is complete.
    pub fn requeue(&self) -> Result<(), Error> {
        job::requeue()
    }

    /// Sends an object to the clients that follow the job. With a topic, a newer one takes the place of one that still waits
    /// to be sent.
    ///
    /// # Errors
    /// `event` is no JSON object with a string `type`.
    pub fn event(&self, event: &impl Serialize, topic: Option<&str>) -> Result<(), Error> {
        job::event(&json::write(event)?, topic)
    }

    /// Waits for the next message in the job's inbox, at most `timeout_ms` milliseconds. None when none came or the job
    /// was cancelled.
    ///
    /// # Errors
    /// `invalid-input`: the message does not fit `T`.
    pub fn receive<T: DeserializeOwned>(&self, timeout_ms: u32) -> Result<Option<T>, Error> {
        let Some(text) = job::receive(timeout_ms) else { return Ok(None) };
        json::read(&text).map(Some).map_err(|e| Error::invalid_input(format!("a message to the job: {e}")))
    }

    /// Declares the job complete: the keys that `storage::put` returned, and an object that clients see as `meta`.
    ///
    /// # Errors
    /// The job was complete already, a key does not exist, or `meta` is no JSON object.
    pub fn complete(&self, outputs: &[&str], meta: &impl Serialize) -> Result<(), Error> {
        let outputs: Vec<_> = outputs.iter().map(|&key| Output { key: key.to_owned() }).collect();
        job::complete(&outputs, &json::write(meta)?)
    }
}
