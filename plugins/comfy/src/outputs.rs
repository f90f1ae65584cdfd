//! What a prompt left behind, by its entry in the history: files of any kind, or why there are none.

use serde_json::{Map, Value};

use crate::{events::Failure, sidecar::Sidecar};

/// A file on the server.
#[derive(Debug, Clone, PartialEq)]
pub struct File {
    pub node: String,
    /// What the node calls it: `images`, `gifs`, `audio`, ...
    pub list: String,
    pub name: String,
    pub folder: String,
    /// `output`, or `temp` for what was only to be looked at.
    pub kind: String,
}

/// How a prompt ended.
#[derive(Debug, PartialEq)]
pub enum End {
    Success,
    Failed(Failure),
    Interrupted,
}

/// Reads the status of an entry.
pub fn end(entry: &Value) -> End {
    let status = &entry["status"];
    let messages = || status["messages"].as_array().into_iter().flatten();
    let find = |kind: &str| messages().find(|message| message[0] == kind).map(|message| &message[1]);
    if let Some(data) = find("execution_error") {
        return End::Failed(Failure::read(data));
    }
    if find("execution_interrupted").is_some() {
        return End::Interrupted;
    }
    if status["status_str"] == "error" || status["completed"] == Value::Bool(false) {
        let message = "it says that the workflow failed, and not why".to_owned();
        return End::Failed(Failure { node: String::new(), kind: String::new(), message });
    }
    End::Success
}

/// The files among `outputs` that are the job's: those of the nodes that the sidecar names, else those that were saved, else
/// those that were only to be looked at.
pub fn files(outputs: &Map<String, Value>, sidecar: &Sidecar) -> Vec<File> {
    let mut files = Vec::new();
    let mut nodes: Vec<&String> = outputs.keys().collect();
    nodes.sort_by_key(|id| (id.parse::<u64>().unwrap_or(u64::MAX), *id));
    for node in nodes {
        for (list, items) in outputs[node].as_object().into_iter().flatten() {
            for item in items.as_array().into_iter().flatten() {
                let Some(name) = item["filename"].as_str().filter(|name| !name.is_empty()) else { continue };
                let text =
                    |field: &str, otherwise: &str| item[field].as_str().unwrap_or(otherwise).to_owned();
                files.push(File {
                    node: node.clone(),
                    list: list.clone(),
                    name: name.to_owned(),
                    folder: text("subfolder", ""),
                    kind: text("type", "output"),
                });
            }
        }
    }
    if !sidecar.outputs.is_empty() {
        files.retain(|file| sidecar.outputs.contains(&file.node));
        return files;
    }
    if files.iter().any(|file| file.kind == "output") {
        files.retain(|file| file.kind == "output");
    }
    files
}

/// The texts that nodes show, by node.
pub fn texts(outputs: &Map<String, Value>) -> Map<String, Value> {
    let texts = outputs.iter().filter_map(|(node, output)| {
        let text = output.get("text").or_else(|| output.get("string"))?;
        Some((node.clone(), text.clone()))
    });
    texts.collect()
}

/// The media type of an output: what the server says, unless that is nothing; else by its extension.
pub fn media_type(told: &str, name: &str) -> String {
    let told = told.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if !told.is_empty() && told != "application/octet-stream" && told != "text/plain" {
        return told;
    }
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension).to_ascii_lowercase();
    match extension.as_str() {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "webp" => "image/webp",
        "gif" => "image/gif",
        "avif" => "image/avif",
        "mp4" | "m4v" => "video/mp4",
        "webm" => "video/webm",
        "mov" => "video/quicktime",
        "mkv" => "video/x-matroska",
        "wav" => "audio/wav",
        "mp3" => "audio/mpeg",
        "flac" => "audio/flac",
        "ogg" | "opus" => "audio/ogg",
        "glb" => "model/gltf-binary",
        "json" => "application/json",
        "txt" => "text/plain",
        _ => "application/octet-stream",
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn outputs() -> Map<String, Value> {
        let file = |name: &str, kind: &str| json!({"filename": name, "subfolder": "", "type": kind});
        let outputs = json!({
            "10": {"images": [file("b.png", "output"), file("c.png", "output")], "animated": [false]},
            "9": {"gifs": [file("a.mp4", "output")]},
            "3": {"images": [file("p.png", "temp")]},
            "4": {"text": ["a caption"]},
        });
        outputs.as_object().unwrap().clone()
    }

    #[test]
    fn saved_files_win_over_those_to_look_at() {
        let names = |outputs: &Map<String, Value>, sidecar: &Sidecar| -> Vec<String> {
            files(outputs, sidecar).into_iter().map(|file| file.name).collect()
        };
        let all = Sidecar::default();
        assert_eq!(names(&outputs(), &all), ["a.mp4", "b.png", "c.png"]);
        let mut only_shown = outputs();
        only_shown.retain(|node, _| node == "3");
        assert_eq!(names(&only_shown, &all), ["p.png"]);
        let chosen = Sidecar { outputs: vec!["3".into()], ..Sidecar::default() };
        assert_eq!(names(&outputs(), &chosen), ["p.png"]);
        assert_eq!(texts(&outputs()), *json!({"4": ["a caption"]}).as_object().unwrap());
    }

    #[test]
    fn the_history_tells_the_end() {
        let entry = |status: &str, messages: Value| json!({"status": {"status_str": status, "completed": status == "success", "messages": messages}});
        assert_eq!(end(&entry("success", json!([["execution_success", {}]]))), End::Success);
        assert_eq!(end(&entry("error", json!([["execution_interrupted", {}]]))), End::Interrupted);
        let failed =
            end(&entry("error", json!([["execution_error", {"node_id": "3", "exception_message": "m"}]])));
        assert!(matches!(failed, End::Failed(failure) if failure.node == "3"));
        assert!(matches!(end(&entry("error", json!([]))), End::Failed(_)));
        // Old versions had no status.
        assert_eq!(end(&json!({"outputs": {}})), End::Success);
    }

    #[test]
    fn media_types_come_from_the_server_or_the_name() {
        assert_eq!(media_type("image/png", "a.bin"), "image/png");
        assert_eq!(media_type("application/octet-stream", "A.MP4"), "video/mp4");
        assert_eq!(media_type("", "x"), "application/octet-stream");
    }
}
