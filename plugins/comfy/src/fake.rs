//! For tests: ComfyUI servers of a few lines, with a clock that runs only while somebody waits.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
};

use reverie_plugin_sdk::Error;
use serde_json::{Map, Value, json};

use crate::host::{Frame, Host, Request, Response, Socket};

/// One server, and what shall happen on it.
#[derive(Default)]
pub struct Comfy {
    /// No connection is answered.
    pub down: bool,
    pub load: usize,
    pub running: Option<String>,
    pub pending: Option<String>,
    pub history: Option<(String, Value)>,
    pub submitted: usize,
    pub interrupts: usize,
    pub deletions: usize,
    /// What happens at which time after a submission.
    pub script: VecDeque<(u64, Happening)>,
    pub messages: VecDeque<String>,
    /// The socket breaks when it is read next.
    pub broken: bool,
}

#[derive(Clone)]
pub enum Happening {
    Start,
    Say(Value),
    Finish,
    Fail,
    Break,
    /// The process dies; what it knew is lost.
    Die,
    Return,
    /// Another user removes the prompt.
    Removed,
}

/// All servers and the clock.
pub struct World {
    pub now: Cell<u64>,
    pub servers: Vec<(&'static str, Rc<RefCell<Comfy>>)>,
}

pub struct Fake {
    pub world: Rc<World>,
    pub script: RefCell<Vec<(u64, Happening)>>,
    pub cancel_at: u64,
    pub progress: RefCell<Vec<(f64, Value)>>,
    pub stored: RefCell<Vec<String>>,
}

pub struct FakeSocket(Rc<RefCell<Comfy>>, Rc<World>);

fn gone() -> Error {
    Error::unavailable("connection refused")
}

impl Comfy {
    fn clear(&mut self) {
        (self.running, self.pending, self.history) = (None, None, None);
        self.messages.clear();
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Start => self.running = self.pending.take(),
            Happening::Say(message) => self.messages.push_back(message.to_string()),
            Happening::Finish => {
                let file = json!({"filename": "o.png", "subfolder": "", "type": "output"});
                self.end(json!({"outputs": {"2": {"images": [file]}}, "status": {"status_str": "success", "completed": true}}));
            }
            Happening::Fail => {
                let told =
                    json!({"node_id": "2", "exception_type": "ValueError", "exception_message": "too small"});
                self.end(json!({"outputs": {}, "status":
                    {"status_str": "error", "completed": false, "messages": [["execution_error", told]]}}));
            }
            Happening::Break => self.broken = true,
            Happening::Die => {
                self.clear();
                (self.down, self.broken) = (true, true);
            }
            Happening::Return => self.down = false,
            Happening::Removed => self.pending = None,
        }
    }

    fn end(&mut self, entry: Value) {
        let id = self.running.take().or(self.pending.take()).expect("it runs");
        self.messages
            .push_back(json!({"type": "executing", "data": {"node": null, "prompt_id": id}}).to_string());
        self.history = Some((id, entry));
    }
}

impl World {
    fn pass(&self, ms: u64) {
        self.now.set(self.now.get() + ms);
        for (_, comfy) in &self.servers {
            let mut comfy = comfy.borrow_mut();
            while comfy.script.front().is_some_and(|(at, _)| *at <= self.now.get()) {
                let (_, what) = comfy.script.pop_front().expect("looked at");
                comfy.happen(what);
            }
        }
    }

    fn server(&self, url: &str) -> Result<Rc<RefCell<Comfy>>, Error> {
        let rest = url.split_once("://").expect("a URL").1;
        let (_, comfy) = self.servers.iter().find(|(name, _)| rest.starts_with(name)).expect("known");
        if comfy.borrow().down { Err(gone()) } else { Ok(comfy.clone()) }
    }
}

impl Host for Fake {
    type Socket = FakeSocket;

    fn call(&self, request: Request) -> Result<Response, Error> {
        self.world.pass(1);
        let shared = self.world.server(&request.url)?;
        let mut comfy = shared.borrow_mut();
        let path = request.url.splitn(4, '/').nth(3).unwrap_or_default();
        let body: Value = request
            .body
            .map(|(_, body)| serde_json::from_slice(&body).unwrap_or_default())
            .unwrap_or_default();
        let prompts = |id: &Option<String>| id.iter().map(|id| json!([0, id])).collect::<Vec<_>>();
        let answer = match (request.method, path.split('?').next().unwrap_or_default()) {
            ("GET", "queue") => {
                let mut running = prompts(&comfy.running);
                running.extend((0..comfy.load).map(|i| json!([0, format!("other{i}")])));
                json!({"queue_running": running, "queue_pending": prompts(&comfy.pending)})
            }
            ("POST", "queue") => {
                comfy.deletions += 1;
                comfy.pending = None;
                Value::Null
            }
            ("POST", "interrupt") => {
                comfy.interrupts += 1;
                assert_eq!(Some(body["prompt_id"].as_str().unwrap()), comfy.running.as_deref());
                Value::Null
            }
            ("POST", "prompt") => {
                let id = body["prompt_id"].as_str().unwrap().to_owned();
                comfy.submitted += 1;
                comfy.pending = Some(id.clone());
                let script = std::mem::take(&mut *self.script.borrow_mut()).into_iter();
                comfy.script.extend(script.map(|(at, what)| (self.world.now.get() + at, what)));
                json!({"prompt_id": id, "number": 1, "node_errors": {}})
            }
            ("GET", "view") => json!("a picture"),
            ("POST", "upload/image") => json!({"name": "given.png", "subfolder": "", "type": "input"}),
            (_, path) if path.starts_with("history") => comfy
                .history
                .iter()
                .map(|(id, entry)| (id.clone(), entry.clone()))
                .collect::<Map<_, _>>()
                .into(),
            (_, "object_info/LoadImage") => {
                json!({"LoadImage": {"input": {}, "output": ["IMAGE"], "output_node": false}})
            }
            (_, "object_info/SaveImage") => {
                json!({"SaveImage": {"input": {}, "output": [], "output_node": true}})
            }
            (method, path) => panic!("{method} {path}"),
        };
        Ok(Response { status: 200, media_type: "image/png".into(), body: answer.to_string().into_bytes() })
    }

    fn connect(&self, url: &str, _: u64) -> Result<FakeSocket, Error> {
        let comfy = self.world.server(url)?;
        comfy.borrow_mut().broken = false;
        Ok(FakeSocket(comfy, self.world.clone()))
    }

    fn now_ms(&self) -> u64 {
        self.world.now.get()
    }

    fn sleep(&self, ms: u64) {
        self.world.pass(ms);
    }

    fn random(&self) -> u64 {
        7
    }

    fn log(&self, _: &str) {}

    fn cancelled(&self) -> bool {
        self.world.now.get() >= self.cancel_at
    }

    fn progress(&self, fraction: f64, detail: &Value) {
        self.progress.borrow_mut().push((fraction, detail.clone()));
    }

    fn preview(&self, _: Option<f64>, _: Vec<u8>, _: &str) {}

    fn upload(&self, file_ref: &str) -> Result<(Vec<u8>, String), Error> {
        match file_ref {
            "there" => Ok((b"picture".to_vec(), "image/png".into())),
            other => Err(Error::not_found(other)),
        }
    }

    fn store(&self, _: Vec<u8>, media_type: &str) -> Result<String, Error> {
        self.stored.borrow_mut().push(media_type.to_owned());
        Ok(format!("comfy-{}", self.stored.borrow().len()))
    }
}

impl Socket for FakeSocket {
    fn send(&self, _: &str) -> Result<(), Error> {
        Ok(())
    }

    fn receive(&self, timeout_ms: u64) -> Result<Option<Frame>, Error> {
        let next = || self.0.borrow_mut().messages.pop_front();
        if let Some(message) = next() {
            return Ok(Some(Frame::Text(message)));
        }
        self.1.pass(timeout_ms);
        if self.0.borrow().broken {
            return Err(Error::unavailable("closed"));
        }
        Ok(next().map(Frame::Text))
    }
}

/// Servers of these addresses; the first prompt that any of them gets sets off the script.
pub fn fake(servers: &[&'static str], script: Vec<(u64, Happening)>) -> Fake {
    let servers = servers.iter().map(|name| (*name, Rc::default())).collect();
    Fake {
        world: Rc::new(World { now: Cell::new(0), servers }),
        script: RefCell::new(script),
        cancel_at: u64::MAX,
        progress: RefCell::default(),
        stored: RefCell::default(),
    }
}
