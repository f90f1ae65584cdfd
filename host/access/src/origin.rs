//! Origins of pages (RFC 6454) and authorities of requests, as browsers write them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A host of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    Address(IpAddr),
    /// In lower case, without a dot at its end.
    Name(String),
}

impl Host {
    /// Reads a host as it stands in an address: IPv6 in brackets.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(inner) = text.strip_prefix('[') {
            let six: Ipv6Addr = inner.strip_suffix(']')?.parse().ok()?;
            return Some(Self::Address(six.into()));
        }
        // What browsers take for an address in another notation, such as 127.1, reaches a server as four numbers.
        if let Ok(four) = text.parse::<Ipv4Addr>() {
            return Some(Self::Address(four.into()));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        let label = |label: &str| !label.is_empty() && label.bytes().all(plain);
        if name.len() > 253 || !name.split('.').all(label) {
            return None;
        }
        Some(Self::Name(name.to_ascii_lowercase()))
    }

    /// Whether it means this machine, whatever a name server says.
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Address(address) => address.to_canonical().is_loopback(),
            Self::Name(name) => name == "localhost" || name.ends_with(".localhost"),
        }
    }
}

/// `HOST` or `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    pub host: Host,
    pub port: Option<u16>,
}

impl Authority {
    /// Reads what a `Host` header holds.
    pub fn parse(text: &str) -> Option<Self> {
        let host_ends = match text.strip_prefix('[') {
            Some(_) => text.find(']')? + 1,
            None => text.find(':').unwrap_or(text.len()),
        };
        let (host, rest) = text.split_at(host_ends);
        let port = match rest.strip_prefix(':') {
            Some(digits) => Some(port(digits)?),
            None if rest.is_empty() => None,
            None => return None,
        };
        Some(Self { host: Host::parse(host)?, port })
    }
}

/// Digits alone: no sign and no space.
fn port(digits: &str) -> Option<u16> {
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

/// `SCHEME://HOST` or `SCHEME://HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub scheme: String,
    pub host: Host,
    /// The scheme's own unless given.
    pub port: Option<u16>,
}

impl Origin {
    /// Reads what an `Origin` header holds. `null` is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
        if !scheme.bytes().next().is_some_and(|b| b.is_ascii_alphabetic()) || !scheme.bytes().all(plain) {
            return None;
        }
        let scheme = scheme.to_ascii_lowercase();
        let Authority { host, port } = Authority::parse(authority)?;
        let port = port.or_else(|| default_port(&scheme));
        Some(Self { scheme, host, port })
    }

    /// Whether its pages were served by who is asked as `authority`.
    pub fn is_of(&self, authority: &Authority) -> bool {
        let port = authority.port.or_else(|| default_port(&self.scheme));
        matches!(&*self.scheme, "http" | "https") && self.host == authority.host && self.port == port
    }

    /// The same where both name this machine, by whichever name.
    pub fn is_same_loopback(&self, authority: &Authority) -> bool {
        let port = authority.port.or_else(|| default_port(&self.scheme));
        let http = matches!(&*self.scheme, "http" | "https");
        http && self.host.is_loopback() && authority.host.is_loopback() && self.port == port
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" | "ws" => Some(80),
        "https" | "wss" => Some(443),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_browsers_write_is_read() {
        for (text, host, port) in [
            ("localhost", Host::Name("localhost".into()), None),
            ("LOCALHOST.:8000", Host::Name("localhost".into()), Some(8000)),
            ("127.0.0.1:1", Host::Address([127, 0, 0, 1].into()), Some(1)),
            ("[::1]:65535", Host::Address(Ipv6Addr::LOCALHOST.into()), Some(65535)),
            ("a-b.example_c.de", Host::Name("a-b.example_c.de".into()), None),
        ] {
            assert_eq!(Authority::parse(text), Some(Authority { host, port }), "{text}");
        }
        let evil = [
            "",
            ":80",
            "a:",
            "a:+1",
            "a:65536",
            "a: 1",
            "a b",
            "a@b",
            "a/b",
            "[::1",
            "::1",
            "[::1]x",
            "a..b",
            ".",
            "a:1:2",
            "é.de",
            "[127.0.0.1]",
            "a\tb",
            "a,b",
            "127.0.0.1 ",
        ];
        for text in evil {
            assert_eq!(Authority::parse(text), None, "{text}");
            assert_eq!(Origin::parse(&format!("http://{text}")), None, "{text}");
        }
        for text in
            ["null", "http:/a", "://a", "1http://a", "http://a/", "http://a#", "http://a?b", "file://"]
        {
            assert_eq!(Origin::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_own_page_is_told_from_others() {
        let at = |text| Authority::parse(text).unwrap();
        let from = |text| Origin::parse(text).unwrap();
        for (origin, host, own, loopback) in [
            ("http://a.de", "a.de", true, false),
            ("http://a.de", "a.de:80", true, false),
            ("https://a.de", "a.de", true, false),
            ("https://a.de", "a.de:80", false, false),
            ("http://a.de:8000", "a.de:8000", true, false),
            ("http://b.de:8000", "a.de:8000", false, false),
            ("http://a.de.b.de", "a.de", false, false),
            ("ftp://a.de:8000", "a.de:8000", false, false),
            ("http://localhost:8000", "127.0.0.1:8000", false, true),
            ("http://[::1]:8000", "localhost:8000", false, true),
            ("http://localhost:3000", "localhost:8000", false, false),
            ("http://localhost.evil.de:8000", "localhost:8000", false, false),
            ("http://127.0.0.1.evil.de:8000", "127.0.0.1:8000", false, false),
            ("http://[::ffff:127.0.0.1]:8000", "127.0.0.1:8000", false, true),
        ] {
            let (origin, host) = (from(origin), at(host));
            assert_eq!(
                (origin.is_of(&host), origin.is_same_loopback(&host) && !origin.is_of(&host)),
                (own, loopback),
                "{origin:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(text in "\\PC{0,60}") {
            let _ = (Authority::parse(&text), Origin::parse(&text));
        }

        #[test]
        fn an_authority_survives_being_written(name in "[a-z0-9_-]{1,20}(\\.[a-z][a-z0-9-]{0,10}){0,3}", port in proptest::option::of(1u16..)) {
            prop_assume!(name.parse::<Ipv4Addr>().is_err());
            let written = port.map_or(name.clone(), |port| format!("{name}:{port}"));
            prop_assert_eq!(Authority::parse(&written), Some(Authority { host: Host::Name(name), port }));
        }

        #[test]
        fn nothing_but_loopback_is_loopback(name in "[a-z0-9.:\\[\\]-]{1,30}") {
            if let Some(host) = Host::parse(&name) && host.is_loopback() {
                let known = name.trim_end_matches('.');
                prop_assert!(known == "localhost" || known.ends_with(".localhost") || matches!(host, Host::Address(_)));
            }
        }

        #[test]
        fn a_page_of_another_host_is_never_own(a in "[a-z]{1,8}(\\.[a-z]{1,8}){0,2}", b in "[a-z]{1,8}(\\.[a-z]{1,8}){0,2}", port in 1u16..) {
            prop_assume!(a != b);
            let origin = Origin::parse(&format!("http://{a}:{port}")).unwrap();
            let asked = Authority::parse(&format!("{b}:{port}")).unwrap();
            prop_assert!(!origin.is_of(&asked));
            if origin.is_same_loopback(&asked) {
                prop_assert!(origin.host.is_loopback() && asked.host.is_loopback());
            }
        }
    }
}
