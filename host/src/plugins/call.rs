//! One call into a plugin: a fresh instance with its limits, and an error that says which of them it met.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use serde_json::{Map, Value};
use tokio::sync::{Mutex as AsyncMutex, OwnedSemaphorePermit};
use tracing::Instrument;
use wasmtime::{Store, Trap, component::ResourceTableError};

use super::{
    Plugin, Services,
    bindings::{Plugin as World, reverie::handler::types as wit},
    engine::Engine,
    instance::{self, Allowance, CallState, CpuTimeExceeded, Origin},
    memory::Exhausted,
};
use crate::{
    error::{Error, ErrorKind},
    jobs::{JobHandle, Output},
};

/// wasmtime's words, whose type is its own, for a call that passed the host more than it may.
const TOO_MUCH_PASSED: &str = "fuel allocated for hostcalls";

/// Bytes of an error's message that a guest may return.
const MAX_MESSAGE: usize = 16 << 10;

/// What a job declared with `job.complete` or `job.requeue`.
pub enum Completion {
    Done { outputs: Vec<Output>, meta: Map<String, Value> },
    Requeued,
}

/// What one call does with its instance.
pub type Body<T> =
    for<'a> fn(&'a World, &'a mut Store<CallState>, T) -> Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;

/// The outer error is a trap; the inner one is the handler's own.
pub type Answer = wasmtime::Result<Result<(), wit::Error>>;

/// What a call leaves: dropping it clears the memory that the guest has touched, which nobody need wait for.
pub struct Spent {
    _store: Store<CallState>,
    _slot: OwnedSemaphorePermit,
}

/// Runs one call of a plugin to its end and returns what it completed with.
///
/// # Errors
/// What the handler answered, or a message that names the plugin and the limit or trap that ended the call.
pub async fn run<T: Send>(
    plugin: &Plugin,
    engine: &Engine,
    services: Arc<Services>,
    origin: Origin,
    allowance: Allowance,
    argument: T,
    body: Body<T>,
) -> (Result<Option<Completion>, Error>, Option<Spent>) {
    let job = match &origin {
        Origin::Job(job) => Some(job.clone()),
        _ => None,
    };
    let mut origin = Some(origin);
    let (store, handler, slot) = match (plugin.warm.take(&mut origin, allowance.cpu_ms), origin) {
        (Some(ready), _) => (ready.store, Some(ready.handler), ready.slot),
        (None, Some(origin)) => {
            let slot = engine.instances.clone().acquire_owned().await.expect("never closed");
            let name = plugin.name.clone();
            let store = instance::store(engine, services, name, origin, &plugin.limits, allowance.cpu_ms);
            (store, None, slot)
        }
        (None, None) => unreachable!("only an instance takes the origin"),
    };
    // Shared, so that what the guest left in its store can be read after a call that was dropped in the middle.
    let store = AsyncMutex::new(store);
    let called = async {
        let mut store = store.lock().await;
        let handler = match handler {
            Some(handler) => handler,
            None => plugin.pre.instantiate_async(&mut *store).await?,
        };
        body(&handler, &mut store, argument).await
    };
    let called =
        called.instrument(tracing::debug_span!("plugin", name = &*plugin.name, version = plugin.version));
    let answer = tokio::select! {
        // A call that ends at once arms no timer.
        biased;
        answer = called => answer,
        () = overdue(allowance.wall_ms) => {
            let limit = allowance.wall_ms;
            let error = fault(plugin, ErrorKind::Timeout, &format!("took longer than {limit} ms and was stopped"));
            return (Err(error), None);
        }
        () = ignored_cancel(job.as_deref(), plugin.limits.cancel_grace_ms) => return (Err(Error::cancelled()), None),
    };
    let mut store = store.into_inner();
    let result = completed(plugin, allowance, store.data_mut(), answer);
    (result, Some(Spent { _store: store, _slot: slot }))
}

fn completed(
    plugin: &Plugin,
    allowance: Allowance,
    state: &mut CallState,
    answer: Answer,
) -> Result<Option<Completion>, Error> {
    match answer {
        Ok(Ok(())) => Ok(state.completion.take()),
        Ok(Err(error)) => Err(error.into()),
        Err(trap) => {
            let (kind, cause) = cause(plugin, allowance, state, &trap);
            if state.services.log_lines.admit(&plugin.name, plugin.limits.log_lines_per_minute) {
                tracing::warn!(plugin = &*plugin.name, error = format!("{trap:#}"), "plugin fault");
            }
            Err(fault(plugin, kind, &cause))
        }
    }
}

/// What ended a call.
fn cause(
    plugin: &Plugin,
    allowance: Allowance,
    state: &mut CallState,
    trap: &wasmtime::Error,
) -> (ErrorKind, String) {
    if trap.is::<CpuTimeExceeded>() {
        let cpu_ms = allowance.cpu_ms;
        return (ErrorKind::Timeout, format!("used more than {cpu_ms} ms of CPU time and was stopped"));
    }
    if let Some(exhausted) = trap.downcast_ref::<Exhausted>() {
        return (exhausted.kind(), exhausted.to_string());
    }
    if let Some(refused) = state.refused() {
        return refused;
    }
    let cause = if let Some(trap) = trap.downcast_ref::<Trap>() {
        format!("trapped: {trap}")
    } else if let Some(ResourceTableError::Full) = trap.downcast_ref() {
        let entries = state.wasi_table.max_capacity();
        format!("has {entries} resources of WASI, which is all that it may have (connections allows more)")
    } else if trap.root_cause().to_string().contains(TOO_MUCH_PASSED) {
        let limit = plugin.limits.memory_mb;
        format!("passed more than it may have to the host (plugins.{}.memory_mb = {limit})", plugin.name)
    } else {
        format!("failed: {}", trap.root_cause())
    };
    (ErrorKind::Internal, cause)
}

fn fault(plugin: &Plugin, kind: ErrorKind, cause: &str) -> Error {
    Error::new(kind, format!("plugin '{}' {} {cause}", plugin.name, plugin.version))
}

async fn overdue(wall_ms: u64) {
    match wall_ms {
        0 => std::future::pending().await,
        ms => tokio::time::sleep(Duration::from_millis(ms)).await,
    }
}

/// Ends when a job was asked to stop and has not done so in time.
async fn ignored_cancel(job: Option<&JobHandle>, grace_ms: u64) {
    match job {
        None => std::future::pending().await,
        Some(job) => {
            job.cancelled().await;
            tokio::time::sleep(Duration::from_millis(grace_ms)).await;
        }
    }
}

impl From<wit::Error> for Error {
    fn from(error: wit::Error) -> Self {
        let kind = match error.kind {
            wit::ErrorKind::InvalidInput => ErrorKind::InvalidInput,
            wit::ErrorKind::NotFound => ErrorKind::NotFound,
            wit::ErrorKind::Denied => ErrorKind::Denied,
            wit::ErrorKind::TooLarge => ErrorKind::TooLarge,
            wit::ErrorKind::Cancelled => ErrorKind::Cancelled,
            wit::ErrorKind::Unavailable => ErrorKind::Unavailable,
            wit::ErrorKind::Internal => ErrorKind::Internal,
        };
        let mut message = error.message;
        message.truncate(message.floor_char_boundary(MAX_MESSAGE));
        Error::new(kind, message)
    }
}

impl From<Error> for wit::Error {
    fn from(error: Error) -> Self {
        let kind = match error.kind {
            ErrorKind::InvalidInput | ErrorKind::BadRequest | ErrorKind::UnsupportedMediaType => {
                wit::ErrorKind::InvalidInput
            }
            ErrorKind::NotFound => wit::ErrorKind::NotFound,
            ErrorKind::Denied | ErrorKind::Unauthorized => wit::ErrorKind::Denied,
            ErrorKind::TooLarge => wit::ErrorKind::TooLarge,
            ErrorKind::Cancelled => wit::ErrorKind::Cancelled,
            ErrorKind::Conflict | ErrorKind::Busy | ErrorKind::Unavailable | ErrorKind::Timeout => {
                wit::ErrorKind::Unavailable
            }
            ErrorKind::MethodNotAllowed | ErrorKind::Internal => wit::ErrorKind::Internal,
        };
        wit::Error { kind, message: error.message }
    }
}
