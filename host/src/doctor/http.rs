//! One short question to an HTTP server.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes of an answer that are read at most.
const LONGEST: u64 = 1 << 20;

/// Status and body of `GET path`, over a connection that is used for nothing else.
///
/// # Errors
/// What went wrong, in words; also where the answer takes longer than `timeout`.
pub async fn get(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    host: &str,
    path: &str,
    timeout: Duration,
) -> Result<(u16, String), String> {
    let head = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let exchange = async {
        stream.write_all(head.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(LONGEST).read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::time::timeout(timeout, exchange).await;
    let answer = answer.map_err(|_| format!("no answer within {} s", timeout.as_secs_f32()))?;
    let answer = answer.map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").ok_or("it does not speak HTTP")?;
    let status = head.strip_prefix("HTTP/1.").and_then(|line| line.split(' ').nth(1)?.parse().ok());
    Ok((status.ok_or("it does not speak HTTP")?, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answered(answer: &str) -> Result<(u16, String), String> {
        let (own, mut other) = tokio::io::duplex(4096);
        other.write_all(answer.as_bytes()).await.unwrap();
        other.shutdown().await.unwrap();
        let got = get(own, "host", "/x", Duration::from_millis(200)).await;
        let mut asked = Vec::new();
        other.read_to_end(&mut asked).await.unwrap();
        assert!(asked.starts_with(b"GET /x HTTP/1.0\r\nHost: host\r\n"));
        got
    }

    #[tokio::test]
    async fn answers_are_taken_apart() {
        assert_eq!(answered("HTTP/1.1 404 No\r\nA: b\r\n\r\nbody").await, Ok((404, "body".into())));
        for other in ["SSH-2.0-x\r\n\r\n", "", "HTTP/1.1 x\r\n\r\n"] {
            assert!(answered(other).await.is_err(), "{other}");
        }
        let (own, _other) = tokio::io::duplex(4096);
        let silent = get(own, "host", "/", Duration::from_millis(20)).await.unwrap_err();
        assert!(silent.contains("no answer"), "{silent}");
    }
}
