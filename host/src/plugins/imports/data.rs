//! Blobs, uploads and storage.

use std::time::{Duration, Instant};

use bytes::Bytes;
use uuid::Uuid;
use wasmtime::component::Resource;

use super::super::{
    Services,
    bindings::reverie::handler::{storage, types, uploads},
    instance::CallState,
};
use crate::{
    config::seconds,
    error::{Error, ErrorKind},
    jobs::JobHandle,
    storage::{STATE_PREFIX, Storage, TENANTS_PREFIX, key_of},
    uploads::Upload,
};

/// Between two tries to store an output.
const BETWEEN_TRIES: Duration = Duration::from_secs(1);

/// Bytes that the host holds for a guest.
#[derive(Clone)]
pub struct Blob {
    pub content: Bytes,
    pub media_type: String,
}

impl types::Host for CallState {}

impl types::HostBlob for CallState {
    fn new(&mut self, content: Vec<u8>, media_type: String) -> wasmtime::Result<Resource<Blob>> {
        let part = self.memory.take(content.len() + media_type.len())?;
        Ok(self.resources.push(Blob { content: content.into(), media_type }, part)?)
    }

    fn len(&mut self, blob: Resource<Blob>) -> wasmtime::Result<u64> {
        Ok(self.resources.get(&blob)?.content.len() as u64)
    }

    fn media_type(&mut self, blob: Resource<Blob>) -> wasmtime::Result<String> {
        Ok(self.resources.get(&blob)?.media_type.clone())
    }

    fn read(&mut self, blob: Resource<Blob>, offset: u64, length: u64) -> wasmtime::Result<Vec<u8>> {
        let content = &self.resources.get(&blob)?.content;
        let begin = offset.min(content.len() as u64);
        let end = begin.saturating_add(length).min(content.len() as u64);
        self.memory.check((end - begin) as usize)?;
        Ok(content[begin as usize..end as usize].to_vec())
    }

    fn drop(&mut self, blob: Resource<Blob>) -> wasmtime::Result<()> {
        self.resources.delete(blob)
    }
}

/// An upload of a tenant, or what a job was asked with, which outlives it.
async fn upload(
    services: &Services,
    tenant: Option<&str>,
    job: Option<Uuid>,
    file_ref: &str,
) -> Result<Blob, Error> {
    let expired = match services.uploads.resolve(file_ref, tenant) {
        Ok(Upload { content, media_type, .. }) => return Ok(Blob { content, media_type }),
        Err(error) => error,
    };
    if let (Some(job), Some(upload)) = (job, crate::uploads::id_of(file_ref))
        && let Some((media_type, content)) = services.jobs.input(job, upload).await?
    {
        return Ok(Blob { content, media_type });
    }
    Err(expired)
}

/// Stores an output of a job, which can take hours to make again: where the storage takes nothing, as when the disk is full, it is
/// tried for a while.
async fn put_for_job(services: &Services, job: &JobHandle, key: &str, content: Bytes) -> Result<(), Error> {
    services.jobs.stores(job, key, content.len() as u64).await;
    let deadline = Instant::now() + seconds(services.config.storage.retry_s);
    loop {
        match services.storage.put(key, content.clone()).await {
            Err(error) if error.kind == ErrorKind::Unavailable && Instant::now() < deadline => {
                let cancelled = tokio::time::timeout(BETWEEN_TRIES, job.cancelled()).await;
                if cancelled.is_ok() {
                    return Err(Error::cancelled());
                }
            }
            stored => return stored,
        }
    }
}

impl CallState {
    /// Where what a guest calls `key` lies: each tenant has its own, and a plugin has a state for each.
    fn lies_at(&self, key: &str) -> String {
        match (self.tenant(), key.strip_prefix(&format!("{STATE_PREFIX}{}/", self.plugin))) {
            (Some(tenant), Some(name)) => {
                format!("{STATE_PREFIX}{}/{TENANTS_PREFIX}{tenant}/{name}", self.plugin)
            }
            (tenant, _) => key_of(tenant, key),
        }
    }
}

impl uploads::Host for CallState {
    async fn resolve(&mut self, file_ref: String) -> wasmtime::Result<Result<Resource<Blob>, types::Error>> {
        let job = self.job().map(|job| job.id);
        let tenant = self.tenant().map(str::to_owned);
        match upload(&self.services.clone(), tenant.as_deref(), job, &file_ref).await {
            // The content holds memory of the server's as long as anybody has it.
            Ok(blob) => Ok(self.shared_blob(blob).map_err(Into::into)),
            Err(error) => Ok(Err(error.into())),
        }
    }
}

impl CallState {
    /// Keeps a blob whose content holds memory of the server's itself.
    pub(super) fn shared_blob(&mut self, blob: Blob) -> Result<Resource<Blob>, Error> {
        let mut part = self.memory.count(blob.content.len())?;
        part.grow(blob.media_type.len())?;
        Ok(self.resources.push(blob, part)?)
    }
}

impl storage::Host for CallState {
    async fn put(&mut self, blob: Resource<Blob>) -> wasmtime::Result<Result<String, types::Error>> {
        let Blob { content, media_type } = self.resources.get(&blob)?.clone();
        let tenant = self.tenant().map(str::to_owned);
        let key = key_of(tenant.as_deref(), &Storage::new_key(&self.plugin, &media_type));
        let (services, length) = (self.services.clone(), content.len() as u64);
        let room = services.quotas.store(&services.access, &services.storage, tenant.as_deref(), length);
        if let Err(error) = room.await {
            return Ok(Err(error.into()));
        }
        let stored = match self.job().cloned() {
            Some(job) => put_for_job(&services, &job, &key, content).await,
            None => services.put_for_plugin(&self.plugin, &key, content).await,
        };
        Ok(stored.map(|()| key).map_err(Into::into))
    }

    async fn put_named(
        &mut self,
        name: String,
        blob: Resource<Blob>,
    ) -> wasmtime::Result<Result<String, types::Error>> {
        let content = self.resources.get(&blob)?.content.clone();
        if name.len() > 128 || name.contains('/') {
            let error = Error::invalid(format!(
                "name '{name}' is not valid: accepted are 1 to 128 letters, digits, '-', '_' and '.'"
            ));
            return Ok(Err(error.into()));
        }
        let key = format!("{STATE_PREFIX}{}/{name}", self.plugin);
        let stored = self.services.put_for_plugin(&self.plugin, &self.lies_at(&key), content).await;
        Ok(stored.map(|()| key).map_err(Into::into))
    }

    async fn get(&mut self, key: String) -> wasmtime::Result<Result<Resource<Blob>, types::Error>> {
        if key.starts_with(STATE_PREFIX) && !key.starts_with(&format!("{STATE_PREFIX}{}/", self.plugin)) {
            let error = Error::new(ErrorKind::Denied, format!("'{key}' is another plugin's state"));
            return Ok(Err(error.into()));
        }
        let media_type = crate::storage::media_type(&key).to_owned();
        let room = |bytes: u64| {
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            Ok(self.memory.take(bytes.saturating_add(media_type.len()))?)
        };
        let found = self.services.storage.get_into(&self.lies_at(&key), room).await;
        let kept =
            found.and_then(|(content, part)| Ok(self.resources.push(Blob { content, media_type }, part)?));
        Ok(kept.map_err(Into::into))
    }
}
