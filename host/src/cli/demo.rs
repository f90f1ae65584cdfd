//! `reverie demo`: the server up, and pictures made through it, the way a browser would: a photo enlarged, and one from a
//! prompt.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use reverie_access::Token;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

use super::serve;
use crate::{config::Config, embedded::EMOJI, keys::keyring, server::Server};

const SAMPLE: &[u8] = include_bytes!("../../assets/sample.jpg");
const BEFORE: &str = "reverie-data/demo-before.jpg";
const AFTER: &str = "reverie-data/demo-after.png";
const PROMPT: &str = "a smiling cat on a light blue background";
const PICTURE: &str = "reverie-data/demo-picture.png";
const PATIENCE: Duration = Duration::from_secs(300);

/// Serves and makes its pictures; goes on serving unless `once`.
pub async fn demo(config: Config, once: bool) -> Result<(), String> {
    let mut config = config;
    if config.server.auth_token.is_empty() && !keyring(&config)?.is_empty() {
        // For this run alone: the keys that there are can't be known here.
        let token = Token::random()?;
        // Without the mark of a key, which is not taken in an address.
        config.server.auth_token = token.as_str().trim_start_matches("rv_").to_owned();
        config.sources.set.push(format!("server.auth_token={}", config.server.auth_token));
    }
    let token = config.server.auth_token.clone();
    let server = Server::bind(config).await?;
    serve::ready(&server);
    let mut address = server.address();
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(server.run(async move {
        tokio::select! {
            () = serve::stop() => {}
            _ = ended => {}
        }
    }));
    let made = tokio::time::timeout(PATIENCE, pictures(&address.to_string(), &token)).await;
    let made = made.unwrap_or_else(|_| Err("the pictures were not made in time".into()));
    match &made {
        Ok(()) if !once => {
            println!("The server goes on: open http://{address}/ in a browser, or press Ctrl-C to stop.");
            // Kept, or its drop would end the server.
            let _end = end;
            serving.await.map_err(|e| e.to_string())?;
        }
        _ => {
            drop(end);
            let _ = serving.await;
        }
    }
    made
}

type Socket = WebSocketStream<TcpStream>;

async fn pictures(address: &str, token: &str) -> Result<(), String> {
    let began = std::time::Instant::now();
    let form = multipart(SAMPLE);
    let path = format!("/v1/upload?token={token}");
    let uploaded =
        http(address, "POST", &path, Some(("multipart/form-data; boundary=reverie-demo", form))).await?;
    let uploaded: Value = serde_json::from_slice(&uploaded).map_err(|e| format!("upload: {e}"))?;
    println!("uploaded  the sample photo, as {}", uploaded["fileRef"]);

    let stream = TcpStream::connect(address).await.map_err(|e| e.to_string())?;
    let url = format!("ws://{address}/v1/ws?token={token}");
    let (mut socket, _) = client_async(url, stream).await.map_err(|e| format!("WebSocket: {e}"))?;
    let enlarge = json!({"jobType": "sr", "fileRef": uploaded["fileRef"], "magnitude": 2});
    let enlarged = run(&mut socket, enlarge).await?;
    let params =
        json!({"prompt": PROMPT, "mode": EMOJI, "seed": 1, "superres": true, "superres_magnitude": 2});
    let made = run(&mut socket, json!({"jobType": "generate", "params": params})).await?;

    let fetch =
        async |key: String| http(address, "GET", &format!("/storage/{key}?token={token}"), None).await;
    let (enlarged, made) = (fetch(enlarged).await?, fetch(made).await?);
    let size = |content: &[u8]| -> String {
        image::load_from_memory(content).map_or("?".into(), |i| format!("{}x{}", i.width(), i.height()))
    };
    println!("done in   {:.1} s", began.elapsed().as_secs_f32());
    let written =
        [(BEFORE, SAMPLE, "the sample photo"), (AFTER, &enlarged, "enlarged"), (PICTURE, &made, PROMPT)];
    for (path, content, what) in written {
        let folder = Path::new(path).parent().expect("has a folder");
        let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(path, content));
        written.map_err(|e| format!("{path}: {e}"))?;
        println!("{path} ({}): {what}", size(content));
    }
    Ok(())
}

/// Submits a job over WebSocket, shows its progress, and returns the key of its output.
async fn run(socket: &mut Socket, mut submit: Value) -> Result<String, String> {
    let kind = submit["jobType"].clone();
    submit["type"] = "job:submit".into();
    submit["id"] = "demo".into();
    socket.send(Message::text(submit.to_string())).await.map_err(|e| e.to_string())?;
    loop {
        let message = socket.next().await.ok_or("the WebSocket closed")?.map_err(|e| e.to_string())?;
        let Message::Text(text) = message else { continue };
        let message: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        match message["type"].as_str().unwrap_or_default() {
            "job:ack" => println!("submitted a {kind} job over WebSocket: {}", message["jobId"]),
            "job:progress" => {
                println!(
                    "progress  {:3.0} %",
                    message["progress"]["fraction"].as_f64().unwrap_or(0.0) * 100.0
                );
            }
            "job:complete" => {
                return Ok(message["outputs"][0]["key"].as_str().unwrap_or_default().to_owned());
            }
            "job:error" | "error" => return Err(format!("the {kind} job failed: {}", message["error"])),
            _ => {}
        }
    }
}

fn multipart(file: &[u8]) -> Bytes {
    let mut body =
        b"--reverie-demo\r\nContent-Disposition: form-data; name=\"file\"; filename=\"sample.jpg\"\r\n\
                     Content-Type: image/jpeg\r\n\r\n"
            .to_vec();
    body.extend_from_slice(file);
    body.extend_from_slice(b"\r\n--reverie-demo--\r\n");
    body.into()
}

/// One HTTP/1.1 request on a connection of its own: all that the demo needs of a client.
async fn http(
    address: &str,
    method: &str,
    path: &str,
    body: Option<(&str, Bytes)>,
) -> Result<Vec<u8>, String> {
    let (kind, body) = body.unwrap_or(("text/plain", Bytes::new()));
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&body).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = exchange.await.map_err(|e| format!("{method} {path}: {e}"))?;
    let split = answer.windows(4).position(|w| w == b"\r\n\r\n").ok_or("an answer without a head")?;
    let (head, content) = (String::from_utf8_lossy(&answer[..split]), &answer[split + 4..]);
    if !head.starts_with("HTTP/1.1 200") {
        return Err(format!(
            "{method} {path}: {}: {}",
            head.lines().next().unwrap_or_default(),
            String::from_utf8_lossy(content)
        ));
    }
    Ok(content.to_vec())
}
