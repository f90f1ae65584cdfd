//! What each plugin has stored beside the outputs of its jobs, which go with these: its own state, and what its messages stored.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, MutexGuard};

use super::Services;
use crate::{
    error::{Error, ErrorKind},
    storage::{STATE_PREFIX, TENANTS_PREFIX},
};

/// What a file system keeps for a file at least, its name included.
const BLOCK: u64 = 4096;

/// A plugin that is over its limit is counted again when the last count is as old: an operator may have made room.
const RECOUNT: Duration = Duration::from_secs(30);

/// Bytes that plugins have stored, by their names; counted when first asked for.
#[derive(Default)]
pub struct Stored {
    counted: AsyncMutex<Option<Counted>>,
    /// Held while a plugin replaces what is under a name.
    replacing: Mutex<HashMap<Arc<str>, Arc<AsyncMutex<()>>>>,
}

struct Counted {
    bytes: HashMap<String, u64>,
    at: Instant,
}

/// What an object of so many bytes takes.
fn taken(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK).max(1) * BLOCK
}

/// The plugin that stored an object: `state/PLUGIN/NAME`, or `PLUGIN-` with 32 hexadecimal digits and an extension, which may
/// belong to a tenant.
fn owner(key: &str) -> Option<&str> {
    let of_tenant = key.strip_prefix(TENANTS_PREFIX).and_then(|rest| rest.split_once('/'));
    let key = of_tenant.map_or(key, |(_, own)| own);
    if let Some(state) = key.strip_prefix(STATE_PREFIX) {
        return state.split_once('/').map(|(plugin, _)| plugin);
    }
    let (plugin, unique) = key.rsplit_once('.')?.0.rsplit_once('-')?;
    let made = unique.len() == 32 && unique.bytes().all(|b| b.is_ascii_hexdigit());
    (made && !plugin.is_empty() && !plugin.contains('/')).then_some(plugin)
}

impl Stored {
    fn lock_of(&self, plugin: &Arc<str>) -> Arc<AsyncMutex<()>> {
        self.replacing.lock().entry(plugin.clone()).or_default().clone()
    }
}

impl Services {
    /// Stores an object for a plugin, within its `storage_mb`.
    ///
    /// # Errors
    /// `TooLarge` over it; those of [`Storage::put`](crate::storage::Storage::put).
    pub async fn put_for_plugin(&self, plugin: &Arc<str>, key: &str, content: Bytes) -> Result<(), Error> {
        let limit = self.config.limits(plugin).storage_mb;
        if limit == 0 {
            return self.storage.put(key, content).await;
        }
        // What an output's key names is new; of state, one at a time is replaced, so that what goes is known.
        let lock = key.starts_with(STATE_PREFIX).then(|| self.stored.lock_of(plugin));
        let _one = match &lock {
            Some(lock) => Some(lock.lock().await),
            None => None,
        };
        let before = match lock {
            Some(_) => self.storage.size(key).await?.map_or(0, taken),
            None => 0,
        };
        let after = taken(content.len() as u64);
        self.reserve(plugin, limit, before, after).await?;
        let stored = self.storage.put(key, content).await;
        if stored.is_err() {
            let mut counted = self.stored.counted.lock().await;
            let bytes = counted.as_mut().and_then(|counted| counted.bytes.get_mut(&**plugin));
            if let Some(bytes) = bytes {
                *bytes = bytes.saturating_sub(after) + before;
            }
        }
        stored
    }

    /// Counts `after` bytes in place of `before`.
    async fn reserve(&self, plugin: &Arc<str>, limit: u64, before: u64, after: u64) -> Result<(), Error> {
        let limit = limit.saturating_mul(1 << 20);
        let mut counted = self.counted().await?;
        let fits = |counted: &Option<Counted>| {
            let bytes = counted.as_ref().and_then(|counted| counted.bytes.get(&**plugin));
            Some(bytes.copied().unwrap_or(0).saturating_sub(before) + after).filter(|sum| *sum <= limit)
        };
        if fits(&counted).is_none() && counted.as_ref().is_some_and(|counted| counted.at.elapsed() > RECOUNT)
        {
            *counted = Some(self.count().await?);
        }
        let sum = fits(&counted).ok_or_else(|| {
            let limit = limit >> 20;
            let error = format!(
                "plugin '{plugin}' has stored as much as it may (plugins.{plugin}.storage_mb = {limit}): raise that, or delete \
                 files of it from the storage, such as those of state/{plugin}"
            );
            Error::new(ErrorKind::TooLarge, error)
        })?;
        counted.as_mut().expect("counted above").bytes.insert(plugin.to_string(), sum);
        Ok(())
    }

    /// What is stored, counted now if it was not before.
    async fn counted(&self) -> Result<MutexGuard<'_, Option<Counted>>, Error> {
        let mut counted = self.stored.counted.lock().await;
        if counted.is_none() {
            *counted = Some(self.count().await?);
        }
        Ok(counted)
    }

    /// Counts what is stored, so that no message has to wait for that.
    pub(super) async fn count_stored(&self) {
        if let Err(error) = self.counted().await {
            tracing::warn!(error = error.message, "what plugins have stored can't be counted yet");
        }
    }

    async fn count(&self) -> Result<Counted, Error> {
        let at = Instant::now();
        let mut bytes: HashMap<String, u64> = HashMap::new();
        let of_jobs = self.jobs.output_keys();
        let mut outputs = Vec::new();
        self.storage
            .each(|key, size| match owner(key) {
                Some(plugin) if key.starts_with(STATE_PREFIX) => {
                    *bytes.entry(plugin.to_owned()).or_default() += taken(size);
                }
                Some(_) if !of_jobs.contains(key) => outputs.push((key.to_owned(), size)),
                _ => {}
            })
            .await?;
        // Jobs may have stored some meanwhile.
        let of_jobs: HashSet<String> = if outputs.is_empty() { of_jobs } else { self.jobs.output_keys() };
        for (key, size) in outputs.iter().filter(|(key, _)| !of_jobs.contains(key)) {
            let plugin = owner(key).expect("chosen by that");
            *bytes.entry(plugin.to_owned()).or_default() += taken(*size);
        }
        tracing::debug!(ms = at.elapsed().as_millis() as u64, "counted what plugins have stored");
        Ok(Counted { bytes, at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_tell_their_plugin() {
        let unique = "0123456789abcdef0123456789abcdef";
        for (key, plugin) in [
            ("state/dream/default.json".to_owned(), Some("dream")),
            ("state/dream".to_owned(), None),
            (format!("sr-{unique}.png"), Some("sr")),
            (format!("keys/studio/sr-{unique}.png"), Some("sr")),
            ("state/dream/keys/studio/default.json".to_owned(), Some("dream")),
            (format!("sr-x-{unique}.bin"), Some("sr-x")),
            (format!("-{unique}.bin"), None),
            (format!("folder/sr-{unique}.png"), None),
            ("sr-123.png".to_owned(), None),
            ("picture.png".to_owned(), None),
        ] {
            assert_eq!(owner(&key), plugin, "{key}");
        }
        assert_eq!((taken(0), taken(1), taken(4096), taken(4097)), (4096, 4096, 4096, 8192));
    }
}
