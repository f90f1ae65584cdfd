//! Drills that need a file system of their own run in a mount namespace: the test starts itself again in there.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

const INSIDE: &str = "REVERIE_DRILL_INSIDE";

/// Runs the test of this name in a mount namespace of its own, as root of it. True in there; outside, false once that has
/// ended, or was skipped because this machine does not let it.
///
/// # Panics
/// When the test fails in there.
pub fn namespace(test: &str) -> bool {
    if std::env::var(INSIDE).is_ok_and(|inside| inside == test) {
        return true;
    }
    // Root needs no other user; some machines give that to nobody.
    let ways: [&[&str]; 2] = [&["--mount"], &["--mount", "--map-root-user"]];
    let works = |way: &&&[&str]| {
        let mut tried = Command::new("unshare");
        tried.args(**way).args(["sh", "-c", "mount -t tmpfs -o size=1m tmpfs /mnt"]);
        tried.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    let Some(way) = ways.iter().find(works) else {
        let _ = writeln!(
            std::io::stderr(),
            "{test}: SKIPPED: neither root nor user namespaces mount a tmpfs here"
        );
        return false;
    };
    let executable = std::env::current_exe().expect("a path");
    let mut command = Command::new("unshare");
    command.args(*way).arg(executable).args([test, "--exact", "--nocapture", "--test-threads=1"]);
    let status = command.env(INSIDE, test).stdout(Stdio::null()).status().expect("unshare runs");
    assert!(status.success(), "{test} failed: {status}");
    false
}

/// A file system in memory of so many bytes, in the place of a folder; it goes with the namespace.
pub fn mount(folder: &Path, bytes: u64) {
    std::fs::create_dir_all(folder).expect("a folder");
    let mut command = Command::new("mount");
    command.args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"]).arg(folder);
    assert!(command.status().expect("mount runs").success());
}
