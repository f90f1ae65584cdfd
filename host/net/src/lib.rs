//! HTTP/1.1 over connections that are bounded in number and in time: any tower service is served, and no peer can hold what
//! others need. What is timed is the transfer alone: a handler, and an answer that comes piece by piece, may take as long as
//! they like. Read [`server`] first.

#![forbid(unsafe_code)]

mod body;
mod connection;
pub mod descriptors;
mod figures;
mod io;
mod limits;
mod refusal;
mod serve;
pub mod server;
mod table;
pub mod tls;

use std::net::SocketAddr;

pub use body::{Body, TooSlow, is_too_slow};
pub use figures::{Figures, TimedOut};
pub use limits::Limits;
pub use server::{Connections, Server};
pub use tls::Tls;

/// Who is at the other end of a request's connection: an extension of every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// An extension of the requests that came over TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Secure;
