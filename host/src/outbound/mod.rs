//! Connections that plugins open to other servers: only to origins that the operator lists, and to addresses that are public
//! or allowed one by one.

mod network;
mod origin;
mod tls;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
};

pub use network::{Network, is_public};
pub use origin::{Origin, Scheme};

use crate::{
    config::Config,
    error::{Error, ErrorKind},
};

/// A connection, with or without TLS.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// What one call of a plugin may reach, and how much of it at once.
pub struct Outbound {
    plugin: Arc<str>,
    origins: Vec<Origin>,
    networks: Vec<Network>,
    /// The longest that anything may be waited for.
    pub timeout: Duration,
    pub max_body: usize,
    pub max_message: usize,
    max_connections: usize,
    free: Arc<Semaphore>,
}

impl Outbound {
    /// For a call of `plugin`.
    pub fn new(config: &Config, plugin: Arc<str>) -> Self {
        let limits = config.limits(&plugin);
        let table = config.plugins.get(&*plugin).cloned().unwrap_or_default();
        // Entries that are not valid were refused with the configuration.
        Self {
            origins: table.origins.iter().filter_map(|text| Origin::listed(text).ok()).collect(),
            networks: table.private_networks.iter().filter_map(|text| Network::parse(text).ok()).collect(),
            timeout: Duration::from_millis(limits.http_timeout_ms),
            max_body: limits.http_max_body_bytes,
            max_message: limits.websocket_max_message_bytes,
            max_connections: limits.connections,
            free: Arc::new(Semaphore::new(limits.connections)),
            plugin,
        }
    }

    /// Connects to a server within `timeout`, or the operator's limit where that is less. The connection counts as one of
    /// the call's as long as the permit lives.
    ///
    /// # Errors
    /// `Denied` for an origin or address that is not allowed, `Unavailable` for one that can't be reached.
    pub async fn connect(
        &self,
        target: &Origin,
        timeout: Duration,
    ) -> Result<(Box<dyn Duplex>, OwnedSemaphorePermit), Error> {
        let plugin = &self.plugin;
        if !self.origins.iter().any(|entry| entry.covers(target)) {
            let error = format!(
                "plugin '{plugin}' may not reach {target}: to allow it, add \"{target}\" to [plugins.{plugin}] origins"
            );
            return Err(Error::new(ErrorKind::Denied, error));
        }
        let permit = self.free.clone().try_acquire_owned().map_err(|_| {
            let limit = self.max_connections;
            let error = format!("plugin '{plugin}' has {limit} connections open in this call, which is the limit (connections)");
            Error::new(ErrorKind::Unavailable, error)
        })?;
        let timeout = timeout.min(self.timeout);
        let connected = tokio::time::timeout(timeout, async {
            let stream = self.reach(target).await?;
            Ok::<Box<dyn Duplex>, Error>(match target.scheme.secure() {
                true => Box::new(tls::wrap(target, stream).await?),
                false => Box::new(stream),
            })
        });
        match connected.await {
            Ok(connected) => Ok((connected?, permit)),
            Err(_) => Err(unavailable(format!("{target}: no connection within {} ms", timeout.as_millis()))),
        }
    }

    /// A TCP connection to the first address of the host that answers. The name is looked up once: what was checked is what is
    /// connected to.
    async fn reach(&self, target: &Origin) -> Result<TcpStream, Error> {
        let addresses: Vec<SocketAddr> = match target.address() {
            Some(address) => vec![(address, target.port).into()],
            None => tokio::net::lookup_host((target.host.as_str(), target.port))
                .await
                .map_err(|e| unavailable(format!("{target}: the name can't be resolved: {e}")))?
                .collect(),
        };
        let mut failure = self.refusal(target, &addresses);
        for address in addresses.iter().filter(|address| self.admits(target, **address)) {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Err(error) => failure = unavailable(format!("{target}: {error}")),
            }
        }
        Err(failure)
    }

    /// Whether a listed origin may have this address: a public one, one that the list names itself, or one of a private network
    /// that the operator allows.
    fn admits(&self, target: &Origin, address: SocketAddr) -> bool {
        let plain = address.ip().to_canonical();
        is_public(plain)
            || target.address() == Some(address.ip())
            || target.host == "localhost" && plain.is_loopback()
            || self.networks.iter().any(|network| network.contains(plain))
    }

    /// The error where none of a host's addresses may be connected to.
    fn refusal(&self, target: &Origin, addresses: &[SocketAddr]) -> Error {
        let Some(address) = addresses.first().map(|address| address.ip().to_canonical()) else {
            return unavailable(format!("{target}: the name has no address"));
        };
        let (plugin, bits) = (&self.plugin, if address.is_ipv4() { 32 } else { 128 });
        Error::new(
            ErrorKind::Denied,
            format!(
                "plugin '{plugin}' may not reach {target}: its address {address} is not a public one; to allow it, add \
                 \"{address}/{bits}\" to [plugins.{plugin}] private_networks"
            ),
        )
    }
}

fn unavailable(message: String) -> Error {
    Error::new(ErrorKind::Unavailable, message)
}
