//! What a server can't do without: its clock, its store, its workers. A panic ends only the thread or the task that it is in,
//! and the process would go on without it, taking requests that nobody serves. So it is ended instead, and says why: whoever
//! watches over it starts a new one, which takes up the jobs of the old one.

use std::{
    any::Any,
    future::{Future, poll_fn},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    thread::{Builder, JoinHandle},
};

use crate::blame;

/// The exit status after a panic: `EX_SOFTWARE` of `sysexits.h`.
pub const EXIT_STATUS: i32 = 70;

/// Starts a thread whose panic ends the process.
///
/// # Errors
/// The system's, where it starts no thread.
pub fn thread(name: &'static str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    Builder::new().name(name.to_owned()).spawn(move || {
        blame::own_thread();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
            end(name, &*panic);
        }
    })
}

/// Does `work`, whose panic ends the process.
pub async fn task<T>(name: &str, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    poll_fn(|context| {
        let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context)));
        polled.unwrap_or_else(|panic| end(name, &*panic))
    })
    .await
}

fn end(name: &str, panic: &(dyn Any + Send)) -> ! {
    let said = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref().map(String::as_str));
    let said = said.unwrap_or("it did not say why");
    tracing::error!(
        "'{name}', which the server can't do without, panicked: {said}. The server ends; jobs that have not ended are \
         run again at the next start"
    );
    std::process::exit(EXIT_STATUS)
}
