//! The browser page of the server that Reverie takes over from, as the contract describes what it does: one socket that
//! reconnects, no message kept while it is closed, fixed times to wait. It knows of Reverie nothing else.

use std::{
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex, MutexGuard};
use serde_json::{Value, json};
use tungstenite::Message;

use crate::{Answer, Server};

/// How long the page waits for `job:ack`.
const ACK: Duration = Duration::from_secs(10);
/// How long it waits for a job's end.
const END: Duration = Duration::from_secs(120);
/// How often it tries while the queue is full.
const TRIES: usize = 3;
/// How often the socket is looked at for what is to be sent. A browser needs no such thing.
const LOOK: Duration = Duration::from_millis(5);

/// The times that the server has no part in, which tests shorten.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Until the first attempt to connect again; it grows by half with each, to fifteen times this.
    pub reconnect: Duration,
    /// Between the polls of a ComfyUI job.
    pub comfy: Duration,
    /// Between the polls of dreams.
    pub dreams: Duration,
    /// Before a job is submitted again that met a full queue.
    pub retry: Duration,
}

impl Pace {
    /// As the page has it.
    pub const PAGE: Self = Self {
        reconnect: Duration::from_secs(1),
        comfy: Duration::from_millis(750),
        dreams: Duration::from_secs(2),
        retry: Duration::from_secs(2),
    };

    /// The same in less time.
    pub fn shortened(by: u32) -> Self {
        let Self { reconnect, comfy, dreams, retry } = Self::PAGE;
        Self { reconnect: reconnect / by, comfy: comfy / by, dreams: dreams / by, retry: retry / by }
    }
}

/// What the socket's thread and the page share.
#[derive(Default)]
struct Shared {
    received: Mutex<Vec<Value>>,
    changed: Condvar,
    open: AtomicBool,
    left: AtomicBool,
    connections: Mutex<usize>,
}

impl Shared {
    fn received(&self) -> MutexGuard<'_, Vec<Value>> {
        self.received.lock()
    }

    fn set_open(&self, open: bool) {
        self.open.store(open, Ordering::SeqCst);
        *self.connections.lock() += usize::from(open);
        let _received = self.received();
        self.changed.notify_all();
    }
}

/// An open page.
pub struct Page {
    pace: Pace,
    shared: Arc<Shared>,
    outgoing: Sender<String>,
    next_id: u64,
    thread: Option<JoinHandle<()>>,
}

/// What became of a job.
pub type Ended = Result<Value, String>;

impl Page {
    /// Opens the page, which connects by itself.
    pub fn open(server: &Server, pace: Pace) -> Self {
        let shared = Arc::new(Shared::default());
        let (outgoing, to_send) = channel();
        let (address, thread_shared) = (server.address.clone(), shared.clone());
        let thread = std::thread::spawn(move || keep_connected(&address, pace, &thread_shared, &to_send));
        let page = Self { pace, shared, outgoing, next_id: 0, thread: Some(thread) };
        page.until_open();
        page
    }

    /// Waits until the socket is open.
    pub fn until_open(&self) {
        let is_open = |_: &[Value]| self.shared.open.load(Ordering::SeqCst).then_some(());
        self.wait(Duration::from_secs(60), is_open).expect("the page connects");
    }

    /// Waits until the page has noticed that the socket is closed.
    pub fn until_closed(&self) {
        let is_closed = |_: &[Value]| (!self.shared.open.load(Ordering::SeqCst)).then_some(());
        self.wait(Duration::from_secs(60), is_closed).expect("the page notices");
    }

    /// How often it has connected.
    pub fn connections(&self) -> usize {
        *self.shared.connections.lock()
    }

    /// Sends a message, or drops it while the socket is closed.
    pub fn send(&self, message: &Value) {
        if self.shared.open.load(Ordering::SeqCst) {
            self.outgoing.send(message.to_string()).expect("the thread runs");
        }
    }

    /// What `wanted` finds among all that was received, as soon as it does.
    fn wait<T>(&self, patience: Duration, wanted: impl Fn(&[Value]) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + patience;
        let mut received = self.shared.received();
        loop {
            if let Some(found) = wanted(&received) {
                return Some(found);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            self.shared.changed.wait_for(&mut received, left);
        }
    }

    /// The first message received for which `wanted` holds.
    pub fn message(&self, patience: Duration, wanted: impl Fn(&Value) -> bool) -> Option<Value> {
        self.wait(patience, |received| received.iter().find(|message| wanted(message)).cloned())
    }

    /// Sends a message with an id and returns its reply.
    pub fn ask(&mut self, mut message: Value, reply: &str) -> Option<Value> {
        self.next_id += 1;
        let id = json!(self.next_id);
        message["id"] = id.clone();
        self.send(&message);
        self.message(ACK, |received| received["type"] == reply && received["id"] == id)
    }

    /// Submits a job and returns its id. None where no acknowledgement came in time: then all is over for the page.
    pub fn submit(&mut self, mut message: Value) -> Option<String> {
        message["type"] = "job:submit".into();
        let ack = self.ask(message, "job:ack")?;
        Some(ack["jobId"].as_str().expect("an acknowledgement names the job").to_owned())
    }

    /// Waits for the end of a job.
    pub fn end(&self, job: &str) -> Ended {
        let ends = |m: &Value| m["jobId"] == job && (m["type"] == "job:complete" || m["type"] == "job:error");
        let end = self.message(END, ends).ok_or("the job takes too long")?;
        match end["type"] == "job:complete" {
            true => Ok(end),
            false => Err(end["error"].as_str().expect("an error has a text").to_owned()),
        }
    }

    /// Runs a job to its end, and again while the queue is full. `tried` hears of each full queue.
    pub fn run(&mut self, message: &Value, mut tried: impl FnMut(usize)) -> Ended {
        let mut ended = Err(String::new());
        for attempt in 1..=TRIES {
            let job = self.submit(message.clone()).ok_or("not acknowledged")?;
            ended = self.end(&job);
            let full = |error: &String| error.to_lowercase().contains("queue full");
            if !ended.as_ref().is_err_and(full) {
                return ended;
            }
            tried(attempt);
            if attempt < TRIES {
                std::thread::sleep(self.pace.retry);
            }
        }
        ended
    }

    /// What its Cancel button does.
    pub fn abort(&self, job: &str) {
        self.send(&json!({"type": "job:cancel", "jobId": job}));
    }

    /// Uploads a file as `FormData` and returns it as it stands in jobs.
    pub fn upload(&self, server: &Server, content: &[u8]) -> String {
        let answer = server.post("/v1/upload", Some(content), &[]);
        assert_eq!(answer.status, 200, "{}", answer.text());
        format!("fileRef:{}", answer.json()["fileRef"].as_str().expect("a fileRef"))
    }

    /// Loads a picture as an `<img>` does.
    pub fn show(&self, server: &Server, url: &str) -> image::DynamicImage {
        assert!(url.starts_with('/'), "an <img> of this page would not load '{url}'");
        let accept = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8";
        let answer = server.request("GET", url, &[("Accept", accept)]);
        assert_eq!(answer.status, 200, "{url}: {}", answer.text());
        let media_type = answer.header("content-type").expect("a media type");
        assert!(media_type.starts_with("image/"), "{url}: {media_type}");
        image::load_from_memory(&answer.body).expect("a picture")
    }

    /// Runs a workflow over HTTP and polls it to its end, which it returns. `seen` hears of each poll.
    pub fn comfy(
        &self,
        server: &Server,
        workflow: &str,
        params: &Value,
        picture: Option<&[u8]>,
        mut seen: impl FnMut(&Value),
    ) -> Value {
        let params = params.to_string();
        let fields = [("workflowId", workflow), ("params", &params)];
        let picture = picture.map(|content| ("image", content));
        let answer = server.post_form("/v1/comfy/jobs", picture, &fields);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let told = answer.json();
        let job = told["job_id"].as_str().expect("a job_id").to_owned();
        self.poll(server, &format!("/v1/comfy/jobs/{job}"), self.pace.comfy, |told| {
            seen(told);
            matches!(told["status"].as_str(), Some("done" | "error" | "canceled"))
        })
    }

    /// Polls dreams until `enough` finds what it wants in their status.
    pub fn dreams(&self, server: &Server, enough: impl FnMut(&Value) -> bool) -> Value {
        self.poll(server, "/dreams/status", self.pace.dreams, enough)
    }

    fn poll(
        &self,
        server: &Server,
        path: &str,
        interval: Duration,
        mut ends: impl FnMut(&Value) -> bool,
    ) -> Value {
        let deadline = Instant::now() + END;
        loop {
            let answer: Answer = server.get(path);
            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
            let told = answer.json();
            if ends(&told) {
                return told;
            }
            assert!(Instant::now() < deadline, "{path} comes to no end: {told}");
            std::thread::sleep(interval);
        }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.shared.left.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Keeps the page's socket open until the page is left.
fn keep_connected(address: &str, pace: Pace, shared: &Shared, outgoing: &Receiver<String>) {
    let mut delay = pace.reconnect;
    while !shared.left.load(Ordering::SeqCst) {
        if converse(address, shared, outgoing).is_some() {
            delay = pace.reconnect;
        }
        std::thread::sleep(delay);
        delay = (delay * 3 / 2).min(pace.reconnect * 15);
    }
}

/// One connection. None where there was none.
fn converse(address: &str, shared: &Shared, outgoing: &Receiver<String>) -> Option<()> {
    let stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(ACK)).ok()?;
    let (mut socket, _) = tungstenite::client(format!("ws://{address}/v1/ws"), stream).ok()?;
    socket.get_ref().set_read_timeout(Some(LOOK)).ok()?;
    // What was sent before this connection is lost with the one before.
    outgoing.try_iter().for_each(drop);
    shared.set_open(true);
    while !shared.left.load(Ordering::SeqCst) {
        if outgoing.try_iter().any(|text| socket.send(Message::text(text)).is_err()) {
            break;
        }
        match socket.read() {
            Ok(Message::Text(text)) => {
                let message = serde_json::from_str(&text).expect("every message is JSON");
                shared.received().push(message);
                shared.changed.notify_all();
            }
            Ok(_) => {}
            Err(tungstenite::Error::Io(error)) if is_timeout(&error) => {}
            Err(_) => break,
        }
    }
    shared.set_open(false);
    Some(())
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}
