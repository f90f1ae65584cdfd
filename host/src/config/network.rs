//! What the server's connections may take.

use std::path::Path;

use reverie_net::Limits;

use super::{Server, seconds};

/// Bytes that a request's line and headers may have at least and at most.
const HEADER_BYTES: std::ops::RangeInclusive<usize> = 4096..=1 << 20;
const HEADERS: std::ops::RangeInclusive<usize> = 16..=10_000;

impl Server {
    pub fn limits(&self) -> Limits {
        Limits {
            connections: self.max_connections,
            connections_per_address: self.max_connections_per_address,
            reserved_descriptors: self.reserved_descriptors,
            handshake: seconds(self.tls.handshake_timeout_s),
            head: seconds(self.header_timeout_s),
            body: seconds(self.body_timeout_s),
            body_bytes_per_s: self.min_body_bytes_per_s,
            write: seconds(self.write_timeout_s),
            idle: seconds(self.keep_alive_timeout_s),
            head_bytes: self.max_header_bytes,
            headers: self.max_headers,
        }
    }

    /// Certificate and key, where TLS is served.
    ///
    /// # Errors
    /// When only one of them is set.
    pub fn tls_files(&self) -> Result<Option<(&Path, &Path)>, String> {
        let (cert, key) = (&self.tls.cert, &self.tls.key);
        match (cert.as_os_str().is_empty(), key.as_os_str().is_empty()) {
            (true, true) => Ok(None),
            (false, false) => Ok(Some((cert, key))),
            _ => Err("server.tls: cert and key go together: set both, or none".into()),
        }
    }

    pub(super) fn check_network(&self) -> Result<(), String> {
        for (key, value) in [
            ("server.max_connections", self.max_connections),
            ("server.max_connections_per_address", self.max_connections_per_address),
        ] {
            if value == 0 {
                return Err(format!("{key} = 0: must be at least 1"));
            }
        }
        for (key, value) in [
            ("server.header_timeout_s", self.header_timeout_s),
            ("server.body_timeout_s", self.body_timeout_s),
            ("server.write_timeout_s", self.write_timeout_s),
            ("server.keep_alive_timeout_s", self.keep_alive_timeout_s),
            ("server.tls.handshake_timeout_s", self.tls.handshake_timeout_s),
        ] {
            if !(0.05..=86400.0).contains(&value) {
                return Err(format!("{key} = {value}: must be a number of seconds from 0.05 to 86400"));
            }
        }
        for (key, value, range) in [
            ("server.max_header_bytes", self.max_header_bytes, HEADER_BYTES),
            ("server.max_headers", self.max_headers, HEADERS),
        ] {
            if !range.contains(&value) {
                return Err(format!("{key} = {value}: must be from {} to {}", range.start(), range.end()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Sources, load};

    fn with(set: &[&str]) -> Result<super::Limits, String> {
        let set = set.iter().map(|text| text.to_string()).collect();
        load(&Sources { set, ..Sources::default() }).map(|config| config.server.limits())
    }

    #[test]
    fn the_defaults_are_those_of_the_network() {
        assert_eq!(format!("{:?}", with(&[]).unwrap()), format!("{:?}", super::Limits::default()));
    }

    #[test]
    fn errors_name_the_key_and_what_is_accepted() {
        for (set, part) in [
            ("server.max_connections=0", "server.max_connections = 0: must be at least 1"),
            (
                "server.header_timeout_s=0",
                "server.header_timeout_s = 0: must be a number of seconds from 0.05",
            ),
            ("server.tls.handshake_timeout_s=-1", "server.tls.handshake_timeout_s = -1"),
            ("server.max_header_bytes=100", "server.max_header_bytes = 100: must be from 4096"),
            ("server.max_headers=0", "server.max_headers = 0: must be from 16"),
        ] {
            let error = with(&[set]).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        // Each by itself is no mistake: they come one after the other.
        let set = vec!["server.tls.cert=a.pem".to_owned()];
        let config = load(&Sources { set, ..Sources::default() }).unwrap();
        assert!(config.server.tls_files().unwrap_err().contains("cert and key go together"));
    }
}
