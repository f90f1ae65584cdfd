//! Working memory of a thread, kept from task to task.

use super::buffer::Lanes;
use std::cell::RefCell;

thread_local! {
    static SCRATCH: RefCell<Vec<Lanes>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with `len` vectors of arbitrary contents. `f` must not ask for scratch itself, nor run other
/// tasks of the thread pool (which might).
pub(crate) fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [Lanes]) -> R) -> R {
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.len() < len {
            scratch.resize(len, Lanes::ZERO);
        }
        f(&mut scratch[..len])
    })
}
