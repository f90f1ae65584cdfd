//! What the end-to-end tests share: the real server on a free port, a WebSocket client and an HTTP client.

mod client;
pub mod comfy;
pub mod old_client;

use std::{
    io::{BufRead, BufReader, Read, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

pub use client::Client;
use serde_json::{Value, json};
use tempfile::TempDir;
pub use tungstenite::Message;
use tungstenite::client::IntoClientRequest;

/// How long anything may take before a test fails. Generous: it is no measurement.
const PATIENCE: Duration = Duration::from_secs(60);

/// Says that a test was skipped, and why; not by `eprintln!`, which is shown for tests that fail only.
pub fn skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

/// The component of a test guest.
pub fn guest(name: &str) -> PathBuf {
    Path::new(env!("TEST_GUESTS")).join(format!("{name}.wasm"))
}

/// The component of a plugin of the project.
pub fn plugin(name: &str) -> PathBuf {
    Path::new(env!("PLUGINS")).join(format!("{name}.wasm"))
}

/// A PNG of a plain gradient.
pub fn picture(width: u32, height: u32) -> Vec<u8> {
    let picture =
        image::RgbImage::from_fn(width, height, |x, y| image::Rgb([(x % 256) as u8, (y % 256) as u8, 90]));
    let mut content = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut content, image::ImageFormat::Png).expect("to memory");
    content.into_inner()
}

/// An adapter of rank 1 for the query projection of the first attention of the tiny model's UNet, 8 to 8 features.
pub fn lora() -> Vec<u8> {
    let layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_v";
    let header = json!({
        format!("{layer}.lora_down.weight"): {"dtype": "F32", "shape": [1, 8], "data_offsets": [0, 32]},
        format!("{layer}.lora_up.weight"): {"dtype": "F32", "shape": [8, 1], "data_offsets": [32, 64]},
    });
    let header = header.to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    for i in 0..16 {
        file.extend_from_slice(&(0.5f32 + i as f32 / 8.0).to_le_bytes());
    }
    file
}

/// The server as a process, with a folder of its own. It is killed when this is dropped.
pub struct Server {
    pub dir: TempDir,
    pub address: String,
    process: Child,
    settings: Vec<String>,
    environment: Vec<(String, String)>,
}

/// A server's folder and settings, before it starts.
struct Prepared {
    dir: TempDir,
    settings: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Prepared {
    fn launch(self) -> Server {
        let Self { dir, settings, environment } = self;
        let (process, address) = spawn(dir.path(), "0", &settings, &environment);
        Server { dir, address, process, settings, environment }
    }
}

impl Server {
    /// Starts a server with these settings (`section.key=value`) and test guests in its plugin folder.
    pub fn start(settings: &[&str], guests: &[&str]) -> Self {
        Self::start_with(&[], settings, guests)
    }

    /// The same with variables of the environment.
    pub fn start_with(environment: &[(&str, &str)], settings: &[&str], guests: &[&str]) -> Self {
        Self::start_in("", environment, settings, guests)
    }

    /// The same with a configuration file.
    pub fn start_in(
        configuration: &str,
        environment: &[(&str, &str)],
        settings: &[&str],
        guests: &[&str],
    ) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(dir.path().join("reverie-data/plugins")).expect("a folder");
        if !configuration.is_empty() {
            std::fs::write(dir.path().join("reverie.toml"), configuration).expect("written");
        }
        for name in guests {
            std::fs::copy(guest(name), dir.path().join(format!("reverie-data/plugins/{name}.wasm")))
                .expect("built");
        }
        let granted = "plugins.echo.capabilities=[\"jobs\", \"hub\"]";
        let settings: Vec<String> = [granted].iter().chain(settings).map(|s| s.to_string()).collect();
        let environment =
            environment.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Prepared { dir, settings, environment }.launch()
    }

    fn prepare(settings: &[&str]) -> Prepared {
        let dir = tempfile::tempdir().expect("a folder");
        let settings = settings.iter().map(|s| s.to_string()).collect();
        Prepared { dir, settings, environment: Vec::new() }
    }

    /// Ends the process without warning and starts it again in the same folder.
    pub fn crash_and_restart(&mut self) {
        self.crash();
        (self.process, self.address) = spawn(self.dir.path(), "0", &self.settings, &self.environment);
    }

    /// Ends the process without warning.
    pub fn crash(&mut self) {
        self.process.kill().expect("runs");
        self.process.wait().expect("ends");
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// What the process has in memory, in kB.
    pub fn memory_kb(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("Linux");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a figure");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Sends a signal, such as `-SEGV`.
    pub fn signal(&self, signal: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().expect("kill runs").success());
    }

    /// MiB of memory that the process has resident (Linux).
    pub fn resident_mb(&self) -> usize {
        let path = format!("/proc/{}/status", self.process.id());
        let status = std::fs::read_to_string(path).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has it");
        let kib: usize = line.trim().trim_end_matches(" kB").trim().parse().expect("a number");
        kib >> 10
    }

    /// Waits until it has ended by itself; how it did.
    pub fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait().expect("a child") {
                return status;
            }
            assert!(Instant::now() < deadline, "the server does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts it again after a crash where it was, for clients that only know that address.
    pub fn restart_in_place(&mut self) {
        let port = self.address.rsplit_once(':').expect("a port").1.to_owned();
        (self.process, self.address) = spawn(self.dir.path(), &port, &self.settings, &self.environment);
    }

    /// Sends SIGTERM and waits for the end. True when it ended well.
    pub fn terminate(&mut self) -> bool {
        self.signal("-TERM");
        self.ended().success()
    }

    pub fn plugin_path(&self, name: &str) -> PathBuf {
        self.dir.path().join("reverie-data/plugins").join(format!("{name}.wasm"))
    }

    /// Connects as a client that nobody knows yet.
    pub fn connect(&self) -> Client {
        self.connect_to("/v1/ws")
    }

    /// Connects and takes in the greeting.
    pub fn connect_to(&self, path: &str) -> Client {
        let mut client = self.try_connect(path).expect("connects");
        client.greeting = client.receive();
        assert_eq!(client.greeting["type"], "system:status");
        client
    }

    /// Connects; the answer's status when that is refused.
    pub fn try_connect(&self, path: &str) -> Result<Client, u16> {
        self.try_connect_with(path, &[])
    }

    /// The same with headers, in place of those that there would be.
    pub fn try_connect_with(&self, path: &str, headers: &[(&'static str, &str)]) -> Result<Client, u16> {
        let stream = TcpStream::connect(&self.address).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut request = format!("ws://{}{path}", self.address).into_client_request().expect("an address");
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().expect("a header"));
        }
        match tungstenite::client(request, stream) {
            Ok((socket, _)) => Ok(Client::new(socket)),
            Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(answer))) => {
                Err(answer.status().as_u16())
            }
            Err(error) => panic!("{error}"),
        }
    }

    pub fn get(&self, path: &str) -> Answer {
        Answer::of(agent().get(self.url(path)).call())
    }

    pub fn put(&self, path: &str, content: &[u8]) -> Answer {
        Answer::of(agent().put(self.url(path)).send(content))
    }

    /// Posts a multipart form with a file in the field `file`, and further fields.
    pub fn post(&self, path: &str, file: Option<&[u8]>, fields: &[(&str, &str)]) -> Answer {
        self.post_form(path, file.map(|content| ("file", content)), fields)
    }

    /// The same with the file's field named.
    pub fn post_form(&self, path: &str, file: Option<(&str, &[u8])>, fields: &[(&str, &str)]) -> Answer {
        let mut body = Vec::new();
        for (name, value) in fields {
            let part =
                format!("--limit\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
            body.extend_from_slice(part.as_bytes());
        }
        if let Some((name, content)) = file {
            let head = format!(
                "--limit\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"x\"\r\n\
                 Content-Type: image/png\r\n\r\n"
            );
            body.extend_from_slice(head.as_bytes());
            body.extend_from_slice(content);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(b"--limit--\r\n");
        let post = agent().post(self.url(path)).header("Content-Type", "multipart/form-data; boundary=limit");
        Answer::of(post.send(&body))
    }

    /// Puts JSON.
    pub fn put_json(&self, path: &str, body: &Value) -> Answer {
        let put = agent().put(self.url(path)).header("Content-Type", "application/json");
        Answer::of(put.send(body.to_string().as_bytes()))
    }

    /// The answer to these very bytes, which must ask for the connection's end. Its headers stay unread.
    pub fn raw(&self, request: &str) -> Answer {
        let mut stream = TcpStream::connect(&self.address).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer");
        let text = String::from_utf8_lossy(&answer).into_owned();
        let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
        let body = text.split_once("\r\n\r\n").map(|(_, body)| body.as_bytes().to_vec());
        let malformed = || panic!("no HTTP answer: {text}");
        Answer {
            status: status.unwrap_or_else(malformed),
            headers: Vec::new(),
            body: body.unwrap_or_default(),
        }
    }

    /// Posts JSON.
    pub fn post_json(&self, path: &str, body: &Value) -> Answer {
        let post = agent().post(self.url(path)).header("Content-Type", "application/json");
        Answer::of(post.send(body.to_string().as_bytes()))
    }

    /// Sends a request of any method with headers and no body.
    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = ureq::http::Request::builder().method(method).uri(self.url(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Answer::of(agent().run(request.body(()).expect("a request")))
    }

    /// Sends a request of any method with headers and a body.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut request = ureq::http::Request::builder().method(method).uri(self.url(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE))
            .allow_non_standard_methods(true)
            .build();
        Answer::of(ureq::Agent::from(agent).run(request.body(body).expect("a request")))
    }

    /// Starts a server with the tiny text-to-image models named.
    pub fn with_models(settings: &[&str], models: &[&str]) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/diffusion/pipelines");
        let server = Self::prepare(settings);
        let dir = server.dir.path().join("reverie-data/checkpoints");
        std::fs::create_dir_all(&dir).expect("a folder");
        for model in models {
            std::os::unix::fs::symlink(folder.join(model), dir.join(model)).expect("a link");
        }
        server.launch()
    }

    /// Uploads a file and returns its `fileRef`.
    pub fn upload(&self, content: &[u8]) -> String {
        let answer = self.post("/v1/upload", Some(content), &[]);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["fileRef"].as_str().expect("a fileRef").to_owned()
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The `reverie` command.
pub fn binary() -> PathBuf {
    // Beside the test binaries: target/PROFILE/deps/TEST -> target/PROFILE/reverie-under-test.
    let test = std::env::current_exe().expect("a path");
    test.ancestors().nth(2).expect("cargo's layout").join("reverie-under-test")
}

fn spawn(dir: &Path, port: &str, settings: &[String], environment: &[(String, String)]) -> (Child, String) {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("log")).expect("a log");
    let mut command = Command::new(binary());
    command.current_dir(dir).args(["serve", "--port", port]).stdout(Stdio::piped()).stderr(log);
    // The components are compiled once for all servers of all tests, not by each.
    let cache = binary().with_file_name("test-plugin-cache");
    command.arg("--set").arg(format!("plugin_runtime.cache_dir={}", cache.display()));
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    for setting in settings {
        command.args(["--set", setting]);
    }
    let mut process = command.spawn().expect("the server was built");
    let mut line = String::new();
    BufReader::new(process.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    let address = line.trim().rsplit_once("://").map(|(_, address)| address.to_owned());
    let log = || std::fs::read_to_string(dir.join("log")).unwrap_or_default();
    let address = address.unwrap_or_else(|| panic!("the server did not start: {line}\n{}", log()));
    (process, address)
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE)).build().into()
}

/// An HTTP answer.
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    fn of(answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Self {
        let mut answer = answer.expect("an answer");
        let headers = answer.headers().iter();
        let headers =
            headers.map(|(n, v)| (n.to_string(), v.to_str().unwrap_or_default().to_owned())).collect();
        let mut body = Vec::new();
        let _ = answer.body_mut().as_reader().read_to_end(&mut body);
        Self { status: answer.status().as_u16(), headers, body }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}
