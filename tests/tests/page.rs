//! The page in a browser: whatever becomes of its connection, what is asked is done once and the buttons come back.

use std::{
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use reverie_tests::{Message, Server, skipped};
use serde_json::{Value, json};
use tempfile::TempDir;
use tungstenite::WebSocket;

const PATIENCE: Duration = Duration::from_secs(60);

/// A headless browser that shows one page, spoken to over its DevTools protocol.
struct Browser {
    process: Child,
    socket: WebSocket<TcpStream>,
    _profile: TempDir,
}

impl Browser {
    /// None where no Chromium is installed, or only a stand-in that ends at once.
    fn open(url: &str) -> Option<Self> {
        let profile = tempfile::tempdir().expect("a folder");
        let start = |name: &&str| {
            let mut command = Command::new(name);
            command.args(["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]);
            command.arg(format!("--user-data-dir={}", profile.path().display())).arg(url);
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()
        };
        let mut process = ["chromium", "chromium-browser", "google-chrome"].iter().find_map(start)?;
        let (deadline, file) = (Instant::now() + PATIENCE, profile.path().join("DevToolsActivePort"));
        loop {
            let port = std::fs::read_to_string(&file).unwrap_or_default();
            if let Some(socket) = port.lines().next().and_then(|port| attach(&format!("127.0.0.1:{port}"))) {
                return Some(Self { process, socket, _profile: profile });
            }
            if process.try_wait().is_ok_and(|ended| ended.is_some()) {
                return None;
            }
            assert!(Instant::now() < deadline, "the browser does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What an expression, or the promise that it is, comes to.
    fn run(&mut self, expression: &str) -> Value {
        let parameters = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let call = json!({"id": 1, "method": "Runtime.evaluate", "params": parameters});
        self.socket.send(Message::text(call.to_string())).expect("the browser runs");
        loop {
            let Message::Text(text) = self.socket.read().expect("an answer") else { continue };
            let answer: Value = serde_json::from_str(&text).expect("JSON");
            if answer["id"] == 1 {
                assert!(answer["result"]["exceptionDetails"].is_null(), "{expression}: {answer}");
                return answer["result"]["result"]["value"].clone();
            }
        }
    }

    /// Waits until an expression holds.
    fn until(&mut self, expression: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.run(expression) != true {
            if Instant::now() > deadline {
                panic!("{expression}: {}", self.run("document.body.innerText"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the page says this and can be asked again.
    fn ended(&mut self, message: &str) {
        self.until(&format!(
            "$('message').textContent === '{message}' && !$('go').disabled && $('cancel').disabled"
        ));
        assert_eq!(self.run("[job, asked, sessionStorage.asked].every(kept => kept === undefined)"), true);
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn attach(address: &str) -> Option<WebSocket<TcpStream>> {
    let mut pages = ureq::get(format!("http://{address}/json/list")).call().ok()?;
    let pages: Value = serde_json::from_slice(&pages.body_mut().read_to_vec().ok()?).ok()?;
    let page = pages.as_array()?.iter().find(|page| page["type"] == "page")?;
    let stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    Some(tungstenite::client(page["webSocketDebuggerUrl"].as_str()?, stream).ok()?.0)
}

/// The number of jobs that ended so.
fn ended(server: &Server, job_type: &str, state: &str) -> u64 {
    let metrics = server.get("/metrics").text();
    let name = format!("reverie_jobs_finished_total{{state=\"{state}\",type=\"{job_type}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).unwrap_or(0)
}

const GENERATE: &str = "$('prompt').value = 'a cat'; $('prompting').requestSubmit()";

#[test]
fn a_connection_that_breaks_loses_nothing() {
    let server = Server::with_models(&[], &["sd"]);
    let Some(mut page) = Browser::open(&format!("http://{}/", server.address)) else {
        return skipped("no Chromium that starts");
    };
    let connected = "location.protocol === 'http:' && document.readyState === 'complete' && socket?.readyState === 1 && $('mode').length > 0";
    page.until(connected);
    page.run("$('mode').value = 'emoji'; $('size').value = '64x64'; $('steps').value = 2");
    page.run(GENERATE);
    page.ended("done");

    // Not connected: it is sent later.
    page.run(&format!("socket.close(); {GENERATE}"));
    page.until("$('message').textContent.startsWith('not connected: it is sent') && !$('cancel').disabled");
    page.ended("done");
    assert_eq!(ended(&server, "generate", "done"), 2);
    page.until(connected);
    assert_eq!(page.run("$('mode').value"), "emoji", "what was chosen is not kept");
    page.run("$('mode').value = 'sd'");
    // Not sent yet, it can be taken back; the next one is another.
    page.run(&format!("socket.close(); {GENERATE}; $('cancel').click()"));
    page.ended("cancelled");
    page.until(connected);
    // The acknowledgement is lost: the job is found again.
    let breaks_after =
        "{ const own = socket, send = own.send.bind(own); own.send = text => { send(text); own.close(); }; }";
    page.run(&format!("{breaks_after} {GENERATE}"));
    page.ended("done");
    assert_eq!(ended(&server, "generate", "done"), 3);
    // What was sent is lost: it is sent again.
    page.until(connected);
    page.run(&format!("socket.send = () => socket.close(); {GENERATE}"));
    page.ended("done");
    assert_eq!(ended(&server, "generate", "done"), 4);

    // The same over a reload, and with a job that is to be cancelled before its acknowledgement.
    page.until(connected);
    page.run(&format!("socket.send = () => socket.close(); {GENERATE}; location.reload()"));
    page.until(&format!("{connected} && $('message').textContent === 'done'"));
    page.ended("done");
    assert_eq!(ended(&server, "generate", "done"), 5);
    page.run("$('size').value = '1024x1024'; $('steps').value = 50");
    page.run(&format!("{breaks_after} {GENERATE}; $('cancel').click()"));
    page.ended("job canceled");
    assert_eq!((ended(&server, "generate", "done"), ended(&server, "generate", "canceled")), (5, 1));
    // A job that runs while the connection breaks can still be cancelled.
    page.run(GENERATE);
    page.until("$('message').textContent.startsWith('step ')");
    page.run("socket.close()");
    page.until("$('message').textContent === 'not connected'");
    page.until("$('message').textContent.startsWith('step ')");
    page.run("$('cancel').click()");
    page.ended("job canceled");
    // So can one while it is broken.
    page.run(GENERATE);
    page.until("$('message').textContent.startsWith('step ')");
    page.run("socket.close(); $('cancel').click()");
    page.ended("job canceled");

    // An upload goes over HTTP; its job waits for the connection.
    let upscale = "(async () => {
        const canvas = document.createElement('canvas'), chosen = new DataTransfer();
        canvas.width = canvas.height = 8;
        chosen.items.add(new File([await new Promise(made => canvas.toBlob(made))], 'a.png'));
        $('file').files = chosen.files; $('magnitude').value = 1;
        socket.close(); $('form').requestSubmit();
    })()";
    page.run(upscale);
    page.ended("done");
    assert_eq!(ended(&server, "sr", "done"), 1);
}
