//! `reverie serve`.

use crate::{config::Config, server::Server};

/// Serves until SIGTERM or Ctrl-C; a second signal ends the process at once.
pub async fn serve(config: Config) -> Result<(), String> {
    let server = Server::bind(config).await?;
    ready(&server);
    server.run(stop()).await;
    Ok(())
}

/// Says on stdout where the server is: the line that scripts wait for.
pub fn ready(server: &Server) {
    let config = &server.registry.services.config.server;
    let scheme = if config.tls_files().is_ok_and(|files| files.is_some()) { "https" } else { "http" };
    println!("Reverie listens on {scheme}://{}", server.address());
}

/// Ends on SIGTERM or Ctrl-C.
pub async fn stop() {
    signal().await;
    tokio::spawn(async {
        signal().await;
        eprintln!("second signal: ending at once; unfinished jobs stay in the ledger");
        std::process::exit(130);
    });
}

#[cfg(unix)]
async fn signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        },
        Err(_) => drop(tokio::signal::ctrl_c().await),
    }
}

#[cfg(not(unix))]
async fn signal() {
    let _ = tokio::signal::ctrl_c().await;
}
