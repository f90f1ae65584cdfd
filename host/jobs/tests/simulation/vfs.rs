//! SQLite's way to the simulated disk: a VFS, registered once, that works on the disk of the thread it is called on.

use std::{
    cell::RefCell,
    ffi::{CStr, c_char, c_int},
    ptr,
    sync::{Arc, Once},
};

use rusqlite::ffi;

use crate::{
    disk::{Disk, Fault, folder_of},
    vfs_file::{self, Open},
};

pub const NAME: &str = "simulated";
const C_NAME: &CStr = c"simulated";

thread_local! {
    static CURRENT: RefCell<Option<Arc<Disk>>> = const { RefCell::new(None) };
}

/// Makes a disk the one of this thread.
pub fn set(disk: Option<Arc<Disk>>) {
    CURRENT.with(|current| *current.borrow_mut() = disk);
}

pub fn current() -> Option<Arc<Disk>> {
    CURRENT.with(|current| current.borrow().clone())
}

pub fn register() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let vfs = ffi::sqlite3_vfs {
            iVersion: 2,
            szOsFile: size_of::<vfs_file::File>() as c_int,
            mxPathname: 512,
            pNext: ptr::null_mut(),
            zName: C_NAME.as_ptr(),
            pAppData: ptr::null_mut(),
            xOpen: Some(open),
            xDelete: Some(delete),
            xAccess: Some(access),
            xFullPathname: Some(full_pathname),
            xDlOpen: None,
            xDlError: None,
            xDlSym: None,
            xDlClose: None,
            xRandomness: Some(randomness),
            xSleep: Some(sleep),
            xCurrentTime: Some(current_time),
            xGetLastError: None,
            xCurrentTimeInt64: Some(current_time_milliseconds),
            xSetSystemCall: None,
            xGetSystemCall: None,
            xNextSystemCall: None,
        };
        // SAFETY: the structure is complete and never freed, as SQLite asks for as long as it is registered.
        let code = unsafe { ffi::sqlite3_vfs_register(Box::leak(Box::new(vfs)), 0) };
        assert_eq!(code, ffi::SQLITE_OK);
    });
}

/// # Safety
/// `name` is null or a string of SQLite's that ends with a zero.
unsafe fn path<'a>(name: *const c_char) -> Option<&'a str> {
    if name.is_null() {
        return None;
    }
    // SAFETY: as the caller says.
    unsafe { CStr::from_ptr(name) }.to_str().ok()
}

unsafe extern "C" fn open(
    _vfs: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: SQLite gives `szOsFile` bytes, whose methods it does not call where they are null.
    unsafe { (*file).pMethods = ptr::null() };
    // SAFETY: SQLite's string.
    let (Some(disk), Some(path)) = (current(), unsafe { path(name) }) else { return ffi::SQLITE_CANTOPEN };
    let epoch = disk.epoch();
    let create = flags & ffi::SQLITE_OPEN_CREATE != 0;
    let opened = disk.of_epoch(epoch, |state| {
        let inode = state.open(path, create)?;
        let locks = state.locks.entry(inode).or_default().clone();
        Ok((inode, locks))
    });
    let (inode, locks) = match opened {
        Ok(opened) => opened,
        Err(Fault::Full) => return ffi::SQLITE_FULL,
        Err(_) => return ffi::SQLITE_CANTOPEN,
    };
    let synced_with_folder =
        ffi::SQLITE_OPEN_WAL | ffi::SQLITE_OPEN_MAIN_JOURNAL | ffi::SQLITE_OPEN_SUPER_JOURNAL;
    let open = Open {
        disk,
        epoch,
        inode,
        path: path.to_owned(),
        who: locks.connect(),
        locks,
        level: ffi::SQLITE_LOCK_NONE,
        sync_folder: create && flags & synced_with_folder != 0,
    };
    // SAFETY: `file` has room for a `File`, and SQLite uses it as one, through these methods, until it closes it.
    unsafe { file.cast::<vfs_file::File>().write(vfs_file::File::new(open)) };
    if !out_flags.is_null() {
        // SAFETY: not null, so SQLite's.
        unsafe { *out_flags = flags };
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn delete(_vfs: *mut ffi::sqlite3_vfs, name: *const c_char, sync: c_int) -> c_int {
    // SAFETY: SQLite's string.
    let (Some(disk), Some(path)) = (current(), unsafe { path(name) }) else {
        return ffi::SQLITE_IOERR_DELETE;
    };
    match disk.of_epoch(disk.epoch(), |state| state.remove(path)) {
        Ok(()) => {}
        Err(Fault::Missing) => return ffi::SQLITE_IOERR_DELETE_NOENT,
        Err(_) => return ffi::SQLITE_IOERR_DELETE,
    }
    if sync != 0 && disk.of_epoch(disk.epoch(), |state| state.sync_folder(folder_of(path))).is_err() {
        return ffi::SQLITE_IOERR_DIR_FSYNC;
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn access(
    _vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: SQLite's string.
    let (Some(disk), Some(path)) = (current(), unsafe { path(name) }) else {
        return ffi::SQLITE_IOERR_ACCESS;
    };
    let found = disk.of_epoch(disk.epoch(), |state| {
        // As on Unix, an empty file is none, where it is asked whether one exists.
        let found = state.find(path);
        Ok(found.is_some_and(|inode| flags != ffi::SQLITE_ACCESS_EXISTS || state.size(inode) > 0))
    });
    let Ok(found) = found else { return ffi::SQLITE_IOERR_ACCESS };
    // SAFETY: SQLite's room for the answer.
    unsafe { *out = found.into() };
    ffi::SQLITE_OK
}

unsafe extern "C" fn full_pathname(
    _vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    room: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: SQLite's string.
    let name = unsafe { CStr::from_ptr(name) }.to_bytes_with_nul();
    if name.len() > room as usize {
        return ffi::SQLITE_CANTOPEN;
    }
    // SAFETY: `out` has `room` bytes, which are as many or more.
    unsafe { ptr::copy_nonoverlapping(name.as_ptr().cast(), out, name.len()) };
    ffi::SQLITE_OK
}

unsafe extern "C" fn randomness(_vfs: *mut ffi::sqlite3_vfs, bytes: c_int, out: *mut c_char) -> c_int {
    // SAFETY: SQLite gives room for as many bytes as it says.
    unsafe { ptr::write_bytes(out, 42, bytes as usize) };
    bytes
}

/// No connection waits for another: what would come of it has come.
unsafe extern "C" fn sleep(_vfs: *mut ffi::sqlite3_vfs, microseconds: c_int) -> c_int {
    microseconds
}

/// Nothing in the store asks SQLite for the time.
const NOON: f64 = 2_460_000.5;

unsafe extern "C" fn current_time(_vfs: *mut ffi::sqlite3_vfs, out: *mut f64) -> c_int {
    // SAFETY: SQLite's room for the answer.
    unsafe { *out = NOON };
    ffi::SQLITE_OK
}

unsafe extern "C" fn current_time_milliseconds(
    _vfs: *mut ffi::sqlite3_vfs,
    out: *mut ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: SQLite's room for the answer.
    unsafe { *out = (NOON * 86_400_000.0) as i64 };
    ffi::SQLITE_OK
}
