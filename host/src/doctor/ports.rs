//! Whether the server's address is free, and who has it otherwise; how many connections there can be, and whether TLS can be served.

use std::{io::ErrorKind, net::SocketAddr, time::Duration};

use tokio::net::{TcpListener, TcpStream};

use super::{Area, http};
use crate::config::Server;

const PATIENCE: Duration = Duration::from_secs(3);

pub async fn check(server: &Server, area: &mut Area<'_>) {
    address(server, area).await;
    connections(server, area);
    tls(server, area);
}

async fn address(server: &Server, area: &mut Area<'_>) {
    let (host, port) = (server.host.as_str(), server.port);
    let at = format!("{host}:{port}");
    let Err(error) = TcpListener::bind((host, port)).await else {
        return area.ok(match port {
            0 => format!("{host}: the system chooses a free port (server.port = 0)"),
            _ => format!("{at} is free"),
        });
    };
    match error.kind() {
        ErrorKind::AddrInUse if server.tls_files() != Ok(None) => area.note(
            format!("{at} is in use; whether by a Reverie server is not asked over TLS"),
            "nothing, where that is the server which is looked at; another one needs another port (--port, server.port)",
        ),
        ErrorKind::AddrInUse if is_reverie(host, port).await => area.note(
            format!("{at} is in use by a Reverie server, which answers"),
            "nothing, where that is the server which is looked at; another one needs another port (--port, server.port)",
        ),
        ErrorKind::AddrInUse => area.error(
            format!("{at} is in use by another program"),
            format!("end that program (ss -ltnp 'sport = :{port}' names it), or set server.port"),
        ),
        ErrorKind::PermissionDenied => area.error(
            format!("{at}: {error}"),
            "set server.port to 1024 or more, or allow this program lower ones (setcap cap_net_bind_service=+ep)",
        ),
        ErrorKind::AddrNotAvailable => area.error(
            format!("{host} is no address of this machine: {error}"),
            "set server.host to one of its addresses, 127.0.0.1 for this machine alone, or 0.0.0.0 for all",
        ),
        _ => area.error(
            format!("the server can't listen on {at}: {error}"),
            "set server.host to an address or a name of this machine",
        ),
    }
}

fn tls(server: &Server, area: &mut Area<'_>) {
    let checked = server.tls_files().and_then(|files| match files {
        Some((cert, key)) => {
            let checked = reverie_net::tls::check(cert, key).map_err(|error| format!("server.tls: {error}"));
            checked.map(|()| area.ok(format!("TLS: {}", cert.display())))
        }
        None => Ok(()),
    });
    if let Err(error) = checked {
        area.error(
            error,
            "name a file with the chain of certificates and one with its key, both PEM, that this user may read",
        );
    }
}

/// How many connections the process can have.
fn connections(server: &Server, area: &mut Area<'_>) {
    let (wanted, reserved) = (server.max_connections, server.reserved_descriptors);
    let most = reverie_net::descriptors::possible(wanted, reserved);
    match most < wanted {
        true => area.note(
            format!("at most {most} connections instead of server.max_connections = {wanted}: the process may have too few open files"),
            "raise the limit of open files (ulimit -Hn, LimitNOFILE= of a systemd unit), or set server.max_connections lower",
        ),
        false => area.ok(format!("up to {most} connections, and {reserved} other open files")),
    }
}

/// Whether a Reverie answers there: its page and its `/health` need no token.
async fn is_reverie(host: &str, port: u16) -> bool {
    let asked = |path: &'static str| async move {
        let mut addresses = tokio::net::lookup_host((host, port)).await.ok()?;
        let mut address: SocketAddr = addresses.next()?;
        if address.ip().is_unspecified() {
            address.set_ip(match address {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        let stream = tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await.ok()?.ok()?;
        http::get(stream, host, path, PATIENCE).await.ok()
    };
    let (health, page) = tokio::join!(asked("/health"), asked("/"));
    // One that is not well is one, too.
    let says = |body: &str| {
        ["ok", "failing"].iter().any(|status| body.contains(&format!("\"status\":\"{status}\"")))
    };
    health.is_some_and(|(status, body)| matches!(status, 200 | 503) && says(&body))
        && page.is_some_and(|(status, body)| status == 200 && body.contains("<title>Reverie</title>"))
}
