//! The server's log. A line carries the plugin's name and the job by itself.

pub use crate::bindings::reverie::handler::log::{Level, write};

/// Something failed and an operator should look at it.
pub fn error(message: impl AsRef<str>) {
    write(Level::Error, message.as_ref());
}

/// Something is odd, but the plugin goes on.
pub fn warn(message: impl AsRef<str>) {
    write(Level::Warn, message.as_ref());
}

/// Something worth knowing happened.
pub fn info(message: impl AsRef<str>) {
    write(Level::Info, message.as_ref());
}

/// For the plugin's developer.
pub fn debug(message: impl AsRef<str>) {
    write(Level::Debug, message.as_ref());
}
