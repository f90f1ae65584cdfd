//! Functions of the C library with faults, for a program that is started with this library in `LD_PRELOAD`: syncs that take
//! long or fail, writes that fail, a wall clock that is wrong, reads that crash. The program itself stays as it is.
//!
//! Which faults there are is read at each call from the file that the variable [`FAULTS`] names: five numbers of 8 bytes,
//! little-endian, in the order of [`Faults`]. So a drill turns them on and off while the program runs.
#![cfg(target_os = "linux")]

use std::{
    ffi::{c_int, c_long, c_void},
    fs::File,
    os::fd::AsRawFd as _,
    sync::OnceLock,
    time::Duration,
};

/// The variable that names the file. Drills write it: `disk_and_clock.rs`.
const FAULTS: &str = "REVERIE_DRILL_FAULTS";

#[derive(Default)]
struct Faults {
    /// Milliseconds that each sync of a file takes longer.
    sync_ms: i64,
    /// What each sync fails with, an `errno`; 0: it does not.
    sync_error: i64,
    /// The same for writes at a place in a file (`pwrite`), which is how SQLite writes.
    write_error: i64,
    /// Seconds that `CLOCK_REALTIME` is ahead.
    clock_s: i64,
    /// 1: who reads at a place of a `*.safetensors` file (`pread`) gets SIGBUS.
    read_crash: i64,
}

impl Faults {
    fn now() -> Self {
        static FILE: OnceLock<Option<File>> = OnceLock::new();
        let file = FILE.get_or_init(|| File::open(std::env::var_os(FAULTS)?).ok());
        let mut numbers = [[0; 8]; 5];
        let Some(file) = file else { return Self::default() };
        let bytes = numbers.as_flattened_mut();
        // SAFETY: as many bytes as are there. Not by the C library's function, which is one of those below.
        let read =
            unsafe { libc::syscall(libc::SYS_pread64, file.as_raw_fd(), bytes.as_mut_ptr(), bytes.len(), 0) };
        if read != bytes.len() as c_long {
            return Self::default();
        }
        let [sync_ms, sync_error, write_error, clock_s, read_crash] = numbers.map(i64::from_le_bytes);
        Self { sync_ms, sync_error, write_error, clock_s, read_crash }
    }
}

/// Sets `errno` and returns what a call that failed returns.
fn fail(error: i64) -> c_int {
    // SAFETY: the C library's variable of this thread, which is there as long as the thread.
    unsafe { *libc::__errno_location() = error as c_int };
    -1
}

fn sync(call: c_long, file: c_int) -> c_int {
    let Faults { sync_ms, sync_error, .. } = Faults::now();
    std::thread::sleep(Duration::from_millis(sync_ms.try_into().unwrap_or(0)));
    if sync_error != 0 {
        return fail(sync_error);
    }
    // SAFETY: a number of a system call and its only argument, a number too.
    unsafe { libc::syscall(call, file) as c_int }
}

#[unsafe(no_mangle)]
extern "C" fn fsync(file: c_int) -> c_int {
    sync(libc::SYS_fsync, file)
}

#[unsafe(no_mangle)]
extern "C" fn fdatasync(file: c_int) -> c_int {
    sync(libc::SYS_fdatasync, file)
}

/// # Safety
/// That of `pwrite`: `count` bytes can be read at `bytes`.
#[unsafe(no_mangle)]
unsafe extern "C" fn pwrite64(file: c_int, bytes: *const c_void, count: usize, at: i64) -> isize {
    let Faults { write_error, .. } = Faults::now();
    if write_error != 0 {
        return fail(write_error) as isize;
    }
    // SAFETY: the caller's pointer and length, as they are.
    unsafe { libc::syscall(libc::SYS_pwrite64, file, bytes, count, at) as isize }
}

/// # Safety
/// That of `pwrite`.
#[unsafe(no_mangle)]
unsafe extern "C" fn pwrite(file: c_int, bytes: *const c_void, count: usize, at: i64) -> isize {
    // SAFETY: the caller keeps the same promise.
    unsafe { pwrite64(file, bytes, count, at) }
}

/// Reads a page of a file that has none.
fn crash() {
    // SAFETY: a new mapping of a new file, from which one byte is read. That the system answers it by SIGBUS is what it is for.
    unsafe {
        let file = libc::memfd_create(c"empty".as_ptr(), 0);
        let page = libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ, libc::MAP_SHARED, file, 0);
        std::ptr::read_volatile(page.cast::<u8>());
    }
}

/// # Safety
/// That of `pread`: `count` bytes can be written at `bytes`.
#[unsafe(no_mangle)]
unsafe extern "C" fn pread64(file: c_int, bytes: *mut c_void, count: usize, at: i64) -> isize {
    if Faults::now().read_crash != 0 {
        let path = std::fs::read_link(format!("/proc/self/fd/{file}"));
        if path.is_ok_and(|path| path.extension().is_some_and(|extension| extension == "safetensors")) {
            crash();
        }
    }
    // SAFETY: the caller's pointer and length, as they are.
    unsafe { libc::syscall(libc::SYS_pread64, file, bytes, count, at) as isize }
}

/// # Safety
/// That of `pread`.
#[unsafe(no_mangle)]
unsafe extern "C" fn pread(file: c_int, bytes: *mut c_void, count: usize, at: i64) -> isize {
    // SAFETY: the caller keeps the same promise.
    unsafe { pread64(file, bytes, count, at) }
}

/// # Safety
/// That of `clock_gettime`: a `timespec` can be written at `time`.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> c_int {
    // SAFETY: the caller's pointer, as it is.
    let result = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) } as c_int;
    if result == 0 && clock == libc::CLOCK_REALTIME {
        let Faults { clock_s, .. } = Faults::now();
        // SAFETY: the system has just written there.
        unsafe { (*time).tv_sec += clock_s };
    }
    result
}
