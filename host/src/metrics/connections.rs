//! Figures of the network's connections.

use parking_lot::Mutex;
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};
use reverie_net::Figures;

pub struct Connections {
    open: IntGaugeVec,
    ended: IntCounterVec,
    told: Mutex<Figures>,
}

impl Connections {
    pub fn new(registry: &Registry) -> Self {
        let open = Opts::new(
            "reverie_connections",
            "Network connections by what they do, and how many there may be.",
        );
        let open = IntGaugeVec::new(open, &["state"]).expect("valid name");
        let ended = Opts::new(
            "reverie_connections_total",
            "Network connections that were accepted, and that the server refused or closed, by why.",
        );
        let ended = IntCounterVec::new(ended, &["event"]).expect("valid name");
        registry.register(Box::new(open.clone())).expect("registered once");
        registry.register(Box::new(ended.clone())).expect("registered once");
        Self { open, ended, told: Mutex::default() }
    }

    /// Sets them to what was found.
    pub fn are(&self, found: Figures) {
        let mut told = self.told.lock();
        for (label, count) in [
            ("limit", found.limit),
            ("open", found.open),
            ("idle", found.idle),
            ("websocket", found.upgraded),
        ] {
            self.open.with_label_values(&[label]).set(count as i64);
        }
        for (label, before, now) in [
            ("accepted", told.accepted, found.accepted),
            ("refused_all", told.refused, found.refused),
            ("refused_address", told.refused_of_address, found.refused_of_address),
            ("evicted", told.evicted, found.evicted),
            ("handshake_failed", told.handshakes_failed, found.handshakes_failed),
            ("timeout_handshake", told.timed_out.handshake, found.timed_out.handshake),
            ("timeout_header", told.timed_out.head, found.timed_out.head),
            ("timeout_body", told.timed_out.body, found.timed_out.body),
            ("timeout_write", told.timed_out.write, found.timed_out.write),
            ("timeout_idle", told.timed_out.idle, found.timed_out.idle),
        ] {
            // Two may have looked at the same time, and come here in the other order.
            self.ended.with_label_values(&[label]).inc_by(now.saturating_sub(before));
        }
        if found.accepted >= told.accepted {
            *told = found;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_twice_counts_once() {
        let connections = Connections::new(&Registry::new());
        for accepted in [3, 3, 5] {
            connections.are(Figures { open: 2, accepted, ..Figures::default() });
        }
        assert_eq!(connections.ended.with_label_values(&["accepted"]).get(), 5);
        assert_eq!(connections.open.with_label_values(&["open"]).get(), 2);
    }
}
