//! What Rust's standard library and its libc ask of WASI in every program, answered here instead of by the host.
//!
//! For a panic's default message, `println!` or `std::env::var` libc imports the standard streams, terminals, the
//! environment and `exit`. The host grants a plugin none of them; imported all the same, each would be linked anew for every
//! call, and together that costs more than a short handler does. wasi-libc declares them under the names below, and a
//! linker takes a definition over an import. Should another version of it use other names, they are imports again: slower,
//! and as empty.
//!
//! The signatures are those that the Canonical ABI lowers WASI 0.2 to: a result that is more than a number goes through a
//! pointer. Handles are never looked at, so all of them are 0.

/// Bytes that a stream says it has room for: what is written goes nowhere.
const ROOM: u64 = 64 << 10;

/// Defines functions for libc to find.
macro_rules! answer {
    ($($name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)? $body:block)*) => {$(
        // SAFETY: the name is libc's own for this import and nothing else defines it; the signature is the import's.
        #[unsafe(no_mangle)]
        extern "C" fn $name($($argument: $type),*) $(-> $result)? $body
    )*};
}

/// A `list` without elements, an `option` that is none, or a `result` that is ok and carries nothing.
fn nothing(result: *mut [u32; 2]) {
    // SAFETY: libc passes room for a value of one of these types, of which each has at least two words.
    unsafe { result.write([0, 0]) }
}

/// `result<u64, stream-error>`.
#[repr(C)]
struct Room {
    tag: u64,
    bytes: u64,
}

answer! {
    __wasm_import_environment_get_environment(variables: *mut [u32; 2]) { nothing(variables) }
    __wasm_import_exit_exit(_status: u32) { core::arch::wasm32::unreachable() }

    __wasm_import_stdin_get_stdin() -> u32 { 0 }
    __wasm_import_stdout_get_stdout() -> u32 { 0 }
    __wasm_import_stderr_get_stderr() -> u32 { 0 }
    __wasm_import_terminal_stdin_get_terminal_stdin(terminal: *mut [u32; 2]) { nothing(terminal) }
    __wasm_import_terminal_stdout_get_terminal_stdout(terminal: *mut [u32; 2]) { nothing(terminal) }
    __wasm_import_terminal_stderr_get_terminal_stderr(terminal: *mut [u32; 2]) { nothing(terminal) }
    __wasm_import_terminal_input_terminal_input_drop(_handle: u32) {}
    __wasm_import_terminal_output_terminal_output_drop(_handle: u32) {}

    __wasm_import_streams_method_output_stream_check_write(_stream: u32, result: *mut Room) {
        // SAFETY: libc passes room for a value of this type.
        unsafe { result.write(Room { tag: 0, bytes: ROOM }) }
    }
    __wasm_import_streams_method_output_stream_write(
        _stream: u32, _content: *const u8, _length: usize, result: *mut [u32; 2]
    ) { nothing(result) }
    __wasm_import_streams_method_output_stream_blocking_flush(_stream: u32, result: *mut [u32; 2]) { nothing(result) }
    __wasm_import_streams_method_output_stream_subscribe(_stream: u32) -> u32 { 0 }
    __wasm_import_streams_input_stream_drop(_stream: u32) {}
    __wasm_import_streams_output_stream_drop(_stream: u32) {}
    __wasm_import_io_error_error_drop(_error: u32) {}
    __wasm_import_poll_method_pollable_block(_pollable: u32) {}
    __wasm_import_poll_pollable_drop(_pollable: u32) {}
}
