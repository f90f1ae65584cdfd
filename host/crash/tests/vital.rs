//! The death of what the server can't do without is seen, in a process of its own.

use std::{
    process::{Command, Output},
    time::Duration,
};

use reverie_crash::vital;

/// Runs one of the tests below that are ignored.
fn run(child: &str) -> Output {
    let program = std::env::current_exe().unwrap();
    Command::new(program).args(["--exact", child, "--ignored", "--nocapture"]).output().unwrap()
}

#[test]
fn a_panic_of_a_vital_thread_or_task_ends_the_process_and_is_said() {
    for (child, name) in [("a_thread_dies", "a clock"), ("a_task_dies", "a worker")] {
        let output = run(child);
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(vital::EXIT_STATUS), "{child}: {said}");
        for part in ["ERROR", name, "injected"] {
            assert!(said.contains(part), "{child}: no {part:?} in {said}");
        }
    }
}

#[test]
fn what_ends_without_a_panic_ends_nothing_else() {
    vital::thread("short", || {}).unwrap().join().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert_eq!(runtime.block_on(vital::task("short", async { 3 })), 3);
}

#[test]
#[ignore = "ends the process"]
fn a_thread_dies() {
    tracing_subscriber::fmt().init();
    let cause = 1;
    vital::thread("a clock", move || panic!("injected {cause}")).unwrap();
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
#[ignore = "ends the process"]
fn a_task_dies() {
    tracing_subscriber::fmt().init();
    let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
    runtime.spawn(vital::task("a worker", async { panic!("injected") }));
    std::thread::sleep(Duration::from_secs(60));
}
