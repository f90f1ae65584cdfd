//! The keys of the configuration and of the file that `reverie key` writes, and whether the server may be reached without any.

mod watch;

use reverie_access::{Key, Keyring, KeysFile};

use crate::config::Config;

pub use watch::{Watcher, watch};

/// The keys that there are: `server.auth_token`, `[[keys]]` and those of `server.keys_file`.
///
/// # Errors
/// A message that names the key or the file.
pub fn keyring(config: &Config) -> Result<Keyring, String> {
    let token = &config.server.auth_token;
    let operator = (!token.is_empty()).then(|| Key::operator(token));
    let of_file = KeysFile::new(&config.server.keys_file).read()?;
    Keyring::new(operator.into_iter().chain(config.keys.iter().cloned()).chain(of_file))
}

/// Whether `server.host` is of this machine alone.
pub fn is_local(host: &str) -> bool {
    reverie_access::Host::parse(host)
        .or_else(|| reverie_access::Host::parse(&format!("[{host}]")))
        .is_some_and(|host| host.is_loopback())
}

/// That anybody could use the server: it can be reached from other machines, and there are no keys.
pub fn exposed(config: &Config, keys: &Keyring) -> Option<String> {
    let server = &config.server;
    (!is_local(&server.host) && keys.is_empty() && !server.open).then(|| {
        format!(
            "server.host = {:?} serves other machines, and there are no keys: anyone could use it. Make a key with `reverie key \
             add NAME --scope admin`, or set server.open = true if everyone may do everything",
            server.host
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, load};

    fn config(set: &[&str]) -> Config {
        let set = set.iter().map(|set| set.to_string()).collect();
        load(&Sources { file: None, env: Vec::new(), set }).unwrap()
    }

    #[test]
    fn only_this_machine_is_served_without_keys() {
        for (set, refused) in [
            (&[][..], false),
            (&["server.host=localhost"], false),
            (&["server.host=::1"], false),
            (&["server.host=127.8.9.1"], false),
            (&["server.host=0.0.0.0"], true),
            (&["server.host=::"], true),
            (&["server.host=192.168.1.2"], true),
            (&["server.host=box.example"], true),
            (&["server.host=0.0.0.0", "server.open=true"], false),
            (&["server.host=0.0.0.0", "server.auth_token=x"], false),
        ] {
            let mut config = config(set);
            config.server.keys_file = Default::default();
            let said = exposed(&config, &keyring(&config).unwrap());
            assert_eq!(said.is_some(), refused, "{set:?}");
            let names_both =
                |said: &String| said.contains("reverie key add") && said.contains("server.open = true");
            assert!(said.iter().all(names_both), "{said:?}");
        }
    }
}
