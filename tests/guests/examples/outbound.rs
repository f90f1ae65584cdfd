//! Reaches out to other servers as it is told.

use std::time::Duration;

use reverie_plugin_sdk::{
    Error, Handler, Job, Manifest, Message, clock, export, files,
    http::Request,
    serde_json::{Value, json},
    websocket::{Connection, Frame},
};

struct Outbound;

export!(Outbound);

impl Handler for Outbound {
    fn manifest() -> Manifest {
        Manifest::new("outbound", "1.0.0", "Reaches out.")
            .message("outbound:http", "Sends a request.", "")
            .message("outbound:redirected", "Sends a request with a body and credentials.", "")
            .message("outbound:talk", "Sends texts over a WebSocket and tells what comes.", "")
            .message("outbound:many", "Opens WebSockets until that fails.", "")
            .message("outbound:files", "Reads its folder.", "")
            .job("outbound-listen", "Waits for a WebSocket's message.", "")
            .capabilities(&["http", "websocket", "files"])
    }

    fn message(message: Message) -> Result<(), Error> {
        let body: Value = message.parse()?;
        let url = body["url"].as_str().unwrap_or_default();
        let reply = match message.kind.as_str() {
            "outbound:http" => request(&body, Request::new(body["method"].as_str().unwrap_or("GET"), url))?,
            "outbound:redirected" => {
                let request =
                    Request::new("POST", url).header("authorization", "secret").body(b"body".to_vec());
                self::request(&body, request)?
            }
            "outbound:talk" => talk(&body, url)?,
            "outbound:many" => {
                let mut open = Vec::new();
                let error = loop {
                    match Connection::connect(url, 5000) {
                        Ok(connection) => open.push(connection),
                        Err(error) => break error,
                    }
                };
                json!({"open": open.len(), "error": error.message})
            }
            _ => {
                let listed: Vec<Value> = files::list()?
                    .into_iter()
                    .map(|entry| json!({"name": entry.name, "len": entry.len, "modified": entry.modified_ms}))
                    .collect();
                let content = match body["read"].as_str() {
                    Some(name) => Some(String::from_utf8_lossy(&files::read(name)?).into_owned()),
                    None => None,
                };
                json!({"files": listed, "content": content})
            }
        };
        let mut reply = reply;
        reply["type"] = "outbound:done".into();
        message.reply(&reply)
    }

    fn job(job: Job) -> Result<(), Error> {
        let params: Value = job.params()?;
        let connection = Connection::connect(params["url"].as_str().unwrap_or_default(), 5000)?;
        job.progress(0.5);
        clock::sleep(params["pause"].as_u64().unwrap_or(0) as u32);
        let received = connection.receive(60_000)?;
        if job.cancelled() {
            return Err(Error::cancelled());
        }
        job.complete(&[], &json!({"received": received.map(described)}))
    }
}

fn request(body: &Value, mut request: Request) -> Result<Value, Error> {
    if let Some(size) = body["size"].as_u64() {
        request = request.body(vec![b'x'; size as usize]);
    }
    if let Some(ms) = body["timeout"].as_u64() {
        request = request.timeout(Duration::from_millis(ms));
    }
    let answer = request.header("x-test", "1").send()?;
    let text = String::from_utf8_lossy(&answer.body);
    Ok(json!({
        "status": answer.status,
        "length": answer.body.len(),
        "text": text.chars().take(400).collect::<String>(),
    }))
}

fn talk(body: &Value, url: &str) -> Result<Value, Error> {
    let connection = Connection::connect(url, 5000)?;
    let mut heard = Vec::new();
    for text in body["texts"].as_array().into_iter().flatten() {
        connection.send(Frame::Text(text.as_str().unwrap_or_default().into()))?;
        match connection.receive(body["wait"].as_u64().unwrap_or(5000) as u32) {
            Ok(frame) => heard.push(frame.map_or(Value::Null, described)),
            Err(error) => {
                heard.push(json!({"kind": format!("{:?}", error.kind), "error": error.message}));
                break;
            }
        }
    }
    Ok(json!({"heard": heard}))
}

fn described(frame: Frame) -> Value {
    match frame {
        Frame::Text(text) => {
            json!({"length": text.len(), "text": text.chars().take(100).collect::<String>()})
        }
        Frame::Binary(content) => json!({"binary": content}),
    }
}
