//! A WebSocket to a server that may end at any moment.

use std::{
    io::ErrorKind,
    net::TcpStream,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

use crate::process::PATIENCE;

pub struct Line {
    socket: WebSocket<TcpStream>,
    /// Messages that were asked, each with an id of its own.
    asked: u64,
}

/// The server has gone, or closed the connection.
#[derive(Debug)]
pub struct Lost;

impl Line {
    /// A connection of a client; none while the server is away.
    pub fn connect(address: &str, client: &str) -> Option<Self> {
        let stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let url = format!("ws://{address}/v1/ws?clientId=client-of-the-drills-{client}");
        let (socket, _) = tungstenite::client(url, stream).ok()?;
        Some(Self { socket, asked: 0 })
    }

    pub fn send(&mut self, message: &Value) -> Result<(), Lost> {
        self.socket.send(Message::text(message.to_string())).map_err(|_| Lost)
    }

    /// The next message, if one comes so soon.
    pub fn receive(&mut self, within: Duration) -> Result<Option<Value>, Lost> {
        self.socket
            .get_ref()
            .set_read_timeout(Some(within.max(Duration::from_millis(1))))
            .map_err(|_| Lost)?;
        match self.socket.read() {
            Ok(Message::Text(text)) => Ok(Some(serde_json::from_str(&text).expect("JSON"))),
            Ok(Message::Close(_)) => Err(Lost),
            Ok(_) => Ok(None),
            Err(tungstenite::Error::Io(error))
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
            {
                Ok(None)
            }
            Err(_) => Err(Lost),
        }
    }

    /// Sends a message and returns its reply; what comes before it is passed over.
    pub fn ask(&mut self, mut message: Value) -> Result<Value, Lost> {
        self.asked += 1;
        let id = json!(format!("asked-{}", self.asked));
        message["id"] = id.clone();
        self.send(&message)?;
        self.receive_where(PATIENCE, |message| message["id"] == id)
    }

    /// The next message for which `wanted` holds.
    pub fn receive_where(
        &mut self,
        within: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value, Lost> {
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            match self.receive(deadline.saturating_duration_since(Instant::now()))? {
                Some(message) if wanted(&message) => return Ok(message),
                _ => {}
            }
        }
        Err(Lost)
    }

    /// Submits a job: its id, or what it was refused with (the `job:error`).
    pub fn submit(&mut self, mut message: Value) -> Result<Result<String, Value>, Lost> {
        message["type"] = json!("job:submit");
        let ack = self.ask(message)?;
        let job = ack["jobId"].as_str().unwrap_or_default().to_owned();
        // A job that was refused is not to be found running, and has no place in the store: it has ended at once.
        let got = self.ask(json!({"type": "job:get", "jobId": job}))?;
        let refused = got["job"]["status"] == "error" && got["job"]["started"].is_null();
        Ok(if refused { Err(got["job"].clone()) } else { Ok(job) })
    }

    /// Waits for the end of a job and returns it as `job:get` shows it.
    pub fn ended(&mut self, job: &str, within: Duration) -> Result<Value, Lost> {
        let deadline = Instant::now() + within;
        loop {
            let got = self.ask(json!({"type": "job:get", "jobId": job}))?;
            let active = got["job"]["status"] == "queued" || got["job"]["status"] == "running";
            if !active || Instant::now() > deadline {
                return Ok(got);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
