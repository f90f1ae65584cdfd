//! Where jobs are kept. [`Sqlite`] is the one that a server has for itself; a store of several servers implements [`Store`]
//! too.

mod changes;
mod commit;
mod contents;
mod database;
mod disk;
mod image;
mod import;
mod inspect;
mod log;
mod look;
mod pages;
mod place;
mod rebuild;
mod salvage;
mod schema;
mod sealed;
mod sqlite;
mod swap;

use std::{future::Future, pin::Pin};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use changes::{Change, Object};
pub use commit::{Command, Commands, Committer};
pub use database::{Database, Failure, Write};
pub use disk::{Disk, Identity, Machine};
pub use inspect::{Inspected, inspect};
pub use sqlite::Sqlite;

use crate::{Snapshot, Spec};

/// All that is kept of a job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// Its place by order of acceptance.
    pub n: u64,
    pub spec: Spec,
    pub job: Snapshot,
    /// What the job was told and has not yet stored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub told: Vec<String>,
    /// The files that it was asked with, while it is queued or running.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<Input>,
    /// How often it ended the server itself, since it last stored its work.
    #[serde(default)]
    pub faults: u32,
    /// How often the server ended otherwise while it ran, since it last stored its work.
    #[serde(default)]
    pub interruptions: u32,
    /// What the store's clock said when it ended: seconds that servers have run on this store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<f64>,
}

/// A file that a job was asked with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// The id of the upload, as a `fileRef` says it.
    pub upload: Uuid,
    pub media_type: String,
    /// SHA-256 of its content, in hexadecimal.
    pub sha256: String,
}

/// The content of an input, and the SHA-256 of it in hexadecimal.
#[derive(Debug, Clone)]
pub struct Content {
    pub sha256: String,
    pub bytes: Bytes,
}

/// What a store holds.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    /// By order of acceptance.
    pub records: Vec<Record>,
    /// Outputs that jobs have stored.
    pub objects: Vec<Object>,
    /// Outputs that are still to be deleted.
    pub doomed: Vec<Object>,
    /// Seconds that servers have run on this store.
    pub served: f64,
}

/// What a store held when it was opened.
#[derive(Debug, Default)]
pub struct Loaded {
    pub kept: Kept,
    /// What was damaged or missing, and what was done about it, each a sentence.
    pub notes: Vec<String>,
}

/// How the store is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Why nothing can be stored at the moment.
    pub error: Option<String>,
    /// What was found damaged since it was opened.
    pub notes: Vec<String>,
}

/// How sure a change has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// It survives the end of the process.
    Written,
    /// It survives a loss of power.
    Synced,
}

pub type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Gives all that is to be kept, as it is now; called from a thread of the store.
pub type Everything = Box<dyn Fn() -> Kept + Send + Sync>;

/// Changes take effect in the order in which they are handed over, whether or not the answers are waited for.
pub trait Store: Send + Sync {
    /// Stores a new job with the contents of its inputs; it survives a loss of power when this is ready.
    ///
    /// # Errors
    /// Why it could not be stored. It is not tried again.
    fn accept(&self, record: Record, contents: Vec<Content>) -> Answer<Result<(), String>>;

    /// Makes a change. Ready when it is as sure as asked; where the store fails, it is tried again until it succeeds.
    fn write(&self, change: Change, durability: Durability) -> Answer<()>;

    /// The content of an input of a job that has not ended.
    ///
    /// # Errors
    /// That it is missing or damaged, or can't be read at the moment.
    fn content(&self, sha256: &str) -> Answer<Result<Bytes, String>>;

    /// Ready when the store has done what it was asked before.
    fn settled(&self) -> Answer<()>;

    fn health(&self) -> Health;

    /// What the store asks where it has lost its file.
    fn recover_with(&self, everything: Everything);
}
