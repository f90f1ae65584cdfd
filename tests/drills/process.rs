//! The server as a process that may end, be killed, and refuse to start.

use std::{
    fs,
    io::{BufRead, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use reverie_tests::{binary, guest};
use serde_json::Value;

use crate::drill::becomes;

/// How long a start, an end or an answer may take. Generous: a drill measures no times unless it says so.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A server in a folder, running or not. It is killed when this is dropped.
pub struct Process {
    pub folder: PathBuf,
    /// Where it listens since its first start; later ones take the same port.
    pub address: String,
    pub settings: Vec<String>,
    pub environment: Vec<(String, String)>,
    child: Option<Child>,
}

/// One that did not start.
#[derive(Debug)]
pub struct Refused {
    pub status: Option<ExitStatus>,
    /// What it said on stderr.
    pub said: String,
    pub after: Duration,
}

impl Process {
    /// A server with the `echo` plugin, not started yet.
    pub fn prepare(folder: &Path, settings: &[&str]) -> Self {
        let plugins = folder.join("reverie-data/plugins");
        fs::create_dir_all(&plugins).expect("a folder");
        fs::copy(guest("echo"), plugins.join("echo.wasm")).expect("built");
        Self {
            folder: folder.to_owned(),
            address: String::new(),
            settings: settings.iter().map(|setting| setting.to_string()).collect(),
            environment: Vec::new(),
            child: None,
        }
    }

    /// # Panics
    /// When it does not start.
    pub fn start(&mut self) {
        if let Err(refused) = self.try_start() {
            panic!("the server does not start: {refused:?}");
        }
    }

    /// # Errors
    /// What became of it instead of starting.
    pub fn try_start(&mut self) -> Result<(), Refused> {
        let began = Instant::now();
        let before = self.log().len();
        let mut child = self.spawn();
        let stdout = child.stdout.take().expect("piped");
        let (told, line) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            let _ = BufReader::new(stdout).read_line(&mut line);
            let _ = told.send(line);
        });
        let line = line.recv_timeout(PATIENCE).unwrap_or_default();
        if let Some((_, address)) = line.trim().rsplit_once("http://") {
            self.address = address.to_owned();
            self.child = Some(child);
            return Ok(());
        }
        let status = wait(&mut child, Duration::from_secs(5));
        let _ = child.kill();
        let _ = child.wait();
        let said = self.log().get(before..).unwrap_or_default().to_owned();
        Err(Refused { status, said, after: began.elapsed() })
    }

    /// Starts and is killed after so long, whether or not it listens by then.
    pub fn stumble(&mut self, after: Duration) {
        let mut child = self.spawn();
        std::thread::sleep(after);
        let _ = child.kill();
        let _ = child.wait();
    }

    fn spawn(&self) -> Child {
        let port = self.address.rsplit_once(':').map_or("0", |(_, port)| port).to_owned();
        let log = fs::OpenOptions::new().create(true).append(true).open(self.folder.join("log"));
        let mut command = Command::new(binary());
        command.current_dir(&self.folder).args(["serve", "--port", &port]);
        command.stdout(Stdio::piped()).stderr(log.expect("a log"));
        let cache = binary().with_file_name("test-plugin-cache");
        command.arg("--set").arg(format!("plugin_runtime.cache_dir={}", cache.display()));
        command.args(["--set", "execution.backend=cpu", "--set", "diffusion.embedded=false"]);
        command.args(["--set", "plugins.echo.capabilities=[\"jobs\", \"hub\"]"]);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        for setting in &self.settings {
            command.args(["--set", setting]);
        }
        command.spawn().expect("the server was built")
    }

    pub fn id(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Whether the process has not ended by itself.
    pub fn runs(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM; whether it ended well, and in time.
    pub fn terminate(&mut self, within: Duration) -> bool {
        let Some(mut child) = self.child.take() else { return false };
        let sent = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
        let status = wait(&mut child, within);
        let _ = child.kill();
        let _ = child.wait();
        status.is_some_and(|status| status.success())
    }

    pub fn log(&self) -> String {
        let log = fs::read(self.folder.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// A file in its data folder.
    pub fn data(&self, name: &str) -> PathBuf {
        self.folder.join("reverie-data").join(name)
    }

    /// Status and body; none when nobody answers.
    pub fn get(&self, path: &str) -> Option<(u16, Vec<u8>)> {
        answer(agent().get(format!("http://{}{path}", self.address)).call())
    }

    pub fn post_json(&self, path: &str, body: &Value) -> Option<(u16, Value)> {
        let post = agent().post(format!("http://{}{path}", self.address));
        let (status, body) =
            answer(post.header("Content-Type", "application/json").send(body.to_string().as_bytes()))?;
        Some((status, serde_json::from_slice(&body).unwrap_or_default()))
    }

    /// Asks `/health`, which tells what it found for a moment, until it has this status; what it said last otherwise.
    pub fn health_is(&self, status: u16) -> Result<(), String> {
        let mut said = String::new();
        let is = becomes(Duration::from_secs(5), || {
            let Some((found, body)) = self.get("/health") else { return false };
            said = format!("{found} {}", String::from_utf8_lossy(&body));
            found == status
        });
        is.then_some(()).ok_or(said)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Uploads a file to a server; its `fileRef`, or none when nobody answers.
pub fn upload(address: &str, content: &[u8]) -> Option<String> {
    let head = "--limit\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\r\n\
                Content-Type: image/png\r\n\r\n";
    let body = [head.as_bytes(), content, b"\r\n--limit--\r\n"].concat();
    let post = agent().post(format!("http://{address}/v1/upload"));
    let post = post.header("Content-Type", "multipart/form-data; boundary=limit");
    let (status, body) = answer(post.send(&body))?;
    let body: Value = serde_json::from_slice(&body).ok()?;
    body["fileRef"].as_str().filter(|_| status == 200).map(str::to_owned)
}

/// What is stored under a key; none when nobody answers.
pub fn stored(address: &str, key: &str) -> Option<(u16, Vec<u8>)> {
    answer(agent().get(format!("http://{address}/storage/{key}")).call())
}

/// Unix seconds.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |now| now.as_secs_f64())
}

fn wait(child: &mut Child, within: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + within;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            _ if Instant::now() > deadline => return None,
            _ => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn answer(answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Option<(u16, Vec<u8>)> {
    let mut answer = answer.ok()?;
    let mut body = Vec::new();
    answer.body_mut().as_reader().read_to_end(&mut body).ok()?;
    Some((answer.status().as_u16(), body))
}

fn agent() -> ureq::Agent {
    // No connection outlives the server it was made to.
    let config = ureq::Agent::config_builder().http_status_as_error(false).max_idle_connections(0);
    config.timeout_global(Some(PATIENCE)).build().into()
}
