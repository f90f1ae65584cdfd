//! All connections: how many there may be, and which go to make room for others.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::{
    connection::{Connection, Phase},
    figures::{Counters, Figures},
    limits::Limits,
};

/// The part of the connections that goes at once to make room: looking at all of them has its cost.
const EVICTED_PART: usize = 64;
/// The end of an answer may be about to go out before that: what has waited for less does not go.
const SHORTEST_WAIT: Duration = Duration::from_millis(10);

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    Full,
    AddressFull,
}

/// The connections of a server.
pub struct Table {
    pub limits: Limits,
    pub counters: Counters,
    /// Connections that are told why they are refused.
    pub refusals: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    connections: HashMap<u64, (IpAddr, Arc<Connection>)>,
    of_address: HashMap<IpAddr, usize>,
    next: u64,
    /// The most there were since that was last asked.
    most: usize,
    /// When nothing was found that could go, and for whom.
    nothing_to_evict: Option<(Instant, Option<IpAddr>)>,
}

impl State {
    fn remove(&mut self, id: u64) -> Option<Arc<Connection>> {
        let (address, connection) = self.connections.remove(&id)?;
        if let Some(count) = self.of_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.of_address.remove(&address);
            }
        }
        // A flood does not keep its memory.
        if self.connections.capacity() > 256 && self.connections.len() < self.connections.capacity() / 8 {
            self.connections.shrink_to_fit();
        }
        Some(connection)
    }
}

/// A connection's place, which is free again when this is dropped.
pub struct Place {
    pub connection: Arc<Connection>,
    table: Arc<Table>,
    id: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.table.state.lock().remove(self.id);
    }
}

impl Table {
    pub fn new(limits: Limits) -> Arc<Self> {
        let (counters, refusals) = (Counters::default(), AtomicUsize::new(0));
        Arc::new(Self { limits, counters, refusals, state: Mutex::default() })
    }

    /// A place for a connection from `peer`. Where all are taken, those that wait for a request go: those first that have had
    /// one, and of these those that wait the longest.
    ///
    /// # Errors
    /// Why there is none.
    pub fn admit(self: &Arc<Self>, peer: IpAddr, phase: Phase) -> Result<Place, Refused> {
        let address = network(peer);
        let mut state = self.state.lock();
        let full_for = |state: &State| {
            let of_address = state.of_address.get(&address).copied().unwrap_or_default();
            match () {
                () if of_address >= self.limits.connections_per_address => Some(Refused::AddressFull),
                () if state.connections.len() >= self.limits.connections => Some(Refused::Full),
                () => None,
            }
        };
        if let Some(refused) = full_for(&state) {
            self.evict(&mut state, (refused == Refused::AddressFull).then_some(address));
            if let Some(refused) = full_for(&state) {
                let counter = match refused {
                    Refused::Full => &self.counters.refused,
                    Refused::AddressFull => &self.counters.refused_of_address,
                };
                counter.fetch_add(1, Relaxed);
                return Err(refused);
            }
        }
        let id = state.next;
        state.next += 1;
        let connection = Arc::new(Connection::new(phase));
        state.connections.insert(id, (address, connection.clone()));
        *state.of_address.entry(address).or_default() += 1;
        state.most = state.most.max(state.connections.len());
        self.counters.accepted.fetch_add(1, Relaxed);
        Ok(Place { connection, table: self.clone(), id })
    }

    /// Ends some of the connections that wait for a request, so that others find descriptors.
    pub fn make_room(&self) {
        self.evict(&mut self.state.lock(), None);
    }

    fn evict(&self, state: &mut State, of: Option<IpAddr>) {
        let recent = |(at, whose): (Instant, Option<IpAddr>)| whose == of && at.elapsed() < SHORTEST_WAIT;
        if state.nothing_to_evict.is_some_and(recent) {
            return;
        }
        let candidates =
            state.connections.iter().filter(|(_, (address, _))| of.is_none_or(|of| of == *address));
        let mut waiting: Vec<_> = candidates
            .filter_map(|(id, (_, connection))| {
                let (had_request, since) = connection.waits_for_request()?;
                (!had_request || since.elapsed() >= SHORTEST_WAIT).then_some((!had_request, since, *id))
            })
            .collect();
        if waiting.is_empty() {
            state.nothing_to_evict = Some((Instant::now(), of));
            return;
        }
        waiting.sort_unstable();
        let part = match of {
            Some(_) => self.limits.connections_per_address.min(self.limits.connections),
            None => self.limits.connections,
        };
        for (.., id) in waiting.into_iter().take((part / EVICTED_PART).max(1)) {
            if let Some(connection) = state.remove(id) {
                connection.end();
                self.counters.evicted.fetch_add(1, Relaxed);
            }
        }
    }

    /// The most connections at once since this was last called, and how many there are.
    pub fn most(&self) -> (usize, usize) {
        let mut state = self.state.lock();
        let open = state.connections.len();
        (std::mem::replace(&mut state.most, open), open)
    }

    /// Ends what has had its time.
    pub fn sweep(&self) {
        // Apart from the lock, which every connection's end takes.
        let all: Vec<_> =
            self.state.lock().connections.values().map(|(_, connection)| connection.clone()).collect();
        let now = Instant::now();
        for connection in all {
            if let Some(overdue) = connection.sweep(&self.limits, now) {
                self.counters.timed_out(overdue);
            }
        }
    }

    pub fn figures(&self) -> Figures {
        let mut figures = Figures { limit: self.limits.connections, ..self.counters.figures() };
        for (_, connection) in self.state.lock().connections.values() {
            figures.open += 1;
            match connection.phase() {
                Phase::Idle => figures.idle += 1,
                Phase::Upgraded => figures.upgraded += 1,
                _ => {}
            }
        }
        figures
    }
}

/// What counts as one address: whoever has an IPv6 address has its whole /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(connections: usize, connections_per_address: usize) -> Arc<Table> {
        Table::new(Limits { connections, connections_per_address, ..Limits::default() })
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn refused(table: &Arc<Table>, peer: &str) -> Option<Refused> {
        table.admit(address(peer), Phase::Request).err()
    }

    #[test]
    fn an_address_is_an_ipv4_address_or_an_ipv6_network() {
        let table = table(100, 1);
        let _places = ["192.0.2.1", "192.0.2.2", "2001:db8:0:1::1", "2001:db8:0:2::1"]
            .map(|peer| table.admit(address(peer), Phase::Request).ok().unwrap());
        for peer in ["192.0.2.1", "::ffff:192.0.2.2", "2001:db8:0:1:ffff::2", "2001:db8:0:2::1"] {
            assert_eq!(refused(&table, peer), Some(Refused::AddressFull), "{peer}");
        }
        assert_eq!(refused(&table, "2001:db8:0:3::1"), None);
        assert_eq!(table.figures().refused_of_address, 4);
    }

    #[test]
    fn places_are_given_back() {
        let table = table(2, 2);
        let places: Vec<_> =
            (0..2).map(|_| table.admit(address("::1"), Phase::Request).ok().unwrap()).collect();
        assert_eq!(refused(&table, "192.0.2.1"), Some(Refused::Full));
        drop(places);
        assert_eq!((refused(&table, "192.0.2.1"), table.figures().open), (None, 0));
        assert!(table.state.lock().of_address.is_empty());
        assert_eq!((table.most(), table.most()), ((2, 0), (0, 0)));
    }

    #[tokio::test]
    async fn the_oldest_that_is_idle_goes_first() {
        let table = table(4, 4);
        let peer = address("192.0.2.1");
        let [new, first, second, busy] =
            [Phase::Head, Phase::Idle, Phase::Idle, Phase::Request].map(|phase| {
                std::thread::sleep(Duration::from_millis(2));
                table.admit(peer, phase).ok().unwrap()
            });
        tokio::time::sleep(SHORTEST_WAIT).await;
        let mut more = Vec::new();
        for gone in [&first, &second, &new] {
            more.push(table.admit(peer, Phase::Request).ok().unwrap());
            gone.connection.ended().await;
        }
        assert_eq!(refused(&table, "192.0.2.1"), Some(Refused::AddressFull));
        assert_eq!((table.figures().evicted, table.figures().open), (3, 4));
        drop((new, first, second, busy, more));
        assert_eq!(table.figures().open, 0);
    }

    #[tokio::test]
    async fn an_address_makes_room_for_itself_alone() {
        let table = table(10, 1);
        let other = table.admit(address("192.0.2.1"), Phase::Idle).ok().unwrap();
        let own = table.admit(address("192.0.2.2"), Phase::Idle).ok().unwrap();
        tokio::time::sleep(SHORTEST_WAIT).await;
        let _new = table.admit(address("192.0.2.2"), Phase::Request).ok().unwrap();
        own.connection.ended().await;
        assert_eq!((table.figures().open, table.figures().idle), (2, 1));
        drop(other);
    }
}
