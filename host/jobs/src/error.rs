//! The one error that leaves the host, over HTTP, WebSocket and to plugins.

use std::fmt;

/// What went wrong, coarsely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    BadRequest,
    Unauthorized,
    InvalidInput,
    NotFound,
    MethodNotAllowed,
    Denied,
    TooLarge,
    UnsupportedMediaType,
    Cancelled,
    Conflict,
    Busy,
    Unavailable,
    Timeout,
    Internal,
}

impl ErrorKind {
    /// The HTTP status.
    pub fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthorized => 401,
            Self::Denied => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::Cancelled | Self::Conflict => 409,
            Self::TooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::InvalidInput => 422,
            Self::Busy => 429,
            Self::Internal => 500,
            Self::Unavailable => 503,
            Self::Timeout => 504,
        }
    }

    /// The machine-readable `code` of error bodies.
    pub fn code(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::Unauthorized => "unauthorized",
            Self::Denied => "denied",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::Cancelled => "canceled",
            Self::Conflict => "conflict",
            Self::TooLarge => "too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::InvalidInput => "invalid_input",
            Self::Busy => "busy",
            Self::Internal => "internal",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
        }
    }

    /// The kind whose [`code`](Self::code) this is; an unknown code is `Internal`.
    pub fn from_code(code: &str) -> Self {
        // As handlers and ledgers of earlier versions have it.
        let code = if code == "cancelled" { "canceled" } else { code };
        use ErrorKind::*;
        [
            BadRequest,
            Unauthorized,
            Denied,
            NotFound,
            MethodNotAllowed,
            Cancelled,
            TooLarge,
            UnsupportedMediaType,
            InvalidInput,
            Conflict,
            Busy,
            Unavailable,
            Timeout,
        ]
        .into_iter()
        .find(|kind| kind.code() == code)
        .unwrap_or(Internal)
    }
}

/// An error a person can act on: the message says what was wrong and what is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    pub kind: ErrorKind,
    pub message: String,
}

/// Bytes of a message: what is quoted in it may be of any length.
const MAX_MESSAGE: usize = 2000;

impl Error {
    /// One whose message is cut where it is too long, as by a text that it quotes.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > MAX_MESSAGE {
            // Its beginning says what is wrong, its end often what is accepted.
            let head = message.floor_char_boundary(MAX_MESSAGE / 2);
            let tail = message.ceil_char_boundary(message.len() - MAX_MESSAGE / 2);
            message.replace_range(head..tail, " [...] ");
        }
        Self { kind, message }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidInput, message)
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    pub fn cancelled() -> Self {
        Self::new(ErrorKind::Cancelled, "job canceled")
    }

    /// The field that was wrong: what a message such as `steps: must be ...` begins with.
    pub fn field(&self) -> Option<&str> {
        if self.kind != ErrorKind::InvalidInput {
            return None;
        }
        let (field, _) = self.message.split_once(':')?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "_.-[]".contains(c);
        Some(field).filter(|field| !field.is_empty() && field.chars().all(plain))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<reverie_memory::Refused> for Error {
    fn from(refused: reverie_memory::Refused) -> Self {
        let kind = if refused.never_fits() { ErrorKind::TooLarge } else { ErrorKind::Unavailable };
        Self::new(kind, refused.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_are_cut_in_the_middle() {
        let Error { message, .. } = Error::invalid(format!("mode: '{}' is unknown", "\u{e9}".repeat(5000)));
        assert!(message.len() <= MAX_MESSAGE + 7);
        assert!(message.starts_with("mode: '\u{e9}") && message.ends_with("\u{e9}' is unknown"), "{message}");
        let short = "x".repeat(MAX_MESSAGE);
        assert_eq!(Error::internal(short.clone()).message, short);
    }
}
