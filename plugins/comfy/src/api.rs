//! ComfyUI's HTTP interface, as far as it is needed.

use reverie_plugin_sdk::{Error, ErrorKind};
use serde_json::{Value, json};

use crate::{
    config::{Config, ms},
    host::{Host, Request, Response},
    object_info::Infos,
    outputs::File,
    workflow::Workflow,
};

/// Bytes of an answer that is JSON.
const MAX_JSON: usize = 16 << 20;

/// One server.
pub struct Server<'a, H> {
    pub host: &'a H,
    pub url: &'a str,
    pub config: &'a Config,
}

/// Where a prompt is.
#[derive(Debug, PartialEq)]
pub enum Whereabouts {
    /// So many are before it.
    Pending(usize),
    Running,
    /// The entry of the history.
    Settled(Value),
    Absent,
}

/// The ids of a server's prompts.
#[derive(Debug, Default, PartialEq)]
pub struct Queue {
    pub running: Vec<String>,
    /// The next one first.
    pub pending: Vec<String>,
}

/// What a server says to a prompt.
pub enum Answer {
    /// Its id, and what is wrong with parts that will not run.
    Accepted(String, Vec<String>),
    Refused(Vec<String>),
}

impl<H: Host> Server<'_, H> {
    fn call(
        &self,
        method: &'static str,
        path: &str,
        body: Option<(String, Vec<u8>)>,
    ) -> Result<Response, Error> {
        // A server may read and hash what a prompt names before it answers.
        let transfer = ["/view", "/upload", "/prompt"].iter().any(|slow| path.starts_with(slow));
        let (timeout, max_bytes) = match transfer {
            true => (self.config.transfer_timeout_s, self.config.max_output_mb << 20),
            false => (self.config.probe_timeout_s, MAX_JSON),
        };
        let url = format!("{}{path}", self.url);
        let request = Request { method, url, body, timeout_ms: ms(timeout), max_bytes };
        let response = self
            .host
            .call(request)
            .map_err(|e| Error { message: format!("ComfyUI at {}: {}", self.url, e.message), ..e })?;
        match response.status {
            500.. => Err(Error::unavailable(format!(
                "ComfyUI at {} answered {} to {method} {}",
                self.url,
                response.status,
                path.split('?').next().unwrap_or_default()
            ))),
            _ => Ok(response),
        }
    }

    fn json(&self, path: &str) -> Result<Value, Error> {
        let response = self.call("GET", path, None)?;
        if response.status != 200 {
            return Err(self.odd(path, &format!("answered {}", response.status)));
        }
        serde_json::from_slice(&response.body).map_err(|_| self.odd(path, "did not answer in JSON"))
    }

    /// It answers, but not as ComfyUI does: something else listens there, or stands before it.
    fn odd(&self, path: &str, what: &str) -> Error {
        Error::unavailable(format!("{} {what} to {path}: is it a ComfyUI server?", self.url))
    }

    fn post(&self, path: &str, body: &Value) -> Result<Response, Error> {
        self.call("POST", path, Some(("application/json".into(), body.to_string().into_bytes())))
    }

    pub fn queue(&self) -> Result<Queue, Error> {
        let answer = self.json("/queue")?;
        let ids = |part: &str| -> Vec<(f64, String)> {
            let items = answer[part].as_array().into_iter().flatten();
            let items = items.filter_map(|item| Some((item[0].as_f64()?, item[1].as_str()?.to_owned())));
            items.collect()
        };
        if !answer["queue_running"].is_array() {
            return Err(self.odd("/queue", "gave no queue"));
        }
        // Those that wait come as a heap.
        let mut pending = ids("queue_pending");
        pending.sort_by(|a, b| a.0.total_cmp(&b.0));
        let names = |items: Vec<(f64, String)>| items.into_iter().map(|(_, id)| id).collect();
        Ok(Queue { running: names(ids("queue_running")), pending: names(pending) })
    }

    /// What became of a prompt. The queue is asked first: a prompt that ends in between is in the history then.
    pub fn find(&self, prompt: &str) -> Result<Whereabouts, Error> {
        let queue = self.queue()?;
        if queue.running.iter().any(|id| id == prompt) {
            return Ok(Whereabouts::Running);
        }
        if let Some(before) = queue.pending.iter().position(|id| id == prompt) {
            return Ok(Whereabouts::Pending(before + queue.running.len()));
        }
        Ok(self.history(prompt)?.map_or(Whereabouts::Absent, Whereabouts::Settled))
    }

    pub fn history(&self, prompt: &str) -> Result<Option<Value>, Error> {
        let mut answer = self.json(&format!("/history/{}", encode(prompt)))?;
        Ok(answer.get_mut(prompt).map(Value::take))
    }

    /// Learns about classes that are not known yet.
    pub fn learn(&self, infos: &mut Infos, workflow: &Workflow) -> Result<(), Error> {
        for class in workflow.classes() {
            if !infos.knows(class) {
                infos.add(class, &self.json(&format!("/object_info/{}", encode(class)))?);
            }
        }
        Ok(())
    }

    pub fn about(&self) -> Result<Value, Error> {
        self.json("/system_stats")
    }

    /// Puts a file into the input folder. Returns the name that fields take: the server picks another one when it has a
    /// different file of this name.
    pub fn upload(&self, name: &str, content: &[u8], media_type: &str) -> Result<String, Error> {
        let limit = "reverie-7c2d5f0e9b1a4c3d";
        let mut body = format!(
            "--{limit}\r\nContent-Disposition: form-data; name=\"type\"\r\n\r\ninput\r\n--{limit}\r\n\
             Content-Disposition: form-data; name=\"image\"; filename=\"{name}\"\r\nContent-Type: {media_type}\r\n\r\n"
        )
        .into_bytes();
        body.extend_from_slice(content);
        body.extend_from_slice(format!("\r\n--{limit}--\r\n").as_bytes());
        let kind = format!("multipart/form-data; boundary={limit}");
        let response = self.call("POST", "/upload/image", Some((kind, body)))?;
        if response.status == 413 {
            return Err(Error::too_large(format!(
                "ComfyUI at {} does not take a file of {} bytes (its --max-upload-size)",
                self.url,
                content.len()
            )));
        }
        let answer: Value = serde_json::from_slice(&response.body).unwrap_or_default();
        match (response.status, answer["name"].as_str(), answer["subfolder"].as_str().unwrap_or_default()) {
            (200, Some(name), "") => Ok(name.to_owned()),
            (200, Some(name), folder) => Ok(format!("{folder}/{name}")),
            (status, ..) => {
                Err(Error::internal(format!("ComfyUI at {} refused an upload: {status}", self.url)))
            }
        }
    }

    /// Submits a prompt under an id of our own, so that it can be found again whatever becomes of the answer. Old versions
    /// choose one themselves.
    pub fn submit(&self, workflow: &Workflow, client: &str, prompt: &str) -> Result<Answer, Error> {
        let body = json!({"prompt": workflow.to_json(), "client_id": client, "prompt_id": prompt});
        let response = self.post("/prompt", &body)?;
        let answer: Value = serde_json::from_slice(&response.body).unwrap_or_default();
        let problems = node_errors(&answer, workflow);
        match (response.status, answer["prompt_id"].as_str()) {
            (200, Some(id)) => Ok(Answer::Accepted(id.to_owned(), problems)),
            (200, None) => Err(self.odd("/prompt", "gave no prompt_id")),
            _ if !problems.is_empty() => Ok(Answer::Refused(problems)),
            (status, _) => {
                let error = &answer["error"];
                let told = error["message"].as_str().or(error.as_str()).unwrap_or("no reason given");
                let details =
                    error["details"].as_str().filter(|details| !details.is_empty() && *details != told);
                let details = details.map(|details| format!(" ({details})")).unwrap_or_default();
                Ok(Answer::Refused(vec![format!("ComfyUI refused the workflow: {told}{details} [{status}]")]))
            }
        }
    }

    /// Takes a prompt out of the queue, or interrupts it if it is the one that runs. Others are left alone: old versions
    /// interrupt whatever runs, so it is looked at first.
    pub fn withdraw(&self, prompt: &str) -> Result<(), Error> {
        // It may begin to run between the look and the deletion, but only once.
        for _ in 0..3 {
            match self.find(prompt)? {
                Whereabouts::Pending(_) => drop(self.post("/queue", &json!({"delete": [prompt]}))?),
                Whereabouts::Running => {
                    self.post("/interrupt", &json!({"prompt_id": prompt}))?;
                    return Ok(());
                }
                Whereabouts::Settled(_) | Whereabouts::Absent => return Ok(()),
            }
        }
        Ok(())
    }

    /// An output's bytes and media type.
    pub fn view(&self, file: &File) -> Result<(Vec<u8>, String), Error> {
        let File { name, folder, kind, .. } = file;
        let path =
            format!("/view?filename={}&subfolder={}&type={}", encode(name), encode(folder), encode(kind));
        let response = self.call("GET", &path, None)?;
        if response.status != 200 {
            let status = response.status;
            return Err(Error::internal(format!(
                "ComfyUI at {} has no output '{name}' any more ({status})",
                self.url
            )));
        }
        Ok((response.body, response.media_type))
    }

    pub fn socket(&self, client: &str) -> Result<H::Socket, Error> {
        let url = format!("{}/ws?clientId={}", self.url.replacen("http", "ws", 1), encode(client));
        self.host.connect(&url, ms(self.config.probe_timeout_s))
    }
}

/// Whether the server may be fine later, or another one in its place; other errors would be the same there.
pub fn is_gone(error: &Error) -> bool {
    error.kind == ErrorKind::Unavailable
}

/// The answer's `node_errors` for people.
fn node_errors(answer: &Value, workflow: &Workflow) -> Vec<String> {
    let mut problems = Vec::new();
    for (id, node) in answer["node_errors"].as_object().into_iter().flatten() {
        for error in node["errors"].as_array().into_iter().flatten() {
            let field = error["extra_info"]["input_name"].as_str();
            let field = field.map(|field| format!(", field '{field}'")).unwrap_or_default();
            let message = error["message"].as_str().unwrap_or("refused");
            let details: String = error["details"].as_str().unwrap_or_default().chars().take(300).collect();
            let details = if details.is_empty() { details } else { format!(" ({details})") };
            problems.push(format!("{}{field}: {message}{details}", workflow.describe(id)));
        }
    }
    problems
}

/// A text as a part of a path or a query.
pub fn encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => encoded.push(byte.into()),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_encoded() {
        assert_eq!(encode("a b/ü&.png"), "a%20b%2F%C3%BC%26.png");
    }

    #[test]
    fn what_the_server_finds_wrong_names_node_and_field() {
        let workflow = Workflow::parse(br#"{"2": {"class_type": "ImageScale", "inputs": {}}}"#).unwrap();
        let answer = json!({"node_errors": {"2": {"errors": [
            {"message": "Value 20000 bigger than max of 16384", "details": "width",
                "extra_info": {"input_name": "width"}},
            {"message": "Odd", "details": ""}]}}});
        assert_eq!(
            node_errors(&answer, &workflow),
            [
                "node 2 (ImageScale), field 'width': Value 20000 bigger than max of 16384 (width)",
                "node 2 (ImageScale): Odd"
            ]
        );
    }
}
