//! A prompt on one server, from its submission to its end: by the server's messages while they come, by its queue and
//! history when they do not.

use reverie_plugin_sdk::Error;
use serde_json::Value;

use crate::{
    api::{Answer, Server, Whereabouts, is_gone},
    config::{Config, ms},
    events::{Event, Tracker},
    host::{Frame, Host, Socket},
    job::Outputs,
    outputs::{self, End},
    workflow::Workflow,
};

/// How long one wait for a message is: what else there is to look at is looked at in between.
const SLICE_MS: u64 = 200;
/// How often the queue is asked while no messages come, at most and at least.
const PROBE_MS: (u64, u64) = (250, 5000);
/// Rests between attempts to reach a server that went away.
const RESTS_MS: (u64, u64) = (200, 3000);
/// How long the history may take to have a prompt that ended.
const HISTORY_MS: u64 = 5000;

/// How long a job may take.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    pub deadline_ms: u64,
    seconds: f64,
    /// Where it was set, for messages.
    key: &'static str,
}

impl Limit {
    /// The operator's, or the client's where that is shorter.
    pub fn new(begun_ms: u64, config: &Config, max_wait_s: Option<f64>) -> Self {
        let (seconds, key) = match max_wait_s.filter(|seconds| *seconds < config.limit_s) {
            Some(seconds) => (seconds, "max_wait_s"),
            None => (config.limit_s, "plugins.comfy.config.limit_s"),
        };
        Self { deadline_ms: begun_ms + ms(seconds), seconds, key }
    }
}

/// A prompt that is followed.
pub struct Follow<'a, H: Host> {
    pub server: Server<'a, H>,
    pub workflow: &'a Workflow,
    pub client: &'a str,
    pub previews: bool,
    /// When the job's time is up.
    pub limit: Limit,
    /// How long a server that went away is waited for.
    pub patience_ms: u64,
    /// The server's name of the prompt.
    pub prompt: String,
    pub tracker: Tracker,
    pub socket: Option<H::Socket>,
    /// What the server said of parts that will not run.
    pub warnings: Vec<String>,
}

/// A prompt that ended well.
#[derive(Debug)]
pub struct Finish {
    pub prompt: String,
    pub outputs: Outputs,
    pub cached: usize,
    pub nodes_total: usize,
    pub warnings: Vec<String>,
    /// The last progress.
    pub detail: Value,
}

pub enum Outcome {
    Finished(Finish),
    /// The server is gone, and why that is believed.
    Lost(String),
}

/// When what happened.
struct Times {
    /// The last sign of the prompt.
    sign: u64,
    /// The last look into the queue.
    probe: u64,
    /// When the connection broke.
    broken: u64,
    rest: u64,
    /// The socket held since the submission, so a prompt that is gone was removed and not lost.
    unbroken: bool,
    resubmitted: bool,
}

impl<H: Host> Follow<'_, H> {
    /// Submits the prompt. The inner error says why the server counts as lost.
    pub fn submit(&mut self) -> Result<Result<Answer, String>, Error> {
        let mut why = String::new();
        for _ in 0..2 {
            match self.server.submit(self.workflow, self.client, &self.prompt) {
                Ok(Answer::Accepted(id, warnings)) => {
                    self.prompt.clone_from(&id);
                    self.tracker.reset(&id);
                    self.warnings = warnings;
                    return Ok(Ok(Answer::Accepted(id, Vec::new())));
                }
                Ok(refused) => return Ok(Ok(refused)),
                Err(error) if is_gone(&error) => why = error.message,
                Err(error) => return Err(error),
            }
            // The answer may have got lost, and the prompt not.
            match self.server.find(&self.prompt) {
                Ok(Whereabouts::Absent) => {}
                Ok(_) => return Ok(Ok(Answer::Accepted(self.prompt.clone(), Vec::new()))),
                Err(_) => break,
            }
        }
        Ok(Err(why))
    }

    /// Follows the prompt to its end.
    ///
    /// # Errors
    /// `cancelled`, or why it failed.
    pub fn run(&mut self) -> Result<Outcome, Error> {
        let host = self.server.host;
        let now = host.now_ms();
        let mut times = Times {
            sign: now,
            probe: now,
            broken: now,
            rest: RESTS_MS.0,
            unbroken: true,
            resubmitted: false,
        };
        loop {
            self.check(&times)?;
            let Some(socket) = &self.socket else {
                if let Some(outcome) = self.recover(&mut times)? {
                    return Ok(outcome);
                }
                continue;
            };
            match socket.receive(SLICE_MS) {
                Ok(Some(frame)) => {
                    if let Some(outcome) = self.take(frame, &mut times)? {
                        return Ok(outcome);
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    host.log(&format!("the connection to {} broke: {}", self.server.url, error.message));
                    self.socket = None;
                    times.broken = host.now_ms();
                    times.unbroken = false;
                    times.rest = RESTS_MS.0;
                    continue;
                }
            }
            if let Some(outcome) = self.quiet(&mut times)? {
                return Ok(outcome);
            }
        }
    }

    /// What ends a job from outside.
    fn check(&self, times: &Times) -> Result<(), Error> {
        let host = self.server.host;
        if host.cancelled() {
            self.withdraw();
            return Err(Error::cancelled());
        }
        if host.now_ms() >= self.limit.deadline_ms {
            self.withdraw();
            let Limit { seconds, key, .. } = self.limit;
            let silent = (host.now_ms() - times.sign) / 1000;
            return Err(Error::unavailable(format!(
                "the job took longer than {seconds} s ({key}) and was stopped; its last sign of life was \
                 {silent} s ago, {}",
                self.place()
            )));
        }
        Ok(())
    }

    fn withdraw(&self) {
        if let Err(error) = self.server.withdraw(&self.prompt) {
            self.server
                .host
                .log(&format!("the prompt {} could not be withdrawn: {}", self.prompt, error.message));
        }
    }

    /// Where the prompt was last, for people.
    fn place(&self) -> String {
        match self.tracker.current() {
            Some(node) => format!("at {}", self.workflow.describe(node)),
            None => "between two nodes or before the first one".into(),
        }
    }

    fn take(&mut self, frame: Frame, times: &mut Times) -> Result<Option<Outcome>, Error> {
        let event = match frame {
            Frame::Text(text) => self.tracker.text(&text),
            Frame::Binary(content) => self.tracker.binary(&content),
        };
        if event != Event::Foreign {
            times.sign = self.server.host.now_ms();
        }
        match event {
            Event::Foreign => Ok(None),
            Event::Progress => {
                self.report(None);
                Ok(None)
            }
            Event::Preview { content, media_type } => {
                if self.previews {
                    self.server.host.preview(self.tracker.current_step(), content, media_type);
                }
                Ok(None)
            }
            Event::Success => self.settle(),
            Event::Failed(failure) => Err(Error::internal(failure.describe(self.workflow))),
            Event::Interrupted => Err(self.interrupted()),
        }
    }

    fn interrupted(&self) -> Error {
        if self.server.host.cancelled() {
            return Error::cancelled();
        }
        Error::unavailable(format!(
            "the job was interrupted on ComfyUI at {}, {}",
            self.server.url,
            self.place()
        ))
    }

    fn report(&self, position: Option<usize>) {
        let mut detail = self.tracker.detail(self.workflow);
        if let Some(position) = position {
            detail["queue_position"] = position.into();
        }
        self.server.host.progress(self.tracker.fraction(), &detail);
    }

    /// The end was told: the history has it in a moment. Without it, what was told has to do.
    fn settle(&mut self) -> Result<Option<Outcome>, Error> {
        let host = self.server.host;
        let until = host.now_ms() + HISTORY_MS;
        loop {
            match self.server.history(&self.prompt) {
                Ok(Some(entry)) => return self.end(&entry).map(Some),
                Ok(None) => {}
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
            if host.now_ms() >= until || host.cancelled() {
                break;
            }
            host.sleep(SLICE_MS / 2);
        }
        let outputs = std::mem::take(&mut self.tracker.outputs);
        if outputs.is_empty() {
            return Ok(Some(Outcome::Lost(format!(
                "{} ended the job and does not know it any more",
                self.server.url
            ))));
        }
        Ok(Some(self.finish(outputs)))
    }

    fn finish(&mut self, outputs: Outputs) -> Outcome {
        Outcome::Finished(Finish {
            prompt: self.prompt.clone(),
            outputs,
            cached: self.tracker.cached,
            nodes_total: self.tracker.total(),
            warnings: std::mem::take(&mut self.warnings),
            detail: self.tracker.detail(self.workflow),
        })
    }

    fn end(&mut self, entry: &Value) -> Result<Outcome, Error> {
        match outputs::end(entry) {
            End::Success => Ok(self.finish(entry["outputs"].as_object().cloned().unwrap_or_default())),
            End::Failed(failure) => Err(Error::internal(failure.describe(self.workflow))),
            End::Interrupted => Err(self.interrupted()),
        }
    }

    /// Looks into the queue now and then while no message comes.
    fn quiet(&mut self, times: &mut Times) -> Result<Option<Outcome>, Error> {
        let host = self.server.host;
        let stale = ms(self.server.config.stale_s);
        let now = host.now_ms();
        let every = (stale / 4).clamp(PROBE_MS.0, PROBE_MS.1);
        if now - times.sign.max(times.probe) < every {
            return Ok(None);
        }
        let found = self.server.find(&self.prompt);
        times.probe = host.now_ms();
        let silent = times.probe - times.sign;
        match found {
            Ok(Whereabouts::Settled(entry)) => self.end(&entry).map(Some),
            Ok(Whereabouts::Pending(before)) => {
                // That it waits behind others is a sign, however long it takes.
                times.sign = times.probe;
                self.report(Some(before));
                Ok(None)
            }
            Ok(Whereabouts::Running) if silent < stale => Ok(None),
            Ok(Whereabouts::Running) => {
                self.withdraw();
                Err(Error::unavailable(format!(
                    "ComfyUI at {} gave no sign of the job for {} s (plugins.comfy.config.stale_s), {}: it was interrupted there",
                    self.server.url,
                    self.server.config.stale_s,
                    self.place()
                )))
            }
            Ok(Whereabouts::Absent) if times.unbroken => Err(Error::unavailable(format!(
                "the job was removed from the queue of ComfyUI at {} by somebody else",
                self.server.url
            ))),
            Ok(Whereabouts::Absent) => self.again(times),
            Err(error) if !is_gone(&error) => Err(error),
            Err(_) if silent < stale.min(self.patience_ms) => Ok(None),
            Err(error) => Ok(Some(self.lost(&error.message, silent))),
        }
    }

    fn lost(&self, why: &str, silent: u64) -> Outcome {
        Outcome::Lost(format!(
            "{why}; no sign of the job for {:.1} s, {}",
            silent as f64 / 1000.0,
            self.place()
        ))
    }

    /// The connection is gone: finds out what became of the prompt, and connects again.
    fn recover(&mut self, times: &mut Times) -> Result<Option<Outcome>, Error> {
        let host = self.server.host;
        let why = match self.server.find(&self.prompt) {
            Ok(Whereabouts::Settled(entry)) => return self.end(&entry).map(Some),
            Ok(Whereabouts::Absent) => return self.again(times),
            Ok(Whereabouts::Pending(_) | Whereabouts::Running) => match self.server.socket(self.client) {
                Ok(socket) => {
                    self.socket = Some(socket);
                    // It may have ended meanwhile: the next look is soon.
                    times.probe = 0;
                    return Ok(None);
                }
                Err(error) if is_gone(&error) => error.message,
                Err(error) => return Err(error),
            },
            Err(error) if is_gone(&error) => error.message,
            Err(error) => return Err(error),
        };
        let gone = host.now_ms() - times.broken;
        if gone >= self.patience_ms {
            return Ok(Some(self.lost(&why, gone)));
        }
        host.sleep(times.rest);
        times.rest = (times.rest * 2).min(RESTS_MS.1);
        Ok(None)
    }

    /// The server was restarted and knows nothing of the prompt: submits it once more.
    fn again(&mut self, times: &mut Times) -> Result<Option<Outcome>, Error> {
        let host = self.server.host;
        if times.resubmitted {
            return Ok(Some(Outcome::Lost(format!("{} lost the job twice", self.server.url))));
        }
        times.resubmitted = true;
        host.log(&format!("{} was restarted and lost the job: it is submitted again", self.server.url));
        let why = match self.server.socket(self.client) {
            Ok(socket) => match self.submit()? {
                Ok(Answer::Accepted(..)) => {
                    self.socket = Some(socket);
                    (times.sign, times.probe, times.unbroken) = (host.now_ms(), host.now_ms(), true);
                    return Ok(None);
                }
                Ok(Answer::Refused(problems)) => return Err(Error::invalid_input(problems.join("; "))),
                Err(error) => error,
            },
            Err(error) if is_gone(&error) => error.message,
            Err(error) => return Err(error),
        };
        Ok(Some(Outcome::Lost(why)))
    }
}
