//! What a connection is told for which there is no place.

use std::{io::Write, sync::atomic::Ordering::Relaxed, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::table::{Refused, Table};

/// How many are told at the same time with all care; further ones may see a connection that was reset instead.
const MOST: usize = 64;
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// Seconds after which a client may try again: connections that do nothing are gone by then.
const RETRY_AFTER: u32 = 10;

fn answer(refused: Refused) -> String {
    let error = match refused {
        Refused::Full => "the server has as many connections as it takes (server.max_connections)",
        Refused::AddressFull => {
            "the server has as many connections of this address as it takes (server.max_connections_per_address)"
        }
    };
    let body = format!(r#"{{"error":"{error}","code":"unavailable","detail":"{error}"}}"#);
    format!(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: {RETRY_AFTER}\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Answers 503 and closes. Over TLS, where that would take a handshake, it is only closed.
pub fn refuse(table: &std::sync::Arc<Table>, mut stream: TcpStream, refused: Refused, tls: bool) {
    if tls {
        return;
    }
    let answer = answer(refused);
    if table.refusals.fetch_add(1, Relaxed) >= MOST {
        table.refusals.fetch_sub(1, Relaxed);
        if let Ok(mut stream) = stream.into_std() {
            // It fits into the socket's buffer, which is empty.
            let _ = stream.write(answer.as_bytes());
        }
        return;
    }
    let table = table.clone();
    tokio::spawn(async move {
        let told = async {
            stream.write_all(answer.as_bytes()).await?;
            stream.shutdown().await?;
            // What has come but is not read when a socket is closed resets it, and the answer may be lost.
            let mut unread = stream.take(1 << 16);
            while unread.read(&mut [0; 4096]).await? > 0 {}
            Ok::<_, std::io::Error>(())
        };
        let _ = tokio::time::timeout(PATIENCE, told).await;
        table.refusals.fetch_sub(1, Relaxed);
    });
}
