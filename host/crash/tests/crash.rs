//! Crashes of processes of their own: what they leave behind, and that they end as they would have without that.

#![cfg(target_os = "linux")]

use std::{
    fs,
    io::Read,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use reverie_crash::{
    blame, record_in,
    report::{self, Crash},
};
use uuid::Uuid;

const FILE: &str = "REVERIE_CRASH_TEST";
const A: Uuid = Uuid::from_u128(0xaaaa);
const B: Uuid = Uuid::from_u128(0xbbbb);

/// The signal that ended one of the tests below which are ignored, and what it left. `kill`: how it is killed once it is ready.
fn crash(child: &str, kill: Option<&str>) -> (Option<i32>, Vec<Crash>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crash");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", child, "--ignored", "--nocapture"]).env(FILE, &path);
    let mut process = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    if let Some(signal) = kill {
        let mut said = String::new();
        let mut output = process.stdout.take().unwrap();
        while !said.contains("ready") {
            let mut bytes = [0; 64];
            let n = output.read(&mut bytes).unwrap();
            assert!(n > 0, "{said}");
            said.push_str(std::str::from_utf8(&bytes[..n]).unwrap());
        }
        let id = process.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }
    let status = process.wait().unwrap();
    (status.signal(), report::read(&path).unwrap())
}

fn fault(signal: i32, on_device: bool, jobs: &[Uuid]) -> Vec<Crash> {
    vec![Crash { signal, sent_by: None, on_device, jobs: jobs.to_vec() }]
}

#[test]
fn a_crash_is_blamed_on_what_its_thread_worked_for() {
    assert_eq!(crash("aborts", None), (Some(libc::SIGABRT), fault(libc::SIGABRT, false, &[A])));
    // std says so and aborts.
    assert_eq!(crash("overflows", None), (Some(libc::SIGABRT), fault(libc::SIGSEGV, false, &[B])));
}

#[test]
fn a_crash_of_a_thread_of_a_library_is_blamed_on_what_is_on_the_device() {
    assert_eq!(
        crash("reads_a_file_that_was_cut", None),
        (Some(libc::SIGBUS), fault(libc::SIGBUS, true, &[B]))
    );
}

#[test]
fn a_crash_of_the_server_itself_is_blamed_on_nobody() {
    assert_eq!(crash("aborts_itself", None), (Some(libc::SIGABRT), fault(libc::SIGABRT, false, &[])));
}

#[test]
fn a_signal_from_outside_is_nobodys_fault() {
    for (signal, name) in [(libc::SIGSEGV, "-SEGV"), (libc::SIGABRT, "-ABRT"), (libc::SIGBUS, "-BUS")] {
        let (ended_by, crashes) = crash("waits", Some(name));
        assert_eq!(ended_by, Some(signal));
        let [Crash { signal: told, sent_by: Some(_), on_device: false, jobs }] = &crashes[..] else {
            panic!("{crashes:?}")
        };
        assert_eq!((*told, jobs.len()), (signal, 0));
    }
    assert_eq!(crash("waits", Some("-KILL")), (Some(libc::SIGKILL), vec![]), "nothing can be left");
}

fn path() -> PathBuf {
    std::env::var_os(FILE).unwrap().into()
}

#[test]
#[ignore = "ends the process"]
fn aborts() {
    record_in(&path()).unwrap();
    // One at whose thread nothing happens, though it is on the device.
    std::thread::spawn(|| {
        let _working = blame::working_for([B]);
        let _lease = blame::on_device();
        std::thread::sleep(Duration::from_secs(60));
    });
    std::thread::sleep(Duration::from_millis(100));
    let _working = blame::working_for([A]);
    std::process::abort();
}

#[test]
#[ignore = "ends the process"]
fn overflows() {
    fn deeper(n: u64) -> u64 {
        if std::hint::black_box(n) == 0 { 0 } else { deeper(n + 1).wrapping_mul(31) + 1 }
    }
    record_in(&path()).unwrap();
    let _working = blame::working_for([B]);
    std::hint::black_box(deeper(1));
}

#[test]
#[ignore = "ends the process"]
fn reads_a_file_that_was_cut() {
    record_in(&path()).unwrap();
    let _idle = blame::working_for([A]);
    let _working = blame::working_for([B]);
    let _lease = blame::on_device();
    let weights = path().with_extension("weights");
    let read = std::thread::spawn(move || mapped_and_cut(&weights));
    drop(read.join());
}

fn mapped_and_cut(path: &Path) -> u8 {
    fs::write(path, [1; 4096]).unwrap();
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    // SAFETY: that the file is cut is what is tested: the bytes are read once, by the instruction that faults.
    let map = unsafe { memmap2::Mmap::map(&file) }.unwrap();
    file.set_len(0).unwrap();
    std::hint::black_box(map[std::hint::black_box(7)])
}

#[test]
#[ignore = "ends the process"]
fn aborts_itself() {
    record_in(&path()).unwrap();
    let (is_there, there) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _working = blame::working_for([A]);
        let _lease = blame::on_device();
        is_there.send(()).unwrap();
        std::thread::sleep(Duration::from_secs(60));
    });
    there.recv().unwrap();
    blame::own_thread();
    std::process::abort();
}

#[test]
#[ignore = "waits to be killed"]
fn waits() {
    record_in(&path()).unwrap();
    let _working = blame::working_for([A]);
    let _lease = blame::on_device();
    println!("ready");
    std::thread::sleep(Duration::from_secs(60));
}
