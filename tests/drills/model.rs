//! What a client was told of its jobs, and whether what it hears next agrees with that.

use std::collections::HashMap;

use serde_json::{Value, json};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Gives its parameters back.
    Echo,
    /// Takes a while.
    Sleep,
    /// Enlarges the upload of this number.
    Enlarge(u64),
}

/// The end of a job, as it was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    pub status: String,
    pub outputs: Value,
    pub meta: Value,
}

/// A job that a client wants. Lives are those of the server: from a start to an end.
#[derive(Debug, Clone)]
pub struct Job {
    pub kind: Kind,
    /// The `job:submit`, sent again with the same key until it is acknowledged.
    pub message: Value,
    /// In which life the file that it names was uploaded.
    pub uploaded: u64,
    pub id: Option<String>,
    /// In which life it was acknowledged first.
    pub acknowledged: u64,
    pub ended: Option<End>,
    /// Its own connection told it so; the examiner's may be ahead of it.
    pub heard_end: bool,
    /// In which life it was seen running last.
    pub running: Option<u64>,
    pub attempt: u64,
    pub cancel_sent: bool,
    /// It was running when it was to be canceled, and is asked to stop.
    pub stopping: bool,
    pub delete_sent: bool,
    pub deleted: bool,
    /// The last priority that was acknowledged; how many were sent, and how many of those acknowledged.
    pub priority: i64,
    pub priorities: (u32, u32),
}

#[derive(Default)]
pub struct Model {
    pub jobs: Vec<Job>,
    by_id: HashMap<String, usize>,
    pub faults: Vec<String>,
    /// Jobs that were submitted again, as their acknowledgement had not come.
    pub retried: usize,
}

impl Model {
    /// A new job; `message` is completed by type, key and id.
    pub fn plan(&mut self, kind: Kind, client: &str, mut message: Value, uploaded: u64) -> Value {
        let n = self.jobs.len();
        let parts = [("type", json!("job:submit")), ("key", json!(format!("{client}-{n}")))];
        for (field, value) in parts.into_iter().chain([("id", json!(n))]) {
            message[field] = value;
        }
        self.jobs.push(Job {
            kind,
            message: message.clone(),
            uploaded,
            id: None,
            acknowledged: 0,
            ended: None,
            heard_end: false,
            running: None,
            attempt: 1,
            cancel_sent: false,
            stopping: false,
            delete_sent: false,
            deleted: false,
            priority: 0,
            priorities: (0, 0),
        });
        message
    }

    pub fn unacknowledged(&self) -> Vec<Value> {
        self.jobs.iter().filter(|job| job.id.is_none()).map(|job| job.message.clone()).collect()
    }

    pub fn unfinished(&self) -> Vec<String> {
        let jobs = self.jobs.iter().filter(|job| job.ended.is_none() && !job.delete_sent);
        jobs.filter_map(|job| job.id.clone()).collect()
    }

    /// Jobs not known to have ended.
    pub fn outstanding(&self) -> usize {
        self.jobs.iter().filter(|job| job.ended.is_none() && !job.delete_sent).count()
    }

    pub fn job(&mut self, id: &str) -> Option<&mut Job> {
        self.by_id.get(id).map(|n| &mut self.jobs[*n])
    }

    /// Takes note of a message of the server in one of its lives.
    pub fn hear(&mut self, life: u64, message: &Value) {
        let id = message["jobId"].as_str().unwrap_or_default().to_owned();
        let tells_end = matches!(message["type"].as_str(), Some("job:complete" | "job:error"))
            || message["type"] == "job:cancel:ack" && message["status"] == "canceled";
        match message["type"].as_str().unwrap_or_default() {
            "job:ack" => self.acknowledged(life, message["id"].as_u64(), &id),
            "job:progress" => self.active(life, &id, message["status"].as_str().unwrap_or_default(), None),
            "job:complete" | "job:error" => self.ended(&id, message),
            "job:subscribe:ack" => self.described(life, &message["job"], false),
            "job:cancel:ack" => {
                let running = message["status"] == "running";
                if message["status"] == "canceled" {
                    self.ended(&id, message);
                } else if let Some(job) = self.job(&id) {
                    job.stopping |= running;
                }
            }
            "job:delete:ack" => {
                if let Some(job) = self.job(&id).filter(|_| message["status"] == "deleted") {
                    job.deleted = true;
                }
            }
            "job:priority:ack" => {
                if let (Some(job), Some(priority)) = (self.job(&id), message["priority"].as_i64()) {
                    job.priority = priority;
                    job.priorities.1 += 1;
                }
            }
            _ => {}
        }
        if let Some(job) = self.job(&id) {
            job.heard_end |= tells_end;
        }
    }

    fn acknowledged(&mut self, life: u64, n: Option<u64>, id: &str) {
        let Some(job) = n.and_then(|n| self.jobs.get_mut(n as usize)) else { return };
        match &job.id {
            None => {
                job.id = Some(id.to_owned());
                job.acknowledged = life;
                self.by_id.insert(id.to_owned(), n.unwrap_or_default() as usize);
            }
            Some(known) if known == id => {}
            Some(known) => {
                let fault = format!("the key {} was job {known} and is job {id}", job.message["key"]);
                self.faults.push(fault);
            }
        }
    }

    /// A job as `job:get` shows it; `ended_before` says whether it was known to have ended when this was asked.
    pub fn described(&mut self, life: u64, shown: &Value, ended_before: bool) {
        let id = shown["jobId"].as_str().unwrap_or_default().to_owned();
        let status = shown["status"].as_str().unwrap_or_default();
        if !matches!(status, "queued" | "running") {
            return self.ended(&id, shown);
        }
        let attempt = shown["attempt"].as_u64().unwrap_or(1);
        if ended_before {
            let end = self.job(&id).and_then(|job| job.ended.clone());
            self.faults.push(format!("job {id} was told as {end:?} and is {status}"));
        } else if self.job(&id).is_some_and(|job| job.ended.is_none()) {
            self.active(life, &id, status, Some(attempt));
        }
    }

    fn active(&mut self, life: u64, id: &str, status: &str, attempt: Option<u64>) {
        let Some(job) = self.job(id) else { return };
        let mut fault = None;
        if let Some(end) = job.ended.as_ref().filter(|_| attempt.is_none() && job.heard_end) {
            // On the same connection nothing of a job comes after its end.
            fault = (status == "queued" || status == "running")
                .then(|| format!("job {id} was told as {} and goes on as {status}", end.status));
        }
        if let Some(attempt) = attempt {
            if job.running.is_some_and(|ran| ran < life) && attempt < 2 {
                fault =
                    Some(format!("job {id} ran before the server ended and does not say that it runs again"));
            }
            if attempt < job.attempt {
                fault = Some(format!("job {id}: attempt {attempt} comes after {}", job.attempt));
            }
            job.attempt = job.attempt.max(attempt);
        }
        if status == "running" {
            job.running = Some(life);
        }
        self.faults.extend(fault);
    }

    fn ended(&mut self, id: &str, told: &Value) {
        let Some(job) = self.job(id) else { return };
        let status = match told["type"].as_str() {
            Some("job:complete") => "done",
            _ => told["status"].as_str().unwrap_or_default(),
        };
        let end =
            End { status: status.to_owned(), outputs: told["outputs"].clone(), meta: told["meta"].clone() };
        let fault = match &job.ended {
            Some(before) if *before != end => Some(format!("was told as {before:?} and is {end:?}")),
            Some(_) => None,
            None => job.unfit(&end, told["error"].as_str().unwrap_or_default()),
        };
        job.ended.get_or_insert(end);
        self.faults.extend(fault.map(|fault| format!("job {id} {fault}")));
    }
}

impl Job {
    /// Why a job can't have ended so.
    fn unfit(&self, end: &End, error: &str) -> Option<String> {
        let well = match (end.status.as_str(), self.kind) {
            ("done", Kind::Echo) => end.meta["params"]["marker"] == self.message["marker"],
            ("done", Kind::Sleep) => true,
            ("done", Kind::Enlarge(_)) => end.outputs.as_array().is_some_and(|outputs| outputs.len() == 1),
            ("canceled", _) => self.cancel_sent,
            // The file was uploaded to a server that ended before the job was accepted.
            ("error", Kind::Enlarge(_)) => {
                self.acknowledged != self.uploaded && error.contains("not found or expired")
            }
            _ => false,
        };
        (!well).then(|| format!("({:?}) ended as {end:?}: {error}", self.kind))
    }
}
