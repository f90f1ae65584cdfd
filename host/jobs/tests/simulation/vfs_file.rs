//! A file of the simulated disk, as SQLite has it open.

use std::{
    ffi::{c_int, c_void},
    sync::Arc,
};

use rusqlite::ffi;

use crate::{
    disk::{Disk, Fault, Inode, State, folder_of},
    locks::Locks,
};

pub struct Open {
    pub disk: Arc<Disk>,
    pub epoch: u64,
    pub inode: Inode,
    pub path: String,
    pub who: u64,
    pub locks: Arc<Locks>,
    pub level: c_int,
    /// Whether the folder is synced with it the next time, as SQLite's own VFS does with logs and journals.
    pub sync_folder: bool,
}

/// What SQLite allocates for a file.
#[repr(C)]
pub struct File {
    base: ffi::sqlite3_file,
    open: *mut Open,
}

impl File {
    pub fn new(open: Open) -> Self {
        let base = ffi::sqlite3_file { pMethods: &METHODS };
        Self { base, open: Box::into_raw(Box::new(open)) }
    }
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

/// # Safety
/// `file` was opened by this VFS, is not closed, and no other thread uses it, as SQLite promises to each method here.
unsafe fn opened<'a>(file: *mut ffi::sqlite3_file) -> &'a mut Open {
    // SAFETY: as the caller says; `open` comes from a box that only `close` takes back.
    unsafe { &mut *(*file.cast::<File>()).open }
}

impl Open {
    fn act<T>(&self, act: impl FnOnce(&mut State) -> Result<T, Fault>) -> Result<T, Fault> {
        self.disk.of_epoch(self.epoch, act)
    }
}

fn code(done: Result<(), Fault>, failed: c_int) -> c_int {
    match done {
        Ok(()) => ffi::SQLITE_OK,
        Err(Fault::Full) => ffi::SQLITE_FULL,
        Err(_) => failed,
    }
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: SQLite closes a file once; its box was made in `File::new`.
    let open = unsafe { Box::from_raw((*file.cast::<File>()).open) };
    open.locks.disconnect(open.who);
    ffi::SQLITE_OK
}

unsafe extern "C" fn read(
    file: *mut ffi::sqlite3_file,
    out: *mut c_void,
    length: c_int,
    at: ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: SQLite's file.
    let open = unsafe { opened(file) };
    // SAFETY: SQLite gives room for as many bytes as it says; bytes have no invalid values.
    let out = unsafe { std::slice::from_raw_parts_mut(out.cast::<u8>(), length as usize) };
    let read = open.act(|state| {
        let content = state.read(open.inode)?;
        let there = content.get(at as usize..).unwrap_or_default();
        let there = &there[..there.len().min(out.len())];
        out[..there.len()].copy_from_slice(there);
        Ok(there.len())
    });
    match read {
        Ok(there) if there == out.len() => ffi::SQLITE_OK,
        Ok(there) => {
            out[there..].fill(0);
            ffi::SQLITE_IOERR_SHORT_READ
        }
        Err(_) => ffi::SQLITE_IOERR_READ,
    }
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    bytes: *const c_void,
    length: c_int,
    at: ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: SQLite's file.
    let open = unsafe { opened(file) };
    // SAFETY: SQLite gives as many bytes as it says.
    let bytes = unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), length as usize) };
    code(open.act(|state| state.write(open.inode, at as usize, bytes)), ffi::SQLITE_IOERR_WRITE)
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: ffi::sqlite3_int64) -> c_int {
    // SAFETY: SQLite's file.
    let open = unsafe { opened(file) };
    code(open.act(|state| state.truncate(open.inode, size as usize)), ffi::SQLITE_IOERR_TRUNCATE)
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, _flags: c_int) -> c_int {
    // SAFETY: SQLite's file.
    let open = unsafe { opened(file) };
    if let Err(fault) = open.act(|state| state.sync(open.inode)) {
        return code(Err(fault), ffi::SQLITE_IOERR_FSYNC);
    }
    if std::mem::take(&mut open.sync_folder) {
        // As SQLite's own, it does not say so where this fails.
        let _ = open.act(|state| state.sync_folder(folder_of(&open.path)));
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, out: *mut ffi::sqlite3_int64) -> c_int {
    // SAFETY: SQLite's file.
    let open = unsafe { opened(file) };
    let Ok(size) = open.act(|state| Ok(state.size(open.inode))) else { return ffi::SQLITE_IOERR_FSTAT };
    // SAFETY: SQLite's room for the answer.
    unsafe { *out = size as i64 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn lock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: SQLite's file.
    let open = unsafe { opened(file) };
    if open.level >= level {
        return ffi::SQLITE_OK;
    }
    if !open.locks.lock(open.who, level) {
        return ffi::SQLITE_BUSY;
    }
    open.level = level;
    ffi::SQLITE_OK
}

unsafe extern "C" fn unlock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: SQLite's file.
    let open = unsafe { opened(file) };
    if level < open.level {
        open.locks.unlock(open.who, level);
        open.level = level;
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn check_reserved_lock(file: *mut ffi::sqlite3_file, out: *mut c_int) -> c_int {
    // SAFETY: SQLite's file.
    let open = unsafe { opened(file) };
    // SAFETY: SQLite's room for the answer.
    unsafe { *out = open.locks.is_reserved().into() };
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_control(file: *mut ffi::sqlite3_file, what: c_int, answer: *mut c_void) -> c_int {
    if what != ffi::SQLITE_FCNTL_HAS_MOVED {
        return ffi::SQLITE_NOTFOUND;
    }
    // SAFETY: SQLite's file.
    let open = unsafe { opened(file) };
    let found = open.act(|state| Ok(state.find(&open.path)));
    // SAFETY: for this question SQLite gives room for a number.
    unsafe { *answer.cast::<c_int>() = (found != Ok(Some(open.inode))).into() };
    ffi::SQLITE_OK
}

unsafe extern "C" fn sector_size(_file: *mut ffi::sqlite3_file) -> c_int {
    // What SQLite's own VFS says on Unix.
    4096
}

unsafe extern "C" fn device_characteristics(_file: *mut ffi::sqlite3_file) -> c_int {
    // As there. A torn write harms nothing but what it was to write, here too.
    ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE
}

unsafe extern "C" fn shm_map(
    file: *mut ffi::sqlite3_file,
    number: c_int,
    bytes: c_int,
    make: c_int,
    out: *mut *mut c_void,
) -> c_int {
    // SAFETY: SQLite's file.
    let open = unsafe { opened(file) };
    let region = open.locks.region(number as usize, bytes as usize, make != 0);
    // SAFETY: SQLite's room for the answer. The region stays as long as `locks`, which this file holds.
    unsafe { *out = region.cast() };
    ffi::SQLITE_OK
}

unsafe extern "C" fn shm_lock(
    file: *mut ffi::sqlite3_file,
    first: c_int,
    count: c_int,
    flags: c_int,
) -> c_int {
    // SAFETY: SQLite's file.
    let open = unsafe { opened(file) };
    match open.locks.slots(open.who, first as usize..(first + count) as usize, flags) {
        true => ffi::SQLITE_OK,
        false => ffi::SQLITE_BUSY,
    }
}

unsafe extern "C" fn shm_barrier(_file: *mut ffi::sqlite3_file) {
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
}

unsafe extern "C" fn shm_unmap(_file: *mut ffi::sqlite3_file, _delete: c_int) -> c_int {
    ffi::SQLITE_OK
}
