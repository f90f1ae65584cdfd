//! What the server says over its WebSocket while it runs a prompt, and the progress that follows from it.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::workflow::Workflow;

/// The share of the job's progress that running the graph is; fetching the outputs is the rest.
pub const GRAPH_SHARE: f64 = 0.95;

/// How far a prompt is.
#[derive(Debug)]
pub struct Tracker {
    prompt: String,
    /// Nodes that will run.
    nodes: BTreeSet<String>,
    /// Begun or cached, in order.
    seen: Vec<String>,
    finished: BTreeSet<String>,
    current: Option<String>,
    step: Option<f64>,
    steps: Option<f64>,
    fraction: f64,
    /// Nodes whose results the server still had.
    pub cached: usize,
    /// What `executed` told: the outputs, should the history not have them.
    pub outputs: Map<String, Value>,
}

/// What a message means for a prompt.
#[derive(Debug, PartialEq)]
pub enum Event {
    /// It is not about this prompt.
    Foreign,
    /// The prompt goes on.
    Progress,
    /// It ended well.
    Success,
    Failed(Failure),
    Interrupted,
    /// A picture of a step.
    Preview {
        content: Vec<u8>,
        media_type: &'static str,
    },
}

/// Why a node failed.
#[derive(Debug, PartialEq)]
pub struct Failure {
    pub node: String,
    pub kind: String,
    pub message: String,
}

impl Failure {
    /// Of the data of `execution_error`.
    pub fn read(data: &Value) -> Self {
        let text = |field: &str| data[field].as_str().unwrap_or_default().trim().to_owned();
        Self { node: text("node_id"), kind: text("exception_type"), message: text("exception_message") }
    }

    pub fn describe(&self, workflow: &Workflow) -> String {
        let node = workflow.describe(&self.node);
        let message = if self.message.is_empty() { "it gave no message" } else { &self.message };
        match self.kind.rsplit('.').next().unwrap_or_default() {
            "" => format!("{node} failed on ComfyUI: {message}"),
            kind => format!("{node} failed on ComfyUI: {kind}: {message}"),
        }
    }
}

impl Tracker {
    pub fn new(prompt: &str, nodes: BTreeSet<String>) -> Self {
        Self {
            prompt: prompt.to_owned(),
            nodes,
            seen: Vec::new(),
            finished: BTreeSet::new(),
            current: None,
            step: None,
            steps: None,
            fraction: 0.0,
            cached: 0,
            outputs: Map::new(),
        }
    }

    /// Begins anew, as the prompt does on a server that was restarted.
    pub fn reset(&mut self, prompt: &str) {
        *self = Self::new(prompt, std::mem::take(&mut self.nodes));
    }

    /// Takes in a text message.
    pub fn text(&mut self, text: &str) -> Event {
        let Ok(message) = serde_json::from_str::<Value>(text) else { return Event::Foreign };
        let data = &message["data"];
        // Old versions leave the id out of `progress`; what has none came over this prompt's own connection.
        let prompt = data["prompt_id"].as_str();
        if prompt.is_some_and(|id| id != self.prompt) {
            return Event::Foreign;
        }
        let ours = prompt.is_some();
        match message["type"].as_str().unwrap_or_default() {
            "execution_start" => {}
            "execution_cached" => {
                let cached = data["nodes"].as_array().into_iter().flatten().filter_map(Value::as_str);
                for id in cached.filter(|id| self.nodes.contains(*id)).map(str::to_owned).collect::<Vec<_>>()
                {
                    self.cached += 1;
                    self.finish(&id);
                }
            }
            "executing" => match node(data, "display_node").or_else(|| node(data, "node")) {
                Some(id) => self.begin(&id),
                // The end of this prompt; without an id it is that of another client's one.
                None if ours => return Event::Success,
                None => return Event::Foreign,
            },
            "progress" => {
                if let Some(id) = node(data, "node") {
                    self.begin(&id);
                }
                self.step(data);
            }
            "progress_state" => self.states(&data["nodes"]),
            "executed" => {
                let id = node(data, "display_node").or_else(|| node(data, "node")).unwrap_or_default();
                if data["output"].is_object() {
                    self.outputs.insert(id.clone(), data["output"].clone());
                }
                self.finish(&id);
            }
            "execution_success" => return Event::Success,
            "execution_error" => return Event::Failed(Failure::read(data)),
            "execution_interrupted" if ours => return Event::Interrupted,
            _ => return Event::Foreign,
        }
        self.advance();
        Event::Progress
    }

    /// Takes in a binary message: a kind in 4 bytes, and a picture behind a head of its own.
    pub fn binary(&self, content: &[u8]) -> Event {
        let Some((kind, rest)) = number(content) else { return Event::Foreign };
        let Some((head, rest)) = number(rest) else { return Event::Foreign };
        match kind {
            // The head is the format.
            1 => {
                let media_type = if head == 2 { "image/png" } else { "image/jpeg" };
                Event::Preview { content: rest.to_vec(), media_type }
            }
            // The head is the length of a JSON object.
            4 if rest.len() >= head as usize => {
                let (about, picture) = rest.split_at(head as usize);
                let about: Value = serde_json::from_slice(about).unwrap_or_default();
                if about["prompt_id"].as_str().is_some_and(|id| id != self.prompt) {
                    return Event::Foreign;
                }
                let media_type = if about["image_type"] == "image/png" { "image/png" } else { "image/jpeg" };
                Event::Preview { content: picture.to_vec(), media_type }
            }
            // A text that a node shows in the editor.
            3 => Event::Progress,
            _ => Event::Foreign,
        }
    }

    fn begin(&mut self, id: &str) {
        if self.current.as_deref() == Some(id) {
            return;
        }
        if let Some(before) = self.current.take() {
            self.finish(&before);
        }
        if self.nodes.contains(id) {
            self.see(id);
            self.current = Some(id.to_owned());
            (self.step, self.steps) = (None, None);
        }
    }

    fn see(&mut self, id: &str) {
        if !self.seen.iter().any(|seen| seen == id) {
            self.seen.push(id.to_owned());
        }
    }

    fn finish(&mut self, id: &str) {
        if self.nodes.contains(id) {
            self.see(id);
            self.finished.insert(id.to_owned());
        }
        if self.current.as_deref() == Some(id) {
            self.current = None;
            (self.step, self.steps) = (None, None);
        }
    }

    fn step(&mut self, data: &Value) {
        if let (Some(value), Some(max)) = (data["value"].as_f64(), data["max"].as_f64()) {
            (self.step, self.steps) = (Some(value), Some(max));
        }
    }

    fn states(&mut self, nodes: &Value) {
        for (id, state) in nodes.as_object().into_iter().flatten() {
            // Nodes that others expanded into count as those that stand in the workflow.
            let shown = node(state, "display_node_id").unwrap_or_else(|| id.clone());
            match state["state"].as_str() {
                Some("running") => {
                    self.begin(&shown);
                    // A node that counts no steps has one.
                    if state["max"].as_f64().is_some_and(|max| max > 1.0) {
                        self.step(state);
                    }
                }
                Some("finished") if shown == *id => self.finish(&shown),
                _ => {}
            }
        }
    }

    /// The part of the current node that is done.
    fn node_fraction(&self) -> f64 {
        match (self.step, self.steps) {
            (Some(step), Some(steps)) if steps > 0.0 => (step / steps).clamp(0.0, 1.0),
            _ => 0.0,
        }
    }

    /// Progress never goes back, whatever the order of messages.
    fn advance(&mut self) {
        let total = self.nodes.len().max(1) as f64;
        let done = self.finished.len() as f64;
        let current = if self.current.is_some() { self.node_fraction() } else { 0.0 };
        self.fraction = self.fraction.max(((done + current) / total).min(1.0));
    }

    pub fn fraction(&self) -> f64 {
        self.fraction * GRAPH_SHARE
    }

    pub fn current_step(&self) -> Option<f64> {
        self.step
    }

    pub fn current(&self) -> Option<&str> {
        self.current.as_deref()
    }

    pub fn total(&self) -> usize {
        self.nodes.len()
    }

    /// What clients see as `progress`, beside `fraction`.
    pub fn detail(&self, workflow: &Workflow) -> Value {
        json!({
            "nodes_total": self.nodes.len(),
            "nodes_seen": self.seen.len(),
            "current_node": self.current,
            "current_title": self.current.as_ref().map(|id| workflow.title(id).unwrap_or(workflow.class(id))),
            "node_fraction": self.node_fraction(),
            "node_progression": self.seen,
            "step": self.step.map(whole),
            "steps": self.steps.map(whole),
            "delta": self.current.as_ref().map(|id| self.told(workflow.describe(id))),
        })
    }

    /// Where it is, as a text for clients that show nothing else.
    fn told(&self, mut place: String) -> String {
        if let (Some(step), Some(steps)) = (self.step, self.steps) {
            place += &format!(": step {} of {}", whole(step), whole(steps));
        }
        place
    }
}

/// A number as JSON writes it best: steps are counted, though ComfyUI has them as floats at times.
pub fn whole(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() < 1e15 { json!(number as i64) } else { json!(number) }
}

/// An id, which some nodes' authors write as a number.
fn node(data: &Value, field: &str) -> Option<String> {
    match &data[field] {
        Value::String(id) => Some(id.clone()),
        Value::Number(id) => Some(id.to_string()),
        _ => None,
    }
}

fn number(content: &[u8]) -> Option<(u32, &[u8])> {
    let (head, rest) = content.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*head), rest))
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
