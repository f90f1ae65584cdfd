//! As much of URLs as a client of HTTP needs: their parts, and what a `Location` means.

use crate::Error;

/// An absolute URL of HTTP, in the parts that a request is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    pub secure: bool,
    /// Host and, where it is given, port.
    pub authority: String,
    /// Begins with `/`; without a fragment.
    pub path: String,
}

impl Url {
    /// # Errors
    /// `invalid-input` for anything but an `http://` or `https://` URL.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let wrong = || {
            Error::invalid_input(format!(
                "'{text}' is not a URL: accepted are http://HOST[:PORT]/PATH and https://HOST[:PORT]/PATH"
            ))
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err(wrong()),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.is_empty() || authority.contains('@') || text.contains(char::is_whitespace) {
            return Err(wrong());
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { secure, authority: authority.to_owned(), path })
    }

    /// What a `Location` in this URL's answer points to.
    ///
    /// # Errors
    /// `invalid-input` where that is no URL of HTTP.
    pub fn join(&self, location: &str) -> Result<Self, Error> {
        let location = location.split('#').next().unwrap_or_default();
        if let Some(rest) = location.strip_prefix("//") {
            return Self::parse(&format!("{}://{rest}", self.scheme()));
        }
        let own_path = self.path.split('?').next().unwrap_or_default();
        let path = match location.bytes().next() {
            None => return Ok(self.clone()),
            Some(b'/') => location.to_owned(),
            Some(b'?') => format!("{own_path}{location}"),
            // A colon before the first slash ends a scheme.
            _ if location.split(['/', '?']).next().is_some_and(|first| first.contains(':')) => {
                return Self::parse(location);
            }
            _ => format!("{}{location}", &own_path[..=own_path.rfind('/').unwrap_or(0)]),
        };
        Ok(Self { path: without_dots(&path), ..self.clone() })
    }

    pub fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }

    /// Whether both are of one server.
    pub fn same_origin(&self, other: &Self) -> bool {
        self.secure == other.secure && self.authority.eq_ignore_ascii_case(&other.authority)
    }
}

impl std::fmt::Display for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}{}", self.scheme(), self.authority, self.path)
    }
}

/// A path with its `.` and `..` taken as what they mean; the query stays as it is.
fn without_dots(path: &str) -> String {
    let (path, query) = path.split_at(path.find('?').unwrap_or(path.len()));
    let mut kept: Vec<&str> = Vec::new();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    for (i, segment) in segments.iter().enumerate() {
        let last = i + 1 == segments.len();
        match *segment {
            "." | ".." => {
                if *segment == ".." {
                    kept.pop();
                }
                if last {
                    kept.push("");
                }
            }
            segment => kept.push(segment),
        }
    }
    format!("/{}{query}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_its_parts() {
        let url = Url::parse("HTTPS://example.org:8443?q=1#top").unwrap();
        assert_eq!(
            (url.secure, url.authority.as_str(), url.path.as_str()),
            (true, "example.org:8443", "/?q=1")
        );
        for wrong in ["example.org", "ftp://example.org/", "http://", "http://user@host/", "http://a b/"] {
            assert!(Url::parse(wrong).unwrap_err().message.contains("accepted"), "{wrong}");
        }
    }

    #[test]
    fn a_location_is_joined() {
        let url = Url::parse("http://a:1/b/c?d").unwrap();
        for (location, joined) in [
            ("https://e/f", "https://e/f"),
            ("//e/f", "http://e/f"),
            ("/f?g", "http://a:1/f?g"),
            ("f", "http://a:1/b/f"),
            ("../f/./g", "http://a:1/f/g"),
            ("..", "http://a:1/"),
            ("?h", "http://a:1/b/c?h"),
            ("#i", "http://a:1/b/c?d"),
        ] {
            assert_eq!(url.join(location).unwrap().to_string(), joined, "{location}");
        }
        assert!(url.join("mailto:x@y").is_err());
    }
}
