//! `reverie key`: keys of the server, in `server.keys_file`.

use clap::{Args, Subcommand};
use reverie_access::{KeysFile, Limits, Scope};

use crate::{config::Config, keys::keyring};

#[derive(Subcommand)]
pub enum Command {
    /// Make a key, and print it: it is shown this once
    Add(Add),
    /// List the keys, those of the configuration too
    List,
    /// Take a key away: its connections are closed at once
    Revoke { name: String },
}

#[derive(Args)]
pub struct Add {
    /// Letters, digits, '-' and '_'
    name: String,
    /// submit, read, plugins:TYPE or admin; may be given several times
    #[arg(long = "scope", required = true, value_name = "SCOPE")]
    scopes: Vec<String>,
    /// Whose jobs, outputs, uploads and dreams it makes and sees [default: NAME]
    #[arg(long)]
    owner: Option<String>,
    /// Requests a minute [default: no limit]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    requests_per_minute: u64,
    /// Jobs running at once [default: no limit]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    concurrency: u64,
    /// Jobs waiting [default: no limit]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    queue_share: u64,
    /// Pixels of pictures made within 24 hours [default: no limit]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pixels_per_day: u64,
    /// MiB stored [default: no limit]
    #[arg(long, value_name = "MIB", default_value_t = 0, hide_default_value = true)]
    storage_mb: u64,
}

/// Runs one of them. A server that runs takes the change over by itself.
///
/// # Errors
/// What is wrong with the key or the file.
pub fn keys(config: &Config, command: Command) -> Result<(), String> {
    let file = KeysFile::new(&config.server.keys_file);
    match command {
        Command::Add(add) => {
            let scopes = add.scopes.into_iter().map(Scope::try_from).collect::<Result<_, _>>()?;
            let limits = Limits {
                requests_per_minute: add.requests_per_minute,
                concurrency: add.concurrency,
                queue_share: add.queue_share,
                pixels_per_day: add.pixels_per_day,
                storage_mb: add.storage_mb,
            };
            // Beside those of the configuration, too.
            if keyring(config)?.iter().any(|key| key.name == add.name) {
                return Err(format!("there is a key '{}' already", add.name));
            }
            let token = file.add(&add.name, add.owner, scopes, limits)?;
            eprintln!("The key '{}' is in {}. It is shown this once:", add.name, file.path().display());
            println!("{}", token.as_str());
            Ok(())
        }
        Command::List => {
            let ring = keyring(config)?;
            let mut keys: Vec<_> = ring.iter().collect();
            keys.sort_by(|a, b| a.name.cmp(&b.name));
            for key in &keys {
                let scopes: Vec<String> = key.scopes.iter().map(Scope::to_string).collect();
                println!("{:20} {:20} {}", key.name, key.tenant(), scopes.join(", "));
            }
            if keys.is_empty() {
                println!("no keys: whoever reaches the server may do everything");
            }
            Ok(())
        }
        Command::Revoke { name } => {
            file.revoke(&name)?;
            eprintln!("The key '{name}' is gone.");
            Ok(())
        }
    }
}
