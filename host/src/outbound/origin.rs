//! Origins: what the operator lists and what a plugin asks for.

use std::{fmt, net::IpAddr};

use warp::http::Uri;

/// What is spoken with a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
    Ws,
    Wss,
}

impl Scheme {
    /// Whether TLS is spoken below.
    pub fn secure(self) -> bool {
        matches!(self, Self::Https | Self::Wss)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }

    fn default_port(self) -> u16 {
        if self.secure() { 443 } else { 80 }
    }
}

/// Scheme, host and port of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub scheme: Scheme,
    /// In lower case; an IPv6 address without brackets.
    pub host: String,
    pub port: u16,
}

impl Origin {
    /// That of a URL.
    ///
    /// # Errors
    /// What is wrong with it and what is accepted.
    pub fn of(url: &Uri) -> Result<Self, String> {
        let wrong = || {
            format!("'{url}' is not accepted: expected is SCHEME://HOST[:PORT] with http, https, ws or wss")
        };
        let scheme = match url.scheme_str().map(str::to_ascii_lowercase).as_deref() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            Some("ws") => Scheme::Ws,
            Some("wss") => Scheme::Wss,
            _ => return Err(wrong()),
        };
        let authority = url.authority().ok_or_else(wrong)?;
        if authority.as_str().contains('@') {
            return Err(wrong());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        // An absolute name's final dot does not make it another one.
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        // Addresses have many spellings.
        let host = host.parse::<IpAddr>().map_or(host, |address| address.to_string());
        let port = match authority.as_str()[authority.host().len()..].strip_prefix(':') {
            None | Some("") => scheme.default_port(),
            Some(port) => port.parse().map_err(|_| wrong())?,
        };
        match host.is_empty() || port == 0 {
            true => Err(wrong()),
            false => Ok(Self { scheme, host, port }),
        }
    }

    /// An entry of an operator's list: an origin and nothing more.
    ///
    /// # Errors
    /// What is wrong with it and what is accepted.
    pub fn listed(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "'{text}' is not an origin: accepted is SCHEME://HOST[:PORT], such as http://127.0.0.1:8188"
            )
        };
        let url: Uri = text.parse().map_err(|_| wrong())?;
        if !matches!(url.path(), "" | "/") || url.query().is_some() {
            return Err(wrong());
        }
        Self::of(&url).map_err(|_| wrong())
    }

    /// Whether an entry of the list covers a server: HTTP's covers WebSocket on the same host and port, for both begin alike.
    pub fn covers(&self, target: &Self) -> bool {
        let scheme = self.scheme == target.scheme
            || matches!(
                (self.scheme, target.scheme),
                (Scheme::Http, Scheme::Ws) | (Scheme::Https, Scheme::Wss)
            );
        scheme && self.host == target.host && self.port == target.port
    }

    /// The host where it is an address.
    pub fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "{}://[{}]:{}", self.scheme.name(), self.host, self.port),
            false => write!(f, "{}://{}:{}", self.scheme.name(), self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str) -> Result<Origin, String> {
        Origin::of(&url.parse().unwrap())
    }

    #[test]
    fn spellings_of_one_origin_are_one() {
        for (url, origin) in [
            ("HTTP://Example.ORG./a?b", "http://example.org:80"),
            ("wss://example.org", "wss://example.org:443"),
            ("http://[0:0::1]:8188/", "http://[::1]:8188"),
            ("https://[::1]", "https://[::1]:443"),
        ] {
            assert_eq!(of(url).unwrap().to_string(), origin);
        }
        for wrong in ["ftp://a/", "/path", "http://user@a/"] {
            assert!(of(wrong).unwrap_err().contains("expected"), "{wrong}");
        }
    }

    #[test]
    fn an_entry_is_an_origin_and_covers_no_other() {
        for wrong in
            ["example.org", "http://a/b", "http://a/?q", "file:///etc", "http://a b", "http://a:99999"]
        {
            assert!(Origin::listed(wrong).unwrap_err().contains("accepted"), "{wrong}");
        }
        let entry = Origin::listed("http://a:8188/").unwrap();
        for (url, covered) in [
            ("http://a:8188/x", true),
            ("ws://A:8188/ws", true),
            ("http://a/", false),
            ("https://a:8188/", false),
            ("wss://a:8188/", false),
            ("http://b:8188/", false),
        ] {
            assert_eq!(entry.covers(&of(url).unwrap()), covered, "{url}");
        }
        assert!(!Origin::listed("ws://a").unwrap().covers(&of("http://a").unwrap()));
    }
}
