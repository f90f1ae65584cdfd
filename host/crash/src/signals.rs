//! The handlers of the signals that end a process by its own fault. They write down whom to blame and let the process die as it
//! would have without them. Everything here may run in a signal handler: it neither allocates nor locks.

use std::{
    ffi::{CString, c_int, c_void},
    io,
    os::unix::ffi::OsStrExt,
    path::Path,
    ptr,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicI32, Ordering},
    },
};

use crate::blame;

const SIGNALS: [c_int; 5] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGABRT, libc::SIGILL, libc::SIGFPE];

/// How often another thread's record is looked for before this one lets the process die, 10 ms apart.
const LOOKS: usize = 100;

static PATH: OnceLock<CString> = OnceLock::new();
/// What was there before: std's own handlers, which tell of overflowed stacks.
static PREVIOUS: OnceLock<[libc::sigaction; SIGNALS.len()]> = OnceLock::new();
/// The thread that writes the record; 0: none yet.
static WRITER: AtomicI32 = AtomicI32::new(0);
static WRITTEN: AtomicBool = AtomicBool::new(false);

pub fn install(path: &Path) -> io::Result<()> {
    let path = CString::new(std::path::absolute(path)?.as_os_str().as_bytes())?;
    if PATH.set(path).is_err() {
        return Ok(());
    }
    // SAFETY: all zeros is a `sigaction`: the default action.
    let mut previous: [libc::sigaction; SIGNALS.len()] = unsafe { std::mem::zeroed() };
    for (signal, previous) in SIGNALS.iter().zip(&mut previous) {
        // SAFETY: the pointer is to a local.
        check(unsafe { libc::sigaction(*signal, ptr::null(), previous) })?;
    }
    let _ = PREVIOUS.set(previous);
    for signal in SIGNALS {
        // SAFETY: as above.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handle as extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) as usize;
        // On the stack that std sets aside for this, as the thread's own may have overflowed.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: the action is whole: its handler has the signature that the flags promise, and its mask is empty.
        check(unsafe { libc::sigaction(signal, &action, ptr::null_mut()) })?;
    }
    Ok(())
}

fn check(code: c_int) -> io::Result<()> {
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

extern "C" fn handle(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel, or whoever was told of the signal first, passes the signal's own information.
    let code = unsafe { (*info).si_code };
    // Of a signal that a process sent, and `abort` is this one's; faults have codes above 0.
    let sent = code <= 0;
    // SAFETY: as above; signals that are sent have a sender. `getpid` can't fail.
    let sender =
        sent.then(|| unsafe { (*info).si_pid() }).filter(|sender| *sender != unsafe { libc::getpid() });
    record(signal, sender);
    let at = SIGNALS.iter().position(|known| *known == signal);
    let previous = PREVIOUS.get().zip(at).map(|(previous, at)| previous[at]);
    if let Some(previous) = previous.filter(|previous| !sent && previous.sa_flags & libc::SA_SIGINFO != 0) {
        // SAFETY: with this flag it is a function of this signature, which is there as long as the process.
        let previous: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
            unsafe { std::mem::transmute(previous.sa_sigaction) };
        // It may abort. The small stack that this runs on has no room for a handler of that too.
        forget(libc::SIGABRT);
        previous(signal, info, context);
    }
    // What was done is done again and ends the process: the faulty instruction when this returns, or the signal, which waits
    // until then.
    forget(signal);
    if sent {
        // SAFETY: it has no conditions.
        unsafe { libc::raise(signal) };
    }
}

/// Gives a signal its default action.
fn forget(signal: c_int) {
    // SAFETY: all zeros is the default action; what was there before is not asked for.
    unsafe {
        let default: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, &default, ptr::null_mut());
    }
}

/// Writes the record, once in the life of the process. Where another thread is at it, waits until that has done so.
fn record(signal: c_int, sender: Option<c_int>) {
    // SAFETY: it has no conditions.
    let thread = unsafe { libc::gettid() };
    match WRITER.compare_exchange(0, thread, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => {
            write(signal, sender);
            WRITTEN.store(true, Ordering::Release);
        }
        // A fault of the writing itself, or the `abort` after a fault.
        Err(writer) if writer == thread => {}
        Err(_) => {
            for _ in 0..LOOKS {
                if WRITTEN.load(Ordering::Acquire) {
                    return;
                }
                let pause = libc::timespec { tv_sec: 0, tv_nsec: 10_000_000 };
                // SAFETY: the pointer is to a local; what is left of the time is not asked for.
                unsafe { libc::nanosleep(&pause, ptr::null_mut()) };
            }
        }
    }
}

fn write(signal: c_int, sender: Option<c_int>) {
    let Some(path) = PATH.get() else { return };
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_CLOEXEC;
    // SAFETY: the path ends with a zero.
    let file = unsafe { libc::open(path.as_ptr(), flags, 0o600) };
    if file < 0 {
        return;
    }
    Line::new("signal ").number(signal).write_to(file);
    match sender {
        // From outside: it says nothing of what this process was doing.
        Some(sender) => Line::new("sent ").number(sender).write_to(file),
        None => {
            let by_device = blame::blamed(|job| {
                let mut spelt = [0; 32];
                Line::new("job ").text(job.simple().encode_lower(&mut spelt)).write_to(file);
            });
            if by_device {
                Line::new("device").write_to(file);
            }
        }
    }
    // SAFETY: the file is open, and nobody else's.
    unsafe {
        libc::fsync(file);
        libc::close(file);
    }
}

/// A short line. What does not fit is cut off.
struct Line {
    bytes: [u8; 48],
    len: usize,
}

impl Line {
    fn new(text: &str) -> Self {
        Self { bytes: [0; 48], len: 0 }.text(text)
    }

    fn text(mut self, text: &str) -> Self {
        for (to, from) in self.bytes.iter_mut().skip(self.len).zip(text.bytes()) {
            *to = from;
            self.len += 1;
        }
        self
    }

    fn number(self, number: c_int) -> Self {
        let (mut digits, mut left, mut at) = ([b'0'; 10], number.unsigned_abs(), 10);
        while at > 0 && (left > 0 || at == 10) {
            at -= 1;
            digits[at] = b'0' + (left % 10) as u8;
            left /= 10;
        }
        self.text(std::str::from_utf8(&digits[at..]).unwrap_or_default())
    }

    fn write_to(self, file: c_int) {
        let line = self.text("\n");
        // SAFETY: so many bytes are there. A line that is not taken, as by a full disk, is left out.
        unsafe { libc::write(file, line.bytes.as_ptr().cast(), line.len) };
    }
}
