//! The command line.

mod config;
mod demo;
mod doctor;
mod keys;
mod plugins;
mod serve;
mod upscale;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use reverie_crash::blame;

use crate::config::{Config, LogFormat, Sources};

/// A plugin-hosted runtime for image generation.
///
/// Message handlers are WebAssembly components that are added, replaced and reloaded while clients stay connected.
#[derive(Parser)]
#[command(
    name = "reverie",
    version,
    after_help = "First steps:\n  reverie demo               start the server and make a picture through it\n  reverie upscale IN OUT     upscale a picture without a server\n  reverie doctor             what is wrong with this installation, and what to do about it\n  reverie config --default   the configuration file with every key explained"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
struct Common {
    /// Configuration file; else $REVERIE_CONFIG, else ./reverie.toml if it exists
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set any key of the configuration, such as --set hub.ping_interval_s=10
    #[arg(long, global = true, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Start the server
    Serve(Listen),
    /// Start the server, upload a sample photo, upscale it over WebSocket, save it, and go on serving
    Demo {
        #[command(flatten)]
        listen: Listen,
        /// End after the picture is made
        #[arg(long)]
        once: bool,
    },
    /// Upscale a picture file
    Upscale(upscale::Options),
    /// Look at configuration, GPU, models, plugins, ledger, storage and ports: what is wrong, and what to do about it
    #[command(after_help = doctor::HELP)]
    Doctor(doctor::Options),
    /// List the plugins with their types, or say why one is refused
    Plugins {
        /// Check these component files instead of the configured ones
        files: Vec<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Make, list and take away keys, with which others use the server
    #[command(subcommand)]
    Key(keys::Command),
    /// Print the configuration in effect
    Config {
        /// Print the defaults with their explanations: a file to start from
        #[arg(long)]
        default: bool,
    },
}

#[derive(Args)]
struct Listen {
    /// Address to listen on [default: server.host]
    #[arg(long)]
    host: Option<String>,
    /// Port; 0 lets the system choose [default: server.port]
    #[arg(long, short)]
    port: Option<u16>,
    /// Folder of plugins [default: plugin_runtime.dir]
    #[arg(long, value_name = "DIR")]
    plugins_dir: Option<String>,
    /// human or json [default: log.format]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
}

impl Listen {
    fn settings(&self) -> Vec<String> {
        let port = self.port.map(|port| port.to_string());
        let given = [
            ("server.host", &self.host),
            ("server.port", &port),
            ("plugin_runtime.dir", &self.plugins_dir),
            ("log.format", &self.log_format),
        ];
        given.into_iter().filter_map(|(key, value)| value.as_ref().map(|v| format!("{key}={v}"))).collect()
    }
}

/// Parses the arguments and runs the command.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("reverie: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode, String> {
    let mut sources = Sources { file: cli.common.config, env: environment(), set: cli.common.set };
    if let Command::Serve(listen) | Command::Demo { listen, .. } = &cli.command {
        sources.set.extend(listen.settings());
    }
    let load = || crate::config::load(&sources);
    match cli.command {
        Command::Serve(_) => {
            let config = load()?;
            log_to_stderr(&config)?;
            runtime()?.block_on(serve::serve(config))
        }
        Command::Demo { once, .. } => {
            let config = load()?;
            log_to_stderr(&config)?;
            runtime()?.block_on(demo::demo(config, once))
        }
        Command::Upscale(options) => upscale::upscale(&load()?, &options),
        // It works with a configuration that is refused, too.
        Command::Doctor(options) => return doctor::doctor(&sources, &options),
        Command::Plugins { files, json } => runtime()?.block_on(plugins::plugins(load()?, files, json)),
        Command::Key(command) => keys::keys(&load()?, command),
        Command::Config { default: true } => {
            print!("{}", crate::config::DEFAULTS);
            Ok(())
        }
        Command::Config { default: false } => config::print(&load()?),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// The variables whose names are texts. What is none in a value becomes U+FFFD, for the key to refuse.
fn environment() -> Vec<(String, String)> {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
    };
    std::env::vars_os().filter_map(text).collect()
}

fn runtime() -> Result<tokio::runtime::Runtime, String> {
    blame::own_thread();
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.on_thread_start(blame::own_thread).enable_all().build().map_err(|e| e.to_string())
}

fn log_to_stderr(config: &Config) -> Result<(), String> {
    use std::io::IsTerminal;
    use tracing_subscriber::EnvFilter;
    // RUST_LOG is what Rust operators reach for.
    let level = std::env::var("RUST_LOG").unwrap_or_else(|_| config.log.level.clone());
    let filter = EnvFilter::try_new(&level).map_err(|e| format!("log.level '{level}': {e}"))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log.format {
        LogFormat::Human => log.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(())
}
