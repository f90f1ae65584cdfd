//! A WebSocket client of the tests.

use std::{
    collections::VecDeque,
    net::TcpStream,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tungstenite::{Message, Utf8Bytes, WebSocket};

use crate::PATIENCE;

/// A WebSocket client.
pub struct Client {
    pub socket: WebSocket<TcpStream>,
    /// What came before the reply that `ask` waited for.
    passed_over: VecDeque<Value>,
    /// The `system:status` that a connection begins with.
    pub greeting: Value,
    /// How long a message may take.
    patience: Duration,
}

impl Client {
    pub(crate) fn new(socket: WebSocket<TcpStream>) -> Self {
        let client = Self { socket, passed_over: VecDeque::new(), greeting: Value::Null, patience: PATIENCE };
        client.with_patience(PATIENCE)
    }

    /// The same with another limit to how long a message may take.
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.socket.get_ref().set_read_timeout(Some(patience)).expect("a timeout");
        self.patience = patience;
        self
    }

    pub fn send(&mut self, message: Value) {
        self.send_text(&message.to_string());
    }

    pub fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).expect("the connection is open");
    }

    /// The next message of any type.
    pub fn receive(&mut self) -> Value {
        self.passed_over.pop_front().unwrap_or_else(|| self.read())
    }

    fn read(&mut self) -> Value {
        loop {
            match self.socket.read().expect("a message") {
                Message::Text(text) => return parse(&text),
                Message::Close(frame) => panic!("closed: {frame:?}"),
                _ => {}
            }
        }
    }

    /// The next message for which `wanted` holds.
    pub fn receive_where(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + self.patience;
        loop {
            let message = self.receive();
            if wanted(&message) {
                return message;
            }
            assert!(Instant::now() < deadline, "the message does not come; the last one: {message}");
        }
    }

    /// Sends a message and returns the reply with its `id`. What comes before the reply stays to be received.
    pub fn ask(&mut self, mut message: Value) -> Value {
        message["id"] = json!("asked");
        self.send(message);
        let deadline = Instant::now() + self.patience;
        loop {
            let message = self.read();
            if message["id"] == "asked" {
                return message;
            }
            self.passed_over.push_back(message);
            assert!(Instant::now() < deadline, "the reply does not come");
        }
    }

    /// Takes out what came before replies and was not looked at.
    pub fn passed(&mut self) -> Vec<Value> {
        self.passed_over.drain(..).collect()
    }

    /// Submits a job and returns its id.
    pub fn submit(&mut self, mut message: Value) -> String {
        message["type"] = json!("job:submit");
        let ack = self.ask(message);
        assert_eq!(ack["type"], "job:ack", "{ack}");
        ack["jobId"].as_str().expect("a job id").to_owned()
    }

    /// The `job:complete` or `job:error` of a job.
    pub fn finish(&mut self, job: &str) -> Value {
        self.receive_where(|m| m["jobId"] == job && (m["type"] == "job:complete" || m["type"] == "job:error"))
    }

    /// Waits for the end of a job, which may have ended, and returns the job.
    pub fn ended(&mut self, job: &str) -> Value {
        let subscribed = self.ask(json!({"type": "job:subscribe", "jobId": job}));
        if matches!(subscribed["job"]["status"].as_str(), Some("queued" | "running")) {
            self.finish(job);
        }
        self.ask(json!({"type": "job:get", "jobId": job}))["job"].clone()
    }

    /// Reads until the close frame and returns its code.
    pub fn closed(&mut self) -> Option<u16> {
        loop {
            match self.socket.read() {
                Ok(Message::Close(frame)) => return frame.map(|frame| frame.code.into()),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }
}

fn parse(text: &Utf8Bytes) -> Value {
    serde_json::from_str(text).expect("every message is JSON")
}
