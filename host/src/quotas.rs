//! What keys may take: jobs that wait and run, pixels of a day, bytes in the storage. An error names the key and its setting.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use reverie_access::{Access, Key, Pixels, Queue, Queued, tenant_of};

use crate::{
    error::{Error, ErrorKind},
    jobs::{self, Jobs, Running, Snapshot, Spec, Status},
    storage::Storage,
};

/// How long a sum of what a tenant has stored holds, in seconds, with what is added to it meanwhile.
const SUM_HOLDS_S: u64 = 10;

/// How long a job waits for others of its tenant that are being accepted, where these alone stand in its way.
const SETTLING: Duration = Duration::from_secs(1);

/// What tenants have used.
#[derive(Default)]
pub struct Quotas {
    queue: Arc<Queue>,
    pixels: Pixels,
    stored: Mutex<HashMap<String, (Instant, u64)>>,
}

fn over(key: &Key, setting: &str, what: &str) -> Error {
    Error::new(ErrorKind::Busy, format!("{what} ({setting} of the key '{}')", key.name))
}

impl Quotas {
    /// Counts the pictures that jobs of the last day have made.
    pub fn remember(&self, jobs: &Jobs) {
        let mut ended = jobs.list(None);
        ended.sort_by(|a, b| a.finished.unwrap_or(0.0).total_cmp(&b.finished.unwrap_or(0.0)));
        ended.iter().for_each(|job| self.made(job));
    }

    /// Counts the pictures of a job that has ended.
    pub fn made(&self, job: &Snapshot) {
        let side = |name: &str| job.meta.get(name).and_then(serde_json::Value::as_u64);
        if job.status == Status::Done
            && let Some(tenant) = job.owner.as_deref().and_then(tenant_of)
            && let (Some(width), Some(height)) = (side("width"), side("height"))
        {
            let pixels = width.saturating_mul(height).saturating_mul(job.outputs.len() as u64);
            self.pixels.made(tenant, pixels, job.finished.unwrap_or_else(jobs::now));
        }
    }

    /// A place for one more job of a tenant, none where nobody counts. It is to be held until the job is in the queue.
    ///
    /// # Errors
    /// `Busy`; over the queue's share it begins as clients know it.
    pub async fn job(
        &self,
        access: &Access,
        jobs: &Jobs,
        tenant: Option<&str>,
    ) -> Result<Option<Queued>, Error> {
        let Some((tenant, key)) = tenant.and_then(|tenant| Some((tenant, access.keys().limiting(tenant)?)))
        else {
            return Ok(None);
        };
        let limit = key.limits.pixels_per_day;
        if limit > 0 && self.pixels.of(tenant, jobs::now()) >= limit {
            return Err(over(&key, "pixels_per_day", &format!("{limit} pixels were made within 24 hours")));
        }
        let limit = key.limits.queue_share;
        if limit == 0 {
            return Ok(None);
        }
        let waiting = || jobs.queued_of(|owner| owner.and_then(tenant_of) == Some(tenant)) as u64;
        let deadline = Instant::now() + SETTLING;
        loop {
            match self.queue.take(tenant, limit, waiting) {
                Ok(place) => return Ok(Some(place)),
                // One that has just come to the queue counts twice until it gives its place here back.
                Err(_) if waiting() < limit && Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Err(taken) => {
                    let full = format!("Queue full: {taken} of {limit} jobs wait");
                    return Err(over(&key, "queue_share", &full));
                }
            }
        }
    }

    /// Whether one more job of this owner may run.
    pub fn may_run(&self, access: &Access, spec: &Spec, running: Running<'_>) -> bool {
        let Some(tenant) = spec.owner.as_deref().and_then(tenant_of) else { return true };
        let limit = access.keys().limiting(tenant).map_or(0, |key| key.limits.concurrency);
        // Those of the background are counted apart, as everywhere.
        let own = |other: &Spec| {
            other.background == spec.background && other.owner.as_deref().and_then(tenant_of) == Some(tenant)
        };
        limit == 0 || (running(&own) as u64) < limit
    }

    /// Whether a tenant may store so many more bytes; they count from here on.
    ///
    /// # Errors
    /// `Busy`, or those of the storage.
    pub async fn store(
        &self,
        access: &Access,
        storage: &Storage,
        tenant: Option<&str>,
        bytes: u64,
    ) -> Result<(), Error> {
        let Some((tenant, key)) = tenant.and_then(|tenant| Some((tenant, access.keys().limiting(tenant)?)))
        else {
            return Ok(());
        };
        let limit = key.limits.storage_mb << 20;
        if limit == 0 {
            return Ok(());
        }
        let known = |entry: &(Instant, u64)| entry.0.elapsed().as_secs() < SUM_HOLDS_S;
        if !self.stored.lock().get(tenant).is_some_and(known) {
            let sum = storage.bytes_of(tenant).await?;
            self.stored.lock().insert(tenant.to_owned(), (Instant::now(), sum));
        }
        let mut stored = self.stored.lock();
        let (_, sum) = stored.get_mut(tenant).expect("just summed, and never taken out");
        if sum.saturating_add(bytes) > limit {
            let what = format!("{} MiB are stored, and {bytes} bytes more are too many", *sum >> 20);
            return Err(over(&key, "storage_mb", &what));
        }
        *sum += bytes;
        Ok(())
    }
}
