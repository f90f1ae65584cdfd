//! A server that speaks ComfyUI's protocol from recordings of the real one (`fixtures/comfy`, made by
//! `oracles/comfy/record.py`), and that breaks where a test wants it to.

use std::{
    collections::{BTreeMap, HashMap},
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use serde_json::{Value, json};
use tungstenite::Message;

/// What goes wrong with the next prompt; later ones are well.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// The sockets close after so many messages; the prompt runs on.
    Close(usize),
    /// Everything is forgotten after so many messages, as by a restart.
    Restart(usize),
    /// The same, and nothing is answered any more.
    Die(usize),
    /// No message comes after so many, though the prompt runs.
    Silence(usize),
    /// It waits in the queue until it is deleted.
    Wait,
    /// `POST /prompt` answers 500, though the prompt is taken.
    Lost,
}

/// Messages to a socket; none closes it.
type Outgoing = Option<Message>;

#[derive(Default)]
struct State {
    recordings: BTreeMap<String, Value>,
    /// The recording that prompts follow.
    play: String,
    fault: Option<Fault>,
    dead: bool,
    running: Vec<String>,
    pending: Vec<String>,
    history: HashMap<String, Value>,
    interrupted: Vec<String>,
    /// Grows with each restart, so that what played before plays no longer.
    life: usize,
    sockets: HashMap<String, Sender<Outgoing>>,
    /// Method and path of each request, with its JSON.
    requests: Vec<(String, Value)>,
    pace: Duration,
}

/// The server. It goes on until the test's process ends.
pub struct Comfy {
    state: Arc<Mutex<State>>,
    pub url: String,
}

impl Comfy {
    /// Starts one that follows this recording.
    pub fn start(play: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/comfy");
        let mut recordings = BTreeMap::new();
        for entry in std::fs::read_dir(folder).expect("recordings").flatten() {
            let name = entry.path().file_stem().expect("a name").to_string_lossy().into_owned();
            let content = std::fs::read(entry.path()).expect("readable");
            recordings.insert(name, serde_json::from_slice(&content).expect("JSON"));
        }
        let state =
            State { recordings, play: play.into(), pace: Duration::from_millis(5), ..State::default() };
        let state = Arc::new(Mutex::new(state));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        Self { state, url }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub fn play(&self, recording: &str) {
        self.state().play = recording.into();
    }

    pub fn fault(&self, fault: Fault) {
        self.state().fault = Some(fault);
    }

    /// The time between two messages.
    pub fn pace(&self, pace: Duration) {
        self.state().pace = pace;
    }

    /// Whether connections are dropped unanswered.
    pub fn dead(&self, dead: bool) {
        self.state().dead = dead;
    }

    /// Puts another client's prompt into the queue.
    pub fn busy(&self, prompt: &str) {
        self.state().running.push(prompt.into());
    }

    /// The JSON of all requests to a path, given as `POST /prompt`.
    pub fn asked(&self, request: &str) -> Vec<Value> {
        let state = self.state();
        let fitting = state.requests.iter().filter(|(asked, _)| asked.starts_with(request));
        fitting.map(|(_, body)| body.clone()).collect()
    }
}

fn serve(mut stream: TcpStream, state: &Arc<Mutex<State>>) {
    if state.lock().dead {
        return;
    }
    // The head is looked at first, as a WebSocket's is read by its own library.
    let mut seen = [0; 4096];
    let head = loop {
        let Ok(count) = stream.peek(&mut seen) else { return };
        if count == 0 {
            return;
        }
        if let Some(end) = seen[..count].windows(4).position(|window| window == b"\r\n\r\n") {
            break String::from_utf8_lossy(&seen[..end + 4]).into_owned();
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let mut line = head.lines().next().unwrap_or_default().split(' ');
    let (method, path) =
        (line.next().unwrap_or_default().to_owned(), line.next().unwrap_or_default().to_owned());
    if let Some(client) = path.strip_prefix("/ws?clientId=") {
        return listen(stream, client, state);
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    let mut request = vec![0; head.len() + length.unwrap_or(0)];
    if stream.read_exact(&mut request).is_err() {
        return;
    }
    let (status, media_type, content) = answer(state, &method, &path, &request[head.len()..]);
    let head = format!(
        "HTTP/1.1 {status} Told\r\nContent-Type: {media_type}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        content.len()
    );
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&content));
}

fn listen(stream: TcpStream, client: &str, state: &Arc<Mutex<State>>) {
    let Ok(mut socket) = tungstenite::accept(stream) else { return };
    let (sender, receiver): (_, Receiver<Outgoing>) = channel();
    let greeting =
        json!({"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 0}}, "sid": client}});
    let _ = sender.send(Some(Message::text(greeting.to_string())));
    state.lock().sockets.insert(client.to_owned(), sender);
    while let Ok(Some(message)) = receiver.recv() {
        if socket.send(message).is_err() {
            return;
        }
    }
}

type Told = (u16, String, Vec<u8>);

fn json_answer(status: u16, value: &Value) -> Told {
    (status, "application/json".into(), value.to_string().into_bytes())
}

fn answer(shared: &Arc<Mutex<State>>, method: &str, path: &str, body: &[u8]) -> Told {
    let mut state = shared.lock();
    let given: Value = serde_json::from_slice(body).unwrap_or_default();
    state.requests.push((format!("{method} {path}"), given.clone()));
    match (method, path) {
        ("GET", "/queue") => {
            let item = |(number, id): (usize, &String)| json!([number, id, {}, {}, []]);
            let list = |ids: &[String]| ids.iter().enumerate().map(item).collect::<Vec<_>>();
            json_answer(
                200,
                &json!({"queue_running": list(&state.running), "queue_pending": list(&state.pending)}),
            )
        }
        ("POST", "/queue") => {
            let delete = given["delete"].as_array().cloned().unwrap_or_default();
            state.pending.retain(|id| !delete.contains(&id.as_str().into()));
            (200, "text/plain".into(), Vec::new())
        }
        ("POST", "/interrupt") => {
            // Without an id the real one interrupts whatever runs: a test sees that by the wrong prompt's end.
            let running = state.running.clone();
            let id = given["prompt_id"].as_str();
            state.interrupted.extend(running.into_iter().filter(|own| id.is_none_or(|id| id == own)));
            (200, "text/plain".into(), Vec::new())
        }
        ("POST", "/prompt") => submit(&mut state, shared, &given),
        ("POST", "/upload/image") => {
            let text = String::from_utf8_lossy(body);
            let name = text.split("filename=\"").nth(1).and_then(|rest| rest.split('"').next());
            json_answer(200, &json!({"name": name, "subfolder": "", "type": "input"}))
        }
        ("GET", path) if path.starts_with("/history/") => {
            let id = &path["/history/".len()..];
            let entry = state.history.get(id).map(|entry| json!({id: entry}));
            json_answer(200, &entry.unwrap_or_else(|| json!({})))
        }
        _ => {
            let of = if path.starts_with("/view") { state.play.clone() } else { "information".into() };
            let asked = |step: &&Value| step["asked"]["method"] == method && step["asked"]["path"] == path;
            match steps(&state.recordings[&of]).find(asked) {
                Some(step) => recorded(&step["answered"]),
                None => json_answer(404, &json!({"error": format!("{method} {path} was not recorded")})),
            }
        }
    }
}

fn steps(recording: &Value) -> impl Iterator<Item = &Value> {
    recording["conversation"].as_array().into_iter().flatten()
}

fn recorded(told: &Value) -> Told {
    let status = told["status"].as_u64().unwrap_or(200) as u16;
    match told["base64"].as_str() {
        Some(text) => (status, told["media_type"].as_str().unwrap_or_default().into(), decode(text)),
        None => json_answer(status, &told["json"]),
    }
}

fn submit(state: &mut State, shared: &Arc<Mutex<State>>, given: &Value) -> Told {
    let recording = state.recordings[&state.play].clone();
    let id = given["prompt_id"].as_str().expect("we choose the id").to_owned();
    let client = given["client_id"].as_str().expect("we name ourselves").to_owned();
    let own = |value: &Value| -> Value {
        let text = value.to_string().replace("PROMPT", &id).replace("CLIENT", &client);
        serde_json::from_str(&text).expect("still JSON")
    };
    let begins = |step: &Value| step["asked"]["path"] == "/prompt";
    let told = steps(&recording).find(|step| begins(step)).expect("recorded")["answered"].clone();
    if told["status"] != 200 {
        return recorded(&own(&told));
    }
    let fault = state.fault.take();
    let messages: Vec<Value> = steps(&recording)
        .filter(|step| step.get("text").is_some() || step.get("preview").is_some())
        .map(&own)
        .collect();
    let history = format!("/history/{id}");
    let entry = steps(&recording).map(&own).find(|step| step["asked"]["path"] == *history);
    let entry = entry.map_or_else(|| json!({"outputs": {}}), |step| step["answered"]["json"][&id].clone());
    let interrupted = state.recordings["interrupted"].clone();
    let play = Play {
        id: id.clone(),
        client: client.clone(),
        messages,
        entry,
        interrupted: steps(&interrupted).map(&own).collect(),
        fault,
        life: state.life,
        pace: state.pace,
    };
    state.pending.push(id.clone());
    let shared = shared.clone();
    std::thread::spawn(move || play.run(&shared));
    match fault {
        Some(Fault::Lost) => (500, "text/plain".into(), b"Internal Server Error".to_vec()),
        _ => recorded(&own(&told)),
    }
}

/// A prompt as it runs.
struct Play {
    id: String,
    client: String,
    messages: Vec<Value>,
    entry: Value,
    /// What is told of one that is interrupted.
    interrupted: Vec<Value>,
    fault: Option<Fault>,
    life: usize,
    pace: Duration,
}

impl Play {
    fn run(self, shared: &Mutex<State>) {
        for (count, message) in self.messages.iter().enumerate() {
            std::thread::sleep(self.pace);
            let mut state = shared.lock();
            if state.life != self.life {
                return;
            }
            if state.interrupted.contains(&self.id) {
                return self.interrupt(&mut state);
            }
            let kind = message["text"]["type"].as_str().unwrap_or_default();
            if kind == "execution_start" {
                if self.fault == Some(Fault::Wait) {
                    return;
                }
                if !state.pending.contains(&self.id) {
                    return;
                }
                state.pending.retain(|id| *id != self.id);
                state.running.push(self.id.clone());
            }
            match self.fault {
                Some(Fault::Close(at)) if at == count => close(&mut state),
                Some(Fault::Restart(at) | Fault::Die(at)) if at == count => {
                    state.dead = matches!(self.fault, Some(Fault::Die(_)));
                    state.life += 1;
                    state.running.clear();
                    state.pending.clear();
                    state.history.clear();
                    return close(&mut state);
                }
                Some(Fault::Silence(at)) if at <= count => {
                    drop(state);
                    return self.wait(shared);
                }
                _ => {}
            }
            if message["text"]["type"] == "executing" && message["text"]["data"]["node"].is_null() {
                self.end(&mut state, self.entry.clone());
            }
            self.tell(&mut state, message);
        }
        let mut state = shared.lock();
        if state.life == self.life && state.running.contains(&self.id) {
            self.end(&mut state, self.entry.clone());
        }
    }

    /// Nothing more is told, but it can be interrupted.
    fn wait(&self, shared: &Mutex<State>) {
        loop {
            std::thread::sleep(self.pace);
            let mut state = shared.lock();
            if state.interrupted.contains(&self.id) {
                return self.interrupt(&mut state);
            }
        }
    }

    fn end(&self, state: &mut State, entry: Value) {
        state.running.retain(|id| *id != self.id);
        state.history.insert(self.id.clone(), entry);
    }

    fn interrupt(&self, state: &mut State) {
        let history = format!("/history/{}", self.id);
        let entry = self.interrupted.iter().find(|step| step["asked"]["path"] == *history);
        self.end(state, entry.map_or(Value::Null, |step| step["answered"]["json"][&self.id].clone()));
        for step in self.interrupted.iter().filter(|step| step["text"]["type"] == "execution_interrupted") {
            self.tell(state, step);
        }
    }

    fn tell(&self, state: &mut State, message: &Value) {
        let frame = match message["base64"].as_str() {
            Some(picture) => {
                let about = message["preview"].to_string();
                let head = [4_u32.to_be_bytes(), (about.len() as u32).to_be_bytes()].concat();
                Message::binary([&head[..], about.as_bytes(), &decode(picture)].concat())
            }
            None => Message::text(message["text"].to_string()),
        };
        if let Some(socket) = state.sockets.get(&self.client) {
            let _ = socket.send(Some(frame));
        }
    }
}

fn close(state: &mut State) {
    for (_, socket) in state.sockets.drain() {
        let _ = socket.send(None);
    }
}

fn decode(text: &str) -> Vec<u8> {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    BASE64_STANDARD.decode(text).expect("base64")
}
