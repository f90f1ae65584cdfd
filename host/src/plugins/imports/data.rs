//! Blobs, uploads and storage.

use bytes::Bytes;
use wasmtime::component::Resource;

use super::super::{
    bindings::reverie::handler::{storage, types, uploads},
    instance::CallState,
};
use crate::{
    error::{Error, ErrorKind},
    storage::STATE_PREFIX,
};

/// Bytes that the host holds for a guest.
#[derive(Clone)]
pub struct Blob {
    pub content: Bytes,
    pub media_type: String,
}

impl types::Host for CallState {}

impl types::HostBlob for CallState {
    fn new(&mut self, content: Vec<u8>, media_type: String) -> wasmtime::Result<Resource<Blob>> {
        Ok(self.table.push(Blob { content: content.into(), media_type })?)
    }

    fn len(&mut self, blob: Resource<Blob>) -> wasmtime::Result<u64> {
        Ok(self.table.get(&blob)?.content.len() as u64)
    }

    fn media_type(&mut self, blob: Resource<Blob>) -> wasmtime::Result<String> {
        Ok(self.table.get(&blob)?.media_type.clone())
    }

    fn read(&mut self, blob: Resource<Blob>, offset: u64, length: u64) -> wasmtime::Result<Vec<u8>> {
        let content = &self.table.get(&blob)?.content;
        let begin = offset.min(content.len() as u64);
        let end = begin.saturating_add(length).min(content.len() as u64);
        Ok(content[begin as usize..end as usize].to_vec())
    }

    fn drop(&mut self, blob: Resource<Blob>) -> wasmtime::Result<()> {
        self.table.delete(blob)?;
        Ok(())
    }
}

impl uploads::Host for CallState {
    fn resolve(&mut self, file_ref: String) -> wasmtime::Result<Result<Resource<Blob>, types::Error>> {
        match self.services.uploads.resolve(&file_ref) {
            Ok(upload) => {
                let blob = Blob { content: upload.content, media_type: upload.media_type };
                Ok(Ok(self.table.push(blob)?))
            }
            Err(error) => Ok(Err(error.into())),
        }
    }
}

impl storage::Host for CallState {
    async fn put(&mut self, blob: Resource<Blob>) -> wasmtime::Result<Result<String, types::Error>> {
        let Blob { content, media_type } = self.table.get(&blob)?.clone();
        let stored = self.services.storage.put_new(&self.plugin, &media_type, content).await;
        Ok(stored.map_err(Into::into))
    }

    async fn put_named(
        &mut self,
        name: String,
        blob: Resource<Blob>,
    ) -> wasmtime::Result<Result<String, types::Error>> {
        let content = self.table.get(&blob)?.content.clone();
        if name.len() > 128 || name.contains('/') {
            let error = Error::invalid(format!(
                "name '{name}' is not valid: accepted are 1 to 128 letters, digits, '-', '_' and '.'"
            ));
            return Ok(Err(error.into()));
        }
        let key = format!("{STATE_PREFIX}{}/{name}", self.plugin);
        let stored = self.services.storage.put(&key, content).await;
        Ok(stored.map(|()| key).map_err(Into::into))
    }

    async fn get(&mut self, key: String) -> wasmtime::Result<Result<Resource<Blob>, types::Error>> {
        if key.starts_with(STATE_PREFIX) && !key.starts_with(&format!("{STATE_PREFIX}{}/", self.plugin)) {
            let error = Error::new(ErrorKind::Denied, format!("'{key}' is another plugin's state"));
            return Ok(Err(error.into()));
        }
        match self.services.storage.get(&key).await {
            Ok(content) => {
                let media_type = crate::storage::media_type(&key).to_owned();
                Ok(Ok(self.table.push(Blob { content, media_type })?))
            }
            Err(error) => Ok(Err(error.into())),
        }
    }
}
