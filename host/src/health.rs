//! Whether the parts of the server answer: what `/health` and `system:status` tell.

use std::{
    future::Future,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    jobs,
    plugins::{Engine, Registry, Services},
};

/// How long each part may take, and all together: the rest of a second is for the way to the client.
const PATIENCE: Duration = Duration::from_millis(900);
/// How long a lock may be held by others.
const LOCK_PATIENCE: Duration = Duration::from_millis(200);
/// For how long what was found is told again: nobody keeps the server busy by asking.
const FRESH: Duration = Duration::from_millis(300);

/// How the server is.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Health {
    /// `ok`, or `failing` where a part does not work.
    pub status: &'static str,
    pub checks: Checks,
}

impl Health {
    pub fn is_ok(&self) -> bool {
        self.status == "ok"
    }
}

/// Its parts.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Checks {
    /// The ledger of jobs and the queue.
    pub store: Check,
    /// The device, its queue and the pictures that wait there. However busy it is, it is well.
    pub execution: Check,
    /// The threads that run plugins, and their clock.
    pub plugins: Check,
    /// The storage of outputs: a small object was written and read.
    pub storage: Check,
}

/// How a part is.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Check {
    pub ok: bool,
    /// What is wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What was found damaged since the server started, and what was done about it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Check {
    pub fn of(error: Option<String>) -> Self {
        Self { ok: error.is_none(), error, notes: Vec::new() }
    }
}

/// The checks of a server's parts.
#[derive(Default)]
pub struct Probes {
    store: Probe,
    execution: Probe,
    plugins: Probe,
    storage: Probe,
}

impl Probes {
    /// Asks all parts at the same time; within a second.
    pub async fn ask(&self, registry: &Registry) -> Health {
        let (engine, services) = (&registry.engine, &registry.services);
        let (store, execution, plugins, storage) = tokio::join!(
            self.store.ask(|| check_store(services.clone())),
            self.execution.ask(|| check_execution(engine.clone(), services.clone())),
            self.plugins.ask(|| check_plugins(engine.clone())),
            self.storage.ask(|| check_storage(services.clone())),
        );
        let checks = Checks { store, execution, plugins, storage };
        let all = [&checks.store, &checks.execution, &checks.plugins, &checks.storage];
        let status = if all.iter().all(|check| check.ok) { "ok" } else { "failing" };
        Health { status, checks }
    }
}

/// The check of one part. It runs once at a time, however many ask and however long it takes.
#[derive(Default)]
pub struct Probe {
    last: Mutex<Option<Last>>,
}

#[derive(Clone)]
struct Last {
    began: Instant,
    found: Shared<BoxFuture<'static, Check>>,
}

impl Probe {
    /// What `check` finds, or the run of it that is under way, or has just ended. A check that takes longer than is good
    /// goes on, and has failed for whoever asks meanwhile.
    pub async fn ask<F>(&self, check: impl FnOnce() -> F) -> Check
    where
        F: Future<Output = Check> + Send + 'static,
    {
        let found = {
            let mut last = self.last.lock();
            let usable = last.as_ref().filter(|last| {
                let ended = last.found.clone().now_or_never().is_some();
                !ended || last.began.elapsed() < FRESH
            });
            match usable {
                Some(last) => last.found.clone(),
                None => last.insert(Last::begin(check())).found.clone(),
            }
        };
        let late = |_| Check::of(Some("it does not answer within a second".into()));
        tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(late)
    }
}

impl Last {
    fn begin(check: impl Future<Output = Check> + Send + 'static) -> Self {
        let running = tokio::spawn(check);
        let fault = |_| Check::of(Some("it can't be checked (a fault of the server)".into()));
        let found = async move { running.await.unwrap_or_else(fault) };
        Self { began: Instant::now(), found: found.boxed().shared() }
    }
}

async fn check_store(services: Arc<Services>) -> Check {
    services.jobs.answers().await;
    let jobs::Health { error, notes } = services.jobs.health();
    let ledger = &services.config.jobs.ledger;
    let plain = |text: String| without_folder(&text, ledger);
    Check { notes: notes.into_iter().map(plain).collect(), ..Check::of(error.map(plain)) }
}

/// A text without the path of the folder that a file is in: who may ask need not know it.
fn without_folder(text: &str, file: &Path) -> String {
    let folder = |file: &Path| Some(format!("{}/", file.parent()?.display())).filter(|path| path != "/");
    let absolute = std::path::absolute(file).ok();
    let folders = [absolute.as_deref().and_then(folder), folder(file)];
    folders.into_iter().flatten().fold(text.to_owned(), |text, folder| text.replace(&folder, ""))
}

async fn check_execution(engine: Arc<Engine>, services: Arc<Services>) -> Check {
    // Where computations run.
    let looked = engine.runtime().spawn_blocking(move || {
        let device = services.device.answers(LOCK_PATIENCE);
        match () {
            () if !device => Some("the queue of the device does not answer".to_owned()),
            () if !services.diffusion.answers(LOCK_PATIENCE) => Some("a model does not answer".to_owned()),
            () => services.diffusion.lost(),
        }
    });
    Check::of(looked.await.unwrap_or_else(|_| Some("it has ended".into())))
}

async fn check_plugins(engine: Arc<Engine>) -> Check {
    engine.answers().await;
    Check::of(None)
}

async fn check_storage(services: Arc<Services>) -> Check {
    let works = services.check_storage().await;
    Check::of((!works).then(|| "it can't be written and read; the log says why".into()))
}
