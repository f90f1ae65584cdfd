//! The WebSocket hub: who is connected, who follows which job, and what waits for each to be sent.

mod connection;
mod outbox;

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::{Mutex, RwLock};
use reverie_access::{Access, Caller, check_client_id, check_unguessable};
use reverie_memory::{Budget, Use};
use serde_json::Value;
use uuid::Uuid;

pub use connection::serve;
pub use outbox::{Content, Frame, Limits, Next, Outbox};

use crate::{
    config,
    error::{Error, ErrorKind},
    metrics::Metrics,
};

/// Bytes that may wait for a client whatever memory is free.
const ALWAYS_BYTES: usize = 32 << 10;

/// RFC 6455 close codes.
pub mod close_code {
    pub const GOING_AWAY: u16 = 1001;
    pub const POLICY_VIOLATION: u16 = 1008;
    pub const TOO_BIG: u16 = 1009;
    pub const TRY_AGAIN_LATER: u16 = 1013;
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    pub caller: Caller,
    pub address: Option<IpAddr>,
    /// The client's own name, as it gave it as `?clientId=`, else random.
    pub name: String,
    /// Why its jobs are not listed, where others could have given its name.
    pub unlisted: Option<String>,
}

impl Peer {
    /// Of a caller that gave this `clientId`. Where no key tells whose jobs are whose, one that can be guessed is not taken: a
    /// random one stands in its place.
    ///
    /// # Errors
    /// `InvalidInput` for one that no client has.
    pub fn new(caller: Caller, address: Option<IpAddr>, given: Option<String>) -> Result<Self, Error> {
        let random = || Uuid::new_v4().simple().to_string();
        let Some(name) = given.filter(|name| !name.is_empty()) else {
            return Ok(Self { caller, address, name: random(), unlisted: None });
        };
        check_client_id(&name).map_err(Error::invalid)?;
        match check_unguessable(&name) {
            Err(why) if !caller.is_keyed() => {
                Ok(Self { caller, address, name: random(), unlisted: Some(why) })
            }
            _ => Ok(Self { caller, address, name, unlisted: None }),
        }
    }

    /// One whose name nobody knows.
    pub fn unnamed(caller: Caller, address: Option<IpAddr>) -> Self {
        Self { caller, address, name: Uuid::new_v4().simple().to_string(), unlisted: None }
    }
}

/// One WebSocket connection.
pub struct Client {
    connection: u64,
    /// The identity that jobs belong to: the client's name, with the owner of its key where there are keys. Several connections
    /// may share one.
    pub id: String,
    pub peer: Peer,
    pub outbox: Outbox,
    followed: Mutex<HashSet<Uuid>>,
}

impl Client {
    /// Queues a direct reply. `id` is the correlation id of the request.
    pub fn reply(&self, message: Value, id: Option<&Value>) {
        self.outbox.push(Self::answer(message, id));
    }

    /// The frame of a direct reply.
    pub fn answer(mut message: Value, id: Option<&Value>) -> Frame {
        if let (Some(id), Some(object)) = (id, message.as_object_mut()) {
            object.insert("id".into(), id.clone());
        }
        Frame::new(message.to_string())
    }

    /// Makes the events of a job come to this connection too.
    pub fn follow(&self, job: Uuid) {
        self.followed.lock().insert(job);
    }

    pub fn unfollow(&self, job: Uuid) {
        self.followed.lock().remove(&job);
    }
}

/// A client for as long as it hears of events.
pub struct Listener {
    hub: Arc<Hub>,
    pub client: Arc<Client>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.hub.disconnect(&self.client);
    }
}

/// The connections of this process. Every method queues and returns; none waits for a client.
pub struct Hub {
    pub config: config::Hub,
    clients: RwLock<HashMap<u64, Arc<Client>>>,
    next: AtomicU64,
    memory: Arc<Budget>,
    pub metrics: Arc<Metrics>,
}

impl Hub {
    pub fn new(config: config::Hub, memory: Arc<Budget>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { config, clients: RwLock::default(), next: AtomicU64::new(1), memory, metrics })
    }

    pub fn len(&self) -> usize {
        self.clients.read().len()
    }

    /// # Errors
    /// `Unavailable` when there are `hub.max_clients`.
    pub fn check_room(&self) -> Result<(), Error> {
        let limit = self.config.max_clients;
        if self.len() < limit {
            return Ok(());
        }
        let error = format!("{limit} clients are connected, the limit (hub.max_clients)");
        Err(Error::new(ErrorKind::Unavailable, error))
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sends a frame to every connection of one client. False when it has none.
    pub fn send(&self, client: &str, frame: Frame) -> bool {
        let clients = self.clients.read();
        let mut found = false;
        for connection in clients.values().filter(|c| c.id == client) {
            connection.outbox.push(frame.clone());
            found = true;
        }
        found
    }

    /// Sends a frame to every connection.
    pub fn broadcast(&self, frame: Frame) {
        for client in self.clients.read().values() {
            client.outbox.push(frame.clone());
        }
    }

    /// Sends an event of a job to its owner and to those that follow it, or to all that may see it under
    /// `hub.broadcast_job_events`.
    pub fn job_event(&self, job: Uuid, owner: Option<&str>, frame: Frame, last: bool) {
        for client in self.clients.read().values() {
            let follows = || {
                let mut followed = client.followed.lock();
                if last { followed.remove(&job) } else { followed.contains(&job) }
            };
            let shared = || self.config.broadcast_job_events && client.peer.caller.sees(owner);
            if owner == Some(client.id.as_str()) || follows() || shared() {
                client.outbox.push(frame.clone());
            }
        }
    }

    /// Closes every connection, as at the end of the process.
    pub fn close_all(&self, reason: &str) {
        for client in self.clients.read().values() {
            client.outbox.close(close_code::GOING_AWAY, reason);
        }
    }

    /// Closes the connections of callers that would not be let in any more.
    pub fn close_revoked(&self, access: &Access) {
        for client in self.clients.read().values().filter(|client| !access.is_current(&client.peer.caller)) {
            let reason = "the key of this connection was changed or revoked";
            client.outbox.close(close_code::POLICY_VIOLATION, reason);
        }
    }

    /// A client without a connection: what is sent to it waits to be read from its outbox.
    pub fn caller(&self, peer: Peer) -> Arc<Client> {
        Arc::new(self.client(0, peer))
    }

    /// A connection without a WebSocket, which hears what it follows for as long as it is kept.
    ///
    /// # Errors
    /// `Unavailable` when there are `hub.max_clients`.
    pub fn listen(self: &Arc<Self>, peer: Peer) -> Result<Listener, Error> {
        self.check_room()?;
        let client = self.client(self.next.fetch_add(1, Ordering::Relaxed), peer);
        let client = Arc::new(client);
        self.clients.write().insert(client.connection, client.clone());
        Ok(Listener { hub: self.clone(), client })
    }

    fn client(&self, connection: u64, peer: Peer) -> Client {
        let config::Hub { outbound_queue: frames, outbound_queue_bytes: bytes, .. } = self.config;
        let held = self.memory.nothing(Use::Frames);
        Client {
            connection,
            id: peer.caller.owner(Some(&peer.name)).unwrap_or_default(),
            peer,
            outbox: Outbox::new(Limits { frames, bytes, always: ALWAYS_BYTES }, held, self.metrics.clone()),
            followed: Mutex::default(),
        }
    }

    fn connect(&self, peer: Peer) -> Arc<Client> {
        let client = Arc::new(self.client(self.next.fetch_add(1, Ordering::Relaxed), peer));
        self.clients.write().insert(client.connection, client.clone());
        self.metrics.ws_clients.set(self.len() as i64);
        client
    }

    fn disconnect(&self, client: &Client) {
        self.clients.write().remove(&client.connection);
        self.metrics.ws_clients.set(self.len() as i64);
    }
}
