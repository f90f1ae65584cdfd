//! What one client wants done, and what it was told of it.

use bytes::Bytes;
use reverie_jobs::{Given, Input, Output, Snapshot, Spec, Status};
use serde_json::{Map, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::generator::Generator;

/// The end of a job, as a client heard of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    pub status: Status,
    pub outputs: Vec<Output>,
    pub error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletion {
    No,
    Asked,
    Told,
}

pub struct Message {
    pub text: String,
    pub acked: bool,
    /// Taken by the job, which then stored its work.
    pub settled: bool,
    /// Taken since.
    pub taken: bool,
}

pub struct Request {
    pub spec: Spec,
    pub inputs: Vec<(Uuid, Bytes)>,
    pub id: Option<Uuid>,
    pub acked: bool,
    /// Tries that have no answer, or one that leaves it open whether the job is stored.
    pub open_tries: u32,
    /// Answers that said no for certain.
    pub refused: u32,
    pub submitting: u32,
    /// Never acknowledged, and maybe found at the end of a log that was cut short, without what it was asked with.
    pub found: bool,
    pub priority: i64,
    /// What a client has asked for without an answer.
    pub other_priority: Option<i64>,
    pub told: Option<Told>,
    pub deletion: Deletion,
    /// When it may have ended, at the earliest: in seconds since the history began.
    pub ends_since: Option<f64>,
    pub cancel_asked: bool,
    /// Ends that its worker has asked for.
    pub intended: Vec<Status>,
    /// The attempt that clients were told to run last, and in which process.
    pub ran: Option<(u64, u32)>,
    /// How often a process ended while it ran or was about to.
    pub interrupted: u32,
    pub messages: Vec<Message>,
}

pub fn content_of(text: &str, length: usize) -> Bytes {
    text.as_bytes().iter().copied().cycle().take(length).collect()
}

pub fn given(inputs: &[(Uuid, Bytes)]) -> Vec<Given> {
    let one = |(upload, content): &(Uuid, Bytes)| {
        let sha256 = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
        let input = Input { upload: *upload, media_type: "image/png".into(), sha256 };
        Given { input, content: content.clone() }
    };
    inputs.iter().map(one).collect()
}

/// A file to be sent along. Some are sent by several.
pub fn any_input(generator: &mut Generator, number: usize) -> (Uuid, Bytes) {
    let text = match generator.chance(1, 3) {
        true => "the same picture".to_owned(),
        false => format!("picture {number} {}", generator.next()),
    };
    let length = generator.pick(&[0, 40, 700, 9000]);
    (
        Uuid::from_u128(u128::from(generator.next()) << 64 | u128::from(generator.next())),
        content_of(&text, length),
    )
}

impl Request {
    pub fn any(number: usize, keys: bool, generator: &mut Generator) -> Self {
        let background = generator.chance(1, 5);
        let mut params = Map::from_iter([("request".into(), json!(number))]);
        if generator.chance(1, 6) {
            params.insert("prompt".into(), "a long prompt, ".repeat(generator.index(500)).into());
        }
        let priority = generator.below(5) as i64 - 2;
        let spec = Spec {
            job_type: if background { "dream" } else { "generate" }.into(),
            params,
            owner: Some(format!("client {}", generator.below(2))),
            priority,
            name: background.then(|| format!("dream {}", generator.below(3))),
            background,
            key: (keys && generator.chance(1, 2)).then(|| format!("key {number}")),
        };
        let inputs =
            (0..generator.below(5).saturating_sub(2)).map(|_| any_input(generator, number)).collect();
        Self {
            spec,
            inputs,
            id: None,
            acked: false,
            open_tries: 0,
            refused: 0,
            submitting: 0,
            found: false,
            priority,
            other_priority: None,
            told: None,
            deletion: Deletion::No,
            ends_since: None,
            cancel_asked: false,
            intended: Vec::new(),
            ran: None,
            interrupted: 0,
            messages: Vec::new(),
        }
    }

    /// Whether its client submits it, for the first time or again with the same key.
    pub fn may_be_submitted(&self) -> bool {
        self.deletion == Deletion::No && self.told.is_none()
    }

    /// Something was done from which it may end.
    pub fn may_end(&mut self, now: f64) {
        self.ends_since.get_or_insert(now);
    }

    /// Whether it may have ended, as far as anybody can know.
    pub fn may_have_ended(&self) -> bool {
        self.told.is_some() || self.cancel_asked || !self.intended.is_empty() || self.interrupted > 0
    }

    /// Whether its job is there for certain and stays: nobody has deleted it.
    pub fn is_settled(&self) -> bool {
        self.acked && self.deletion == Deletion::No
    }

    /// Its work is stored, with what came of the messages that it took.
    pub fn settle(&mut self) {
        self.messages.iter_mut().filter(|message| message.taken).for_each(|message| message.settled = true);
    }

    /// What speaks against this being its job.
    pub fn differs(&self, job: &Snapshot) -> Option<String> {
        if job.owner != self.spec.owner || job.job_type != self.spec.job_type {
            return Some(format!("it is of {:?} and type '{}'", job.owner, job.job_type));
        }
        let priorities = [Some(self.priority), self.other_priority];
        if !priorities.contains(&Some(job.priority)) {
            return Some(format!("its priority is {}, not one of {priorities:?}", job.priority));
        }
        let Some(told) = &self.told else {
            let unasked = match job.status {
                Status::Queued | Status::Running => false,
                Status::Cancelled => !self.cancel_asked && !self.intended.contains(&Status::Cancelled),
                Status::Error => !self.intended.contains(&Status::Error) && self.interrupted == 0,
                Status::Done => !self.intended.contains(&Status::Done),
            };
            return unasked.then(|| format!("it is {:?}, which nobody asked for", job.status));
        };
        let is = (job.status, &job.outputs, &job.error);
        let was = (told.status, &told.outputs, &told.error);
        (is != was).then(|| format!("it is {is:?}; a client was told {was:?}"))
    }
}
