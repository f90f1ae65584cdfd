//! What can be asked of jobs, of the queue and of the store.

use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value};
use tokio::sync::watch;
use uuid::Uuid;

use super::{Jobs, unknown};
use crate::{Health, JobHandle, Snapshot, error::Error};

impl Jobs {
    /// # Errors
    /// `NotFound` for an unknown job, or one that ended so long ago that it was dropped.
    pub fn get(&self, id: Uuid) -> Result<Snapshot, Error> {
        let kept = self.state.lock().snapshot(id);
        kept.or_else(|| self.refused.lock().get(id)).ok_or_else(|| unknown(id))
    }

    /// What a job was asked with.
    pub fn params(&self, id: Uuid) -> Option<Map<String, Value>> {
        self.state.lock().handle(id).map(|handle| handle.spec.params.clone())
    }

    /// All jobs, oldest first; of one owner if given.
    pub fn list(&self, owner: Option<&str>) -> Vec<Snapshot> {
        let state = self.state.lock();
        state.snapshots().filter(|s| owner.is_none() || s.owner.as_deref() == owner).collect()
    }

    /// The newest jobs of those that were accepted before the job `before`, if given: at most `limit`, oldest first, of the owners
    /// that fit; and whether there are older ones.
    ///
    /// # Errors
    /// `NotFound` for an unknown job.
    pub fn page(
        &self,
        fits: impl Fn(Option<&str>) -> bool,
        before: Option<Uuid>,
        limit: usize,
    ) -> Result<(Vec<Snapshot>, bool), Error> {
        let state = self.state.lock();
        let end = match before {
            Some(id) => state.n(id).ok_or_else(|| unknown(id))?,
            None => u64::MAX,
        };
        let mut jobs = state.before(end, fits);
        let mut page: Vec<Snapshot> = jobs.by_ref().take(limit).collect();
        let more = jobs.next().is_some();
        page.reverse();
        Ok((page, more))
    }

    /// The handle of a job that is queued or running.
    pub fn active(&self, id: Uuid) -> Option<Arc<JobHandle>> {
        let state = self.state.lock();
        state.status(id).filter(|s| s.is_active()).and_then(|_| state.handle(id))
    }

    /// Waits for the end of a job.
    ///
    /// # Errors
    /// `NotFound` for an unknown job.
    pub async fn wait(&self, id: Uuid) -> Result<Snapshot, Error> {
        let mut done: watch::Receiver<bool> =
            self.state.lock().handle(id).ok_or_else(|| unknown(id))?.finished();
        let _ = done.wait_for(|done| *done).await;
        self.get(id)
    }

    /// The queued or running job of this type and name.
    pub fn named(&self, job_type: &str, name: &str) -> Option<Uuid> {
        self.state.lock().named(job_type, name)
    }

    /// The names of the queued and running jobs of this type, oldest first.
    pub fn names(&self, job_type: &str) -> Vec<String> {
        self.state.lock().names(job_type).map(|(name, _)| name).collect()
    }

    /// How many jobs are queued and how many run, without those of the background.
    pub fn figures(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.queued(), state.running())
    }

    /// The same of those.
    pub fn background(&self) -> (usize, usize) {
        self.state.lock().background()
    }

    /// How many jobs of these owners wait, without those of the background.
    pub fn queued_of(&self, fits: impl Fn(Option<&str>) -> bool) -> usize {
        self.state.lock().queued_of(fits)
    }

    pub fn queue_limit(&self) -> usize {
        self.config.queue_limit
    }

    /// How the store is.
    pub fn health(&self) -> Health {
        self.store.health()
    }

    /// Ready when the store and the queue answer.
    pub async fn answers(&self) {
        self.store.settled().await;
        // Not waited for with the thread: who asks whether it is given free has others to serve.
        while self.state.try_lock().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
