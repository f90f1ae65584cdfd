//! A job: its workflow and pictures brought to a server, followed there, moved to another one when that server is lost, and
//! its outputs fetched.

use std::collections::BTreeSet;

use reverie_plugin_sdk::Error;
use serde_json::{Map, Value, json};

use crate::{
    api::{Answer, Server, is_gone},
    config::{Config, ms},
    events::{GRAPH_SHARE, Tracker},
    follow::{Finish, Follow, Limit, Outcome},
    host::{Host, Socket},
    object_info::Infos,
    outputs,
    params::Patched,
    servers::{self, Fallen},
    sidecar::Sidecar,
    workflow::Target,
};

/// Tries to fetch an output from a server that is not there at the moment, and the rest between them.
const FETCHES: usize = 4;
const FETCH_REST_MS: u64 = 1500;

/// What is to be done.
pub struct Task<'a> {
    /// The job's id: the prompt's and the client's too, so that an attempt after a crash finds what an earlier one began.
    pub id: &'a str,
    pub workflow_id: &'a str,
    pub first_attempt: bool,
    pub sidecar: &'a Sidecar,
    pub patched: Patched,
    pub previews: bool,
    /// The most seconds that the client wants to wait.
    pub max_wait_s: Option<f64>,
}

/// What came of it: the keys of the stored outputs and the job's `meta`.
#[derive(Debug)]
pub struct Made {
    pub keys: Vec<String>,
    pub meta: Value,
}

/// Runs a job to its end.
///
/// # Errors
/// `cancelled`, what is wrong with the workflow or its pictures, or what failed on the server.
pub fn run<H: Host>(host: &H, config: &Config, task: Task<'_>) -> Result<Made, Error> {
    let begun = host.now_ms();
    let held = if task.first_attempt { None } else { servers::holder(host, config, task.id) };
    let mut runner = Runner {
        host,
        config,
        limit: Limit::new(begun, config, task.max_wait_s),
        uploads: Vec::new(),
        missing: None,
        task,
    };
    // Uploads expire, so they are read before anything is waited for.
    for picture in &runner.task.patched.pictures {
        match host.upload(&picture.file_ref) {
            Ok((content, media_type)) => {
                runner.uploads.push(Upload { content, media_type, targets: picture.targets.clone() });
            }
            // A crash lost them, but the server has its copy.
            Err(error) if held.is_some() => runner.missing = Some(error),
            Err(error) => return Err(error),
        }
    }
    let mut fallen = Fallen::new();
    let mut unfit: Option<String> = None;
    let mut resumed = held.is_some();
    let mut next = held;
    loop {
        let url = match next.take() {
            Some(url) => url,
            None => servers::choose(host, config, &fallen, tie(runner.task.id))
                .map_err(|error| runner.refusal(unfit.take(), error))?,
        };
        let others = config.servers.len() > fallen.len() + 1;
        match runner.on(url, std::mem::take(&mut resumed), others)? {
            Ended::Done(finish) => return runner.fetch(url, finish, begun),
            Ended::Unfit(problems) => {
                let problems = problems.join("; ");
                fallen.push((url.to_owned(), format!("{url} does not fit it: {problems}")));
                unfit.get_or_insert(problems);
            }
            Ended::Lost(why) => {
                host.log(&format!("{why}; the job is moved to another server if there is one"));
                fallen.push((url.to_owned(), why));
            }
        }
    }
}

/// A number of a job's own.
fn tie(id: &str) -> u64 {
    id.bytes().fold(0, |sum: u64, byte| sum.wrapping_mul(31).wrapping_add(byte.into()))
}

/// How it ended on one server.
enum Ended {
    Done(Finish),
    /// The server can't run the workflow.
    Unfit(Vec<String>),
    Lost(String),
}

/// A picture of the client's.
struct Upload {
    content: Vec<u8>,
    media_type: String,
    /// Where its name on the server goes.
    targets: Vec<Target>,
}

struct Runner<'a, H> {
    host: &'a H,
    config: &'a Config,
    limit: Limit,
    uploads: Vec<Upload>,
    /// Why there are not all of them, where an earlier attempt brought them to a server.
    missing: Option<Error>,
    task: Task<'a>,
}

impl<H: Host> Runner<'_, H> {
    /// Does the job on one server. `resumed`: it is there already.
    fn on(&mut self, url: &str, resumed: bool, others: bool) -> Result<Ended, Error> {
        let server = Server { host: self.host, url, config: self.config };
        let prepared = self.prepare(&server, resumed).and_then(|prepared| match prepared {
            Prepared::Ready(nodes) => {
                let socket = server.socket(self.task.id)?;
                // With it come previews that name their prompt. A server that closes at once shows itself when it is followed.
                let flags = json!({"type": "feature_flags", "data": {"supports_preview_metadata": true}});
                let _ = socket.send(&flags.to_string());
                Ok(Ok((nodes, socket)))
            }
            Prepared::Unfit(problems) => Ok(Err(problems)),
        });
        let (nodes, socket) = match prepared {
            Ok(Ok(ready)) => ready,
            Ok(Err(problems)) => return Ok(Ended::Unfit(problems)),
            Err(error) if is_gone(&error) => return Ok(Ended::Lost(error.message)),
            Err(error) => return Err(error),
        };
        let mut follow = Follow {
            prompt: self.task.id.to_owned(),
            tracker: Tracker::new(self.task.id, nodes),
            workflow: &self.task.patched.workflow,
            client: self.task.id,
            previews: self.task.previews,
            limit: self.limit,
            patience_ms: ms(if others { self.config.reconnect_s } else { self.config.stale_s }),
            warnings: Vec::new(),
            socket: Some(socket),
            server,
        };
        if !resumed {
            match follow.submit()? {
                Ok(Answer::Accepted(..)) => {}
                Ok(Answer::Refused(problems)) => return Ok(Ended::Unfit(problems)),
                Err(why) => return Ok(Ended::Lost(why)),
            }
        }
        Ok(match follow.run()? {
            Outcome::Finished(finish) => Ended::Done(finish),
            Outcome::Lost(why) => Ended::Lost(why),
        })
    }

    /// Checks the workflow by what the server has, and brings the pictures there.
    fn prepare(&mut self, server: &Server<'_, H>, resumed: bool) -> Result<Prepared, Error> {
        self.check_cancelled()?;
        let workflow = &mut self.task.patched.workflow;
        let all = || workflow.ids().into_iter().map(str::to_owned).collect();
        let mut nodes: BTreeSet<String> = all();
        if self.config.validate {
            let mut infos = Infos::default();
            server.learn(&mut infos, workflow)?;
            let later: Vec<Target> = self.uploads.iter().flat_map(|upload| upload.targets.clone()).collect();
            let problems = infos.problems(workflow, &later);
            if !problems.is_empty() && !resumed {
                return Ok(Prepared::Unfit(problems));
            }
            let outputs = infos.outputs(workflow);
            if !outputs.is_empty() {
                nodes = workflow.needed(&outputs);
            }
        }
        if !resumed {
            if let Some(missing) = self.missing.take() {
                return Err(missing);
            }
            for Upload { content, media_type, targets } in &self.uploads {
                let name = server.upload(&file_name(content, media_type), content, media_type)?;
                for target in targets {
                    workflow.set(target, name.as_str().into());
                }
            }
        }
        Ok(Prepared::Ready(nodes))
    }

    /// Why no server runs the job, where one at least could not for what the workflow is.
    fn refusal(&self, unfit: Option<String>, error: Error) -> Error {
        let id = self.task.workflow_id;
        match unfit {
            Some(problems) if self.config.servers.len() == 1 => {
                Error::invalid_input(format!("workflow '{id}': {problems}"))
            }
            Some(_) => Error::invalid_input(format!("workflow '{id}': {}", error.message)),
            None => error,
        }
    }

    fn check_cancelled(&self) -> Result<(), Error> {
        if self.host.cancelled() { Err(Error::cancelled()) } else { Ok(()) }
    }

    /// Fetches the outputs and stores them.
    fn fetch(&self, url: &str, finish: Finish, begun: u64) -> Result<Made, Error> {
        let server = Server { host: self.host, url, config: self.config };
        let files = outputs::files(&finish.outputs, self.task.sidecar);
        let texts = outputs::texts(&finish.outputs);
        if files.is_empty() && texts.is_empty() {
            return Err(Error::internal(format!(
                "workflow '{}' ended well but left no file: {}",
                self.task.workflow_id,
                if self.task.sidecar.outputs.is_empty() {
                    "it needs a node such as SaveImage or PreviewImage"
                } else {
                    "the nodes that its sidecar names as outputs made none"
                }
            )));
        }
        let (mut keys, mut described) = (Vec::new(), Vec::new());
        for (index, file) in files.iter().enumerate() {
            self.check_cancelled()?;
            let (content, told) = self.fetch_one(&server, file)?;
            let media_type = outputs::media_type(&told, &file.name);
            let key = self.host.store(content, &media_type)?;
            described.push(json!({"key": key, "node": file.node, "kind": file.list, "filename": file.name,
                "subfolder": file.folder, "type": file.kind, "mediaType": media_type}));
            keys.push(key);
            let share = (index + 1) as f64 / files.len() as f64;
            self.host.progress(GRAPH_SHARE + (1.0 - GRAPH_SHARE) * share, &finish.detail);
        }
        let mut meta = json!({
            "seed": self.task.patched.seed,
            "backend": "comfyui",
            "sr": false,
            "workflowId": self.task.workflow_id,
            "server": url,
            "promptId": finish.prompt,
            "nodes_total": finish.nodes_total,
            "nodes_cached": finish.cached,
            "outputs": described,
            "elapsed_ms": self.host.now_ms() - begun,
        });
        if !texts.is_empty() {
            meta["texts"] = Value::Object(texts);
        }
        let warnings = [&self.task.patched.warnings[..], &finish.warnings].concat();
        if !warnings.is_empty() {
            meta["warnings"] = json!(warnings);
        }
        Ok(Made { keys, meta })
    }

    fn fetch_one(&self, server: &Server<'_, H>, file: &outputs::File) -> Result<(Vec<u8>, String), Error> {
        let mut tries = 0;
        loop {
            match server.view(file) {
                Err(error) if is_gone(&error) && tries + 1 < FETCHES => {
                    self.check_cancelled()?;
                    tries += 1;
                    self.host.sleep(FETCH_REST_MS);
                }
                Err(error) if is_gone(&error) => {
                    let message = format!(
                        "the workflow ended well, but its outputs can't be fetched: {}",
                        error.message
                    );
                    return Err(Error::unavailable(message));
                }
                fetched => return fetched,
            }
        }
    }
}

enum Prepared {
    /// With the nodes that will run.
    Ready(BTreeSet<String>),
    Unfit(Vec<String>),
}

/// The same name for the same content, so that the server keeps one copy and what it made of it; where it has something else
/// of that name, it picks another one.
fn file_name(content: &[u8], media_type: &str) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in content {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    let extension = match media_type.split(';').next().unwrap_or_default().trim() {
        "image/jpeg" => "jpg",
        "image/webp" => "webp",
        "image/gif" => "gif",
        "image/bmp" => "bmp",
        "image/tiff" => "tiff",
        "video/mp4" => "mp4",
        "video/webm" => "webm",
        "audio/mpeg" => "mp3",
        "audio/wav" | "audio/x-wav" => "wav",
        "audio/flac" => "flac",
        "audio/ogg" => "ogg",
        _ => "png",
    };
    format!("reverie-{hash:016x}.{extension}")
}

/// An empty map, for tests and for prompts of which nothing is known.
pub type Outputs = Map<String, Value>;

#[cfg(test)]
#[path = "job_tests.rs"]
mod tests;
