//! Which websites may drive the server through their visitors' browsers: by default none but its own pages.

use crate::origin::{Authority, Host, Origin};

/// Content types that a page may post anywhere without asking first. Multipart ones are of use to old clients, which send an
/// `Origin` where they are pages.
const SIMPLE: &[&str] = &["text/plain", "application/x-www-form-urlencoded"];

/// What a request says of where it comes from and goes to.
#[derive(Debug, Default, Clone, Copy)]
pub struct Asked<'a> {
    /// Whether its method may change something: none of GET, HEAD and OPTIONS.
    pub changes: bool,
    pub host: Option<&'a str>,
    pub origin: Option<&'a str>,
    pub fetch_site: Option<&'a str>,
    pub content_type: Option<&'a str>,
    pub user_agent: Option<&'a str>,
}

/// Why a request is refused.
#[derive(Debug, PartialEq, Eq)]
pub enum Denied {
    Host(String),
    Origin(String),
    /// By what the browser says of the page.
    CrossSite,
    ContentType(String),
}

impl Denied {
    /// What was wrong, and what is accepted.
    pub fn message(&self) -> String {
        match self {
            Self::Host(host) => format!(
                "the host '{}' is none of this server's: add it to server.hosts, or ask by address or as localhost",
                shown(host)
            ),
            Self::Origin(origin) => format!(
                "origin '{}' is neither this server's own nor in server.allowed_origins",
                shown(origin)
            ),
            Self::CrossSite => {
                "a page of another site may not do this: add its origin to server.allowed_origins".into()
            }
            Self::ContentType(kind) => format!(
                "content type '{}' from a browser without an Origin is not accepted: send application/json or \
                 multipart/form-data",
                shown(kind)
            ),
        }
    }
}

fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

/// Whose pages may call, and under which names.
#[derive(Debug, Clone, Default)]
pub struct Site {
    any_origin: bool,
    origins: Vec<Origin>,
    any_host: bool,
    hosts: Vec<Host>,
}

impl Site {
    /// Of `server.allowed_origins`, `server.hosts` and `server.host`. What can't be read never matches.
    pub fn new(origins: &[String], hosts: &[String], bound: &str) -> Self {
        let read = |host: &String| {
            let host = host.split_once("://").map_or(&**host, |(_, authority)| authority);
            Authority::parse(host).map(|authority| authority.host)
        };
        Self {
            any_origin: origins.iter().any(|origin| origin == "*"),
            origins: origins
                .iter()
                .filter_map(|origin| Origin::parse(origin.trim_end_matches('/')))
                .collect(),
            any_host: hosts.iter().any(|host| host == "*"),
            hosts: hosts.iter().chain([&bound.to_owned()]).filter_map(read).collect(),
        }
    }

    /// Whether a request may go on.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, asked: Asked<'_>) -> Result<(), Denied> {
        let host = match asked.host {
            // No browser leaves it out.
            None => None,
            Some(host) => Some(self.host(host).ok_or_else(|| Denied::Host(host.to_owned()))?),
        };
        if let Some(origin) = asked.origin {
            let allowed = self.origin(origin, host.as_ref());
            return if allowed { Ok(()) } else { Err(Denied::Origin(origin.to_owned())) };
        }
        if !asked.changes {
            return Ok(());
        }
        // Pages of other ports of this machine are "same-site".
        if !self.any_origin && matches!(asked.fetch_site, Some("cross-site" | "same-site")) {
            return Err(Denied::CrossSite);
        }
        // Browsers too old to say where a form is from.
        let essence = asked.content_type.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
        let simple = SIMPLE.iter().any(|kind| kind.eq_ignore_ascii_case(essence));
        let browser = asked.fetch_site.is_none()
            && asked.user_agent.is_some_and(|agent| agent.trim_start().starts_with("Mozilla/"));
        if simple && browser && !self.any_origin {
            return Err(Denied::ContentType(essence.to_owned()));
        }
        Ok(())
    }

    /// The host as it was read, where it is one of this server's. An address is: a name server can make a foreign name mean this
    /// machine, but no address.
    fn host(&self, text: &str) -> Option<Authority> {
        let authority = Authority::parse(text);
        if self.any_host {
            return authority.or(Some(Authority { host: Host::Name(String::new()), port: None }));
        }
        authority.filter(|authority| {
            matches!(authority.host, Host::Address(_))
                || authority.host.is_loopback()
                || self.hosts.contains(&authority.host)
        })
    }

    fn origin(&self, text: &str, host: Option<&Authority>) -> bool {
        if self.any_origin {
            return true;
        }
        let Some(origin) = Origin::parse(text) else { return false };
        self.origins.contains(&origin)
            || host.is_some_and(|host| origin.is_of(host) || origin.is_same_loopback(host))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OWN: Asked<'static> = Asked {
        changes: true,
        host: Some("127.0.0.1:8000"),
        origin: None,
        fetch_site: None,
        content_type: Some("application/json"),
        user_agent: None,
    };

    fn site() -> Site {
        Site::new(&["https://page.example".into()], &["gpu.lan".into()], "0.0.0.0")
    }

    #[test]
    fn pages_of_the_server_and_those_listed_may_call() {
        for origin in [
            "http://127.0.0.1:8000",
            "http://localhost:8000",
            "http://[::1]:8000",
            "https://page.example",
            "https://PAGE.example:443",
        ] {
            assert_eq!(site().check(Asked { origin: Some(origin), ..OWN }), Ok(()), "{origin}");
        }
        for origin in [
            "null",
            "",
            "http://evil.example",
            "http://page.example",
            "https://page.example.evil",
            "http://127.0.0.1:3000",
            "http://gpu.lan:8000",
            "https://page.example:444",
        ] {
            for changes in [true, false] {
                let asked = Asked { origin: Some(origin), changes, ..OWN };
                assert_eq!(site().check(asked), Err(Denied::Origin(origin.into())), "{origin}");
            }
        }
        let any = Site::new(&["*".into()], &[], "127.0.0.1");
        assert_eq!(any.check(Asked { origin: Some("null"), ..OWN }), Ok(()));
        // What an operator writes with a slash is meant all the same.
        let slash = Site::new(&["https://a.example/".into()], &[], "127.0.0.1");
        assert_eq!(slash.check(Asked { origin: Some("https://a.example"), ..OWN }), Ok(()));
    }

    #[test]
    fn names_that_a_name_server_could_turn_are_refused() {
        for host in
            ["localhost", "LocalHost.:8000", "[::1]:8000", "192.168.1.5:8000", "gpu.lan:8000", "a.localhost"]
        {
            assert_eq!(site().check(Asked { host: Some(host), ..OWN }), Ok(()), "{host}");
        }
        for host in [
            "evil.example:8000",
            "localhost.evil.example",
            "gpu.lan.evil.example",
            "127.1",
            "2130706433",
            "",
            "a b",
        ] {
            let asked = Asked { host: Some(host), ..OWN };
            assert_eq!(site().check(asked), Err(Denied::Host(host.into())), "{host}");
            // Its own page, which it is in the browser's eyes, changes nothing.
            let origin = format!("http://{host}");
            assert!(site().check(Asked { origin: Some(&origin), ..asked }).is_err(), "{host}");
        }
        let bound = Site::new(&[], &["https://page.example:1".into()], "box.example");
        for host in ["box.example:1", "page.example"] {
            assert_eq!(bound.check(Asked { host: Some(host), ..OWN }), Ok(()), "{host}");
        }
        assert_eq!(Site::new(&[], &["*".into()], "").check(Asked { host: Some("x.y"), ..OWN }), Ok(()));
    }

    #[test]
    fn a_form_of_another_page_changes_nothing() {
        let browser = Some("Mozilla/5.0 (X11; Linux) Gecko/20100101 Firefox/52.0");
        for (fetch_site, user_agent, content_type, allowed) in [
            // Scripts and tools.
            (None, Some("curl/8.5.0"), "application/x-www-form-urlencoded", true),
            (None, None, "text/plain", true),
            (None, Some("python-requests/2"), "application/json", true),
            // Browsers that say where a form is from.
            (Some("cross-site"), browser, "application/json", false),
            (Some("same-site"), browser, "multipart/form-data; boundary=x", false),
            (Some("same-origin"), browser, "text/plain", true),
            (Some("none"), browser, "text/plain", true),
            // Browsers that do not.
            (None, browser, "text/plain; charset=utf-8", false),
            (None, browser, "Application/X-WWW-Form-Urlencoded", false),
            (None, browser, "application/json", true),
            (None, browser, "multipart/form-data; boundary=x", true),
        ] {
            let asked = Asked { fetch_site, user_agent, content_type: Some(content_type), ..OWN };
            assert_eq!(site().check(asked).is_ok(), allowed, "{asked:?}");
            assert_eq!(site().check(Asked { changes: false, ..asked }), Ok(()), "{asked:?}");
        }
    }

    proptest! {
        #[test]
        fn no_other_origin_passes(scheme in "https?", name in "[a-z]{1,10}(\\.[a-z]{1,6}){0,2}", port in proptest::option::of(1u16..)) {
            let origin = port.map_or(format!("{scheme}://{name}"), |port| format!("{scheme}://{name}:{port}"));
            prop_assume!(name != "localhost" && !name.ends_with(".localhost") && name != "page.example");
            let refused = site().check(Asked { origin: Some(&origin), ..OWN });
            prop_assert_eq!(refused, Err(Denied::Origin(origin)));
        }

        #[test]
        fn no_text_passes_for_an_own_host(host in "\\PC{0,40}") {
            if site().check(Asked { host: Some(&host), ..OWN }).is_ok() {
                let read = Authority::parse(&host).unwrap().host;
                prop_assert!(matches!(read, Host::Address(_)) || read.is_loopback() || read == Host::Name("gpu.lan".into()));
            }
        }
    }
}
