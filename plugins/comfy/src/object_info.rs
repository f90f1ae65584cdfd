//! What a server says of its nodes (`/object_info`), and whether a workflow fits it. Problems are found here, before
//! anything is uploaded, and name node and field.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::workflow::{Target, Workflow, link};

/// Choices that a message lists; a folder of models may have hundreds.
const LISTED: usize = 12;

/// Node classes by name; one that the server does not have is there as none.
#[derive(Debug, Default)]
pub struct Infos(BTreeMap<String, Option<Value>>);

/// What a class says of a field: its type, or a list of choices, and options.
pub struct Field<'a>(&'a Value);

impl Infos {
    /// Of answers of `/object_info/CLASS`.
    #[cfg(test)]
    pub fn of<'a>(answers: impl IntoIterator<Item = (&'a str, &'a Value)>) -> Self {
        let answers = answers.into_iter();
        Self(answers.map(|(class, answer)| (class.to_owned(), answer.get(class).cloned())).collect())
    }

    pub fn add(&mut self, class: &str, answer: &Value) {
        self.0.insert(class.to_owned(), answer.get(class).cloned());
    }

    pub fn knows(&self, class: &str) -> bool {
        self.0.contains_key(class)
    }

    fn class(&self, class: &str) -> Option<&Value> {
        self.0.get(class)?.as_ref()
    }

    pub fn field(&self, class: &str, field: &str) -> Option<Field<'_>> {
        let input = self.class(class)?.get("input")?;
        ["required", "optional"].iter().find_map(|part| input.get(part)?.get(field)).map(Field)
    }

    /// The nodes whose results the server keeps: it runs them and what they need.
    pub fn outputs<'a>(&self, workflow: &'a Workflow) -> Vec<&'a str> {
        let output = |id: &&str| {
            self.class(workflow.class(id)).is_some_and(|info| info["output_node"] == Value::Bool(true))
        };
        workflow.ids().into_iter().filter(output).collect()
    }

    /// What is wrong with a workflow; nothing when it may run. Fields of `later` get their values yet.
    pub fn problems(&self, workflow: &Workflow, later: &[Target]) -> Vec<String> {
        let mut problems = Vec::new();
        for id in workflow.ids() {
            let class = workflow.class(id);
            let Some(info) = self.class(class) else {
                if self.knows(class) {
                    problems.push(format!(
                        "{}: this ComfyUI has no node class '{class}' (is a custom node missing there?)",
                        workflow.describe(id)
                    ));
                }
                continue;
            };
            let mut tell = |field: &str, what: &str| {
                problems.push(format!("{}, field '{field}': {what}", workflow.describe(id)));
            };
            let required = info["input"]["required"].as_object();
            for (field, _) in required.into_iter().flatten() {
                if workflow.input(id, field).is_none() {
                    tell(field, "it is required and missing");
                }
            }
            for (field, value) in workflow.inputs(id) {
                if later.iter().any(|target| target.node == id && target.field == field) {
                    continue;
                }
                let Some(known) = self.field(class, field) else { continue };
                match link(value) {
                    Some((source, slot)) => {
                        if let Err(what) = self.check_link(workflow, &known, source, slot) {
                            tell(field, &what);
                        }
                    }
                    None => {
                        if let Err(what) = known.check(value) {
                            tell(field, &what);
                        }
                    }
                }
            }
        }
        if problems.is_empty() && self.0.values().all(Option::is_some) && self.outputs(workflow).is_empty() {
            problems.push("the workflow has no output node, such as SaveImage or PreviewImage".into());
        }
        problems
    }

    fn check_link(
        &self,
        workflow: &Workflow,
        field: &Field<'_>,
        source: &str,
        slot: u64,
    ) -> Result<(), String> {
        let Some(info) = self.class(workflow.class(source)) else { return Ok(()) };
        let Some(outputs) = info["output"].as_array() else { return Ok(()) };
        let from = workflow.describe(source);
        let Some(given) = outputs.get(slot as usize) else {
            return Err(format!("it is linked to output {slot} of {from}, which has {}", outputs.len()));
        };
        // Choices, wildcards and unions of types have rules of their own, which the server knows.
        let (Some(wanted), Some(given)) = (field.type_name(), given.as_str()) else { return Ok(()) };
        let plain =
            |name: &str| name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
        if wanted == given || !plain(wanted) || !plain(given) || wanted == "COMBO" || given == "COMBO" {
            return Ok(());
        }
        Err(format!("it takes {wanted}, but output {slot} of {from} is {given}"))
    }
}

impl Field<'_> {
    fn type_name(&self) -> Option<&str> {
        self.0.get(0)?.as_str()
    }

    fn option(&self, name: &str) -> Option<&Value> {
        self.0.get(1)?.get(name)
    }

    pub fn range(&self) -> Option<(f64, f64)> {
        matches!(self.type_name(), Some("INT" | "FLOAT")).then_some(())?;
        Some((self.option("min")?.as_f64()?, self.option("max")?.as_f64()?))
    }

    /// The choices of a combo, in the old way of writing it or the new one.
    pub fn choices(&self) -> Option<&Vec<Value>> {
        match self.0.get(0)? {
            Value::Array(choices) => Some(choices),
            Value::String(name) if name == "COMBO" => self.option("options")?.as_array(),
            _ => None,
        }
    }

    /// A file of the input folder: whether it is there the server checks, which also takes names that it does not list.
    fn is_file(&self) -> bool {
        ["image_upload", "video_upload", "audio_upload", "image_folder"]
            .iter()
            .any(|o| self.option(o).is_some())
    }

    fn check(&self, value: &Value) -> Result<(), String> {
        if let Some(choices) = self.choices() {
            if self.is_file() || choices.contains(value) || self.option("multiselect").is_some() {
                return Ok(());
            }
            let shown: Vec<String> = choices.iter().take(LISTED).map(plain).collect();
            let more = if choices.len() > LISTED {
                format!(" and {} more", choices.len() - LISTED)
            } else {
                String::new()
            };
            let shown = if shown.is_empty() { "nothing is".to_owned() } else { shown.join(", ") };
            return Err(format!("'{}' is not accepted here; accepted: {shown}{more}", plain(value)));
        }
        let kind = self.type_name().unwrap_or_default();
        let number = value.as_f64().or_else(|| value.as_str().and_then(|text| text.trim().parse().ok()));
        match kind {
            "INT" | "FLOAT" => {
                let Some(number) = number else {
                    return Err(format!("it must be a number, not {value}"));
                };
                match self.range() {
                    Some((low, high)) if number < low || number > high => {
                        Err(format!("{number} is out of range: accepted is {low} to {high}"))
                    }
                    _ => Ok(()),
                }
            }
            // Everything that is not text, a number, a choice or true and false comes from another node.
            "IMAGE" | "MASK" | "LATENT" | "MODEL" | "CLIP" | "VAE" | "CONDITIONING" | "CONTROL_NET"
            | "AUDIO" | "VIDEO" => Err(format!("it must be linked to a node that gives {kind}")),
            _ => Ok(()),
        }
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn infos() -> Infos {
        let load = json!({"LoadImage": {"input": {"required": {"image": [["a.png"], {"image_upload": true}]}},
            "output": ["IMAGE", "MASK"], "output_node": false}});
        let scale = json!({"ImageScale": {"input": {"required": {"image": ["IMAGE"],
            "method": [["nearest", "area"]], "width": ["INT", {"min": 0, "max": 16384}],
            "crop": ["COMBO", {"options": ["disabled", "center"]}]}}, "output": ["IMAGE"], "output_node": false}});
        let save = json!({"SaveImage": {"input": {"required": {"images": ["IMAGE", {}]}}, "output": [],
            "output_node": true}});
        let mut infos = Infos::of([("LoadImage", &load), ("ImageScale", &scale), ("SaveImage", &save)]);
        infos.add("Missing", &json!({}));
        infos
    }

    fn problems(nodes: Value) -> Vec<String> {
        let workflow = Workflow::parse(nodes.to_string().as_bytes()).unwrap();
        infos().problems(&workflow, &[])
    }

    fn good() -> Value {
        json!({
            "1": {"class_type": "LoadImage", "inputs": {"image": "not listed.png"}},
            "2": {"class_type": "ImageScale", "inputs":
                {"image": ["1", 0], "method": "area", "width": 8, "crop": "center", "image_new": 1}},
            "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0]}},
        })
    }

    #[test]
    fn a_good_workflow_has_no_problems() {
        assert_eq!(problems(good()), Vec::<String>::new());
        let workflow = Workflow::parse(good().to_string().as_bytes()).unwrap();
        assert_eq!(infos().outputs(&workflow), ["3"]);
    }

    #[test]
    fn problems_name_node_and_field() {
        let with = |path: &str, value: Value| {
            let mut nodes = good();
            *nodes.pointer_mut(path).unwrap() = value;
            problems(nodes).join("; ")
        };
        assert!(
            with("/1/class_type", json!("Missing"))
                .starts_with("node 1 (Missing): this ComfyUI has no node class")
        );
        assert_eq!(
            with("/2/inputs/width", json!(20000)),
            "node 2 (ImageScale), field 'width': 20000 is out of range: accepted is 0 to 16384"
        );
        assert_eq!(
            with("/2/inputs/method", json!("magic")),
            "node 2 (ImageScale), field 'method': 'magic' is not accepted here; accepted: nearest, area"
        );
        assert!(with("/2/inputs/crop", json!("x")).contains("accepted: disabled, center"));
        assert!(with("/2/inputs/width", json!("wide")).contains("it must be a number, not \"wide\""));
        assert!(
            with("/2/inputs/image", json!("a.png")).contains("must be linked to a node that gives IMAGE")
        );
        assert_eq!(
            with("/2/inputs/image", json!(["1", 1])),
            "node 2 (ImageScale), field 'image': it takes IMAGE, but output 1 of node 1 (LoadImage) is MASK"
        );
        assert!(
            with("/2/inputs/image", json!(["1", 5])).contains("output 5 of node 1 (LoadImage), which has 2")
        );
        assert!(with("/3/inputs", json!({})).contains("field 'images': it is required and missing"));
        assert!(with("/3/class_type", json!("LoadImage")).contains("field 'image'"));
    }

    #[test]
    fn something_must_come_out() {
        let nodes = json!({"1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}}});
        let workflow = Workflow::parse(nodes.to_string().as_bytes()).unwrap();
        let mut infos = infos();
        infos.0.retain(|_, info| info.is_some());
        assert!(infos.problems(&workflow, &[])[0].contains("no output node"));
    }
}
