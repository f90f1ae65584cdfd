//! The checks of the server's parts: bounded, shared, and failing where a part does not answer.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use reverie::{
    config::{self, Sources},
    health::{Check, Probe},
    plugins::Registry,
    server,
};

/// As of the whole answer.
const A_SECOND: Duration = Duration::from_millis(1100);

#[tokio::test]
async fn a_check_that_hangs_fails_within_a_second_and_is_not_begun_again() {
    let (probe, begun) = (Probe::default(), AtomicUsize::new(0));
    let hang = || {
        begun.fetch_add(1, Relaxed);
        pending()
    };
    let began = Instant::now();
    let asked = [0; 3].map(|_| probe.ask(hang));
    for found in futures_util::future::join_all(asked).await {
        assert!(!found.ok && found.error.unwrap().contains("within a second"));
    }
    assert!(!probe.ask(hang).await.ok);
    assert!(began.elapsed() < 2 * A_SECOND, "{:?}", began.elapsed());
    assert_eq!(begun.into_inner(), 1);
}

#[tokio::test]
async fn what_was_found_is_told_again_for_a_moment_only() {
    let (probe, begun) = (Probe::default(), Arc::new(AtomicUsize::new(0)));
    let check = || {
        let begun = begun.clone();
        async move { Check::of(Some(begun.fetch_add(1, Relaxed).to_string())) }
    };
    for _ in 0..10 {
        assert_eq!(probe.ask(check).await.error.as_deref(), Some("0"));
    }
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(probe.ask(check).await.error.as_deref(), Some("1"));
}

#[tokio::test]
async fn a_check_that_panics_has_failed() {
    let probe = Probe::default();
    let found = probe.ask(|| async { panic!("injected") }).await;
    assert!(found.error.unwrap().contains("a fault of the server"));
}

async fn registry(folder: &std::path::Path) -> Arc<Registry> {
    let set = [
        ("jobs.ledger", "ledger.db"),
        ("storage.location", "storage"),
        ("diffusion.dir", "models"),
        ("diffusion.embedded_dir", "embedded"),
        ("plugin_runtime.dir", "plugins"),
        ("plugin_runtime.cache_dir", "cache"),
    ];
    let mut set: Vec<String> =
        set.iter().map(|(key, name)| format!("{key}={}", folder.join(name).display())).collect();
    set.push("plugin_runtime.threads=1".into());
    set.push("plugin_runtime.builtin=false".into());
    set.push("execution.backend=cpu".into());
    let sources = Sources { file: None, env: Vec::new(), set };
    server::registry(config::load(&sources).unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_do_not_answer_are_named_and_well_again_when_they_do() {
    let folder = tempfile::tempdir().unwrap();
    let registry = registry(folder.path()).await;
    let health = registry.health().await;
    assert!(health.is_ok(), "{health:?}");

    // The one thread of the plugins is kept by something that never gives way.
    let (free, kept) = std::sync::mpsc::channel::<()>();
    registry.engine.runtime().spawn(async move {
        let _ = kept.recv();
    });
    tokio::time::sleep(Duration::from_millis(400)).await;
    let began = Instant::now();
    let health = registry.health().await;
    assert!(began.elapsed() < A_SECOND, "{:?}", began.elapsed());
    assert!(!health.is_ok() && health.status == "failing");
    let checks = &health.checks;
    assert!(!checks.plugins.ok && checks.store.ok && checks.storage.ok && checks.execution.ok, "{health:?}");

    drop(free);
    let deadline = Instant::now() + Duration::from_secs(5);
    while !registry.health().await.is_ok() {
        assert!(Instant::now() < deadline, "it is not well again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    // Whoever computes has the device for as long as it takes.
    let ticket = registry.services.device.ticket();
    let _lease = ticket.lease(|| 0, || false).unwrap();
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(registry.health().await.is_ok(), "a busy device is well");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_of_the_device_that_is_never_given_free_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let registry = registry(folder.path()).await;
    let services = registry.services.clone();
    let (free, kept) = std::sync::mpsc::channel::<()>();
    let (held, is_held) = std::sync::mpsc::channel();
    // What is asked while somebody waits is asked under the lock.
    std::thread::spawn(move || {
        let stop = || {
            held.send(()).unwrap();
            let _ = kept.recv();
            true
        };
        drop(services.device.ticket().lease(|| 0, stop));
    });
    is_held.recv().unwrap();
    let health = registry.health().await;
    assert_eq!(health.checks.execution.error.as_deref(), Some("the queue of the device does not answer"));
    assert!(health.checks.store.ok && health.checks.plugins.ok && health.checks.storage.ok, "{health:?}");
    drop(free);
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(registry.health().await.is_ok());
}
