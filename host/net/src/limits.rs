//! What a connection may take, and how many there may be.

use std::time::Duration;

/// Numbers and times. A time counts only while the server waits for the peer.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections in all. There are never more than the process's descriptors less `reserved_descriptors`.
    pub connections: usize,
    /// Connections of one address: of an IPv4 address, or of the /64 network of an IPv6 address.
    pub connections_per_address: usize,
    /// Descriptors that are left to files and to outbound connections.
    pub reserved_descriptors: usize,
    /// From a connection's start to the end of its TLS handshake.
    pub handshake: Duration,
    /// From a connection's start, or a further request's first byte, to the end of the request's headers.
    pub head: Duration,
    /// Without a byte of a request's body, and before `body_bytes_per_s` counts.
    pub body: Duration,
    /// The least rate of a request's body, over all the time that was spent waiting for it.
    pub body_bytes_per_s: u64,
    /// Without a byte of an answer that the peer takes.
    pub write: Duration,
    /// From an answer's end to the first byte of a further request.
    pub idle: Duration,
    /// Bytes of a request's line and headers; more are answered 431.
    pub head_bytes: usize,
    /// Headers of a request; more are answered 431.
    pub headers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16384,
            connections_per_address: 8192,
            reserved_descriptors: 256,
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(10),
            body: Duration::from_secs(30),
            body_bytes_per_s: 1024,
            write: Duration::from_secs(30),
            idle: Duration::from_secs(75),
            head_bytes: 32 * 1024,
            headers: 100,
        }
    }
}

impl Limits {
    /// Between two looks for connections whose time is over: a small part of the shortest time.
    pub(crate) fn sweep(&self) -> Duration {
        let times = [self.handshake, self.head, self.body, self.write, self.idle];
        let shortest = times.into_iter().min().unwrap_or_default();
        (shortest / 10).clamp(Duration::from_millis(10), Duration::from_millis(500))
    }
}
