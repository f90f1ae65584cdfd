//! What may be changed in a workflow: its inputs by name, and the fields each goes to. The operator writes them into
//! `NAME.inputs.toml` or `NAME.inputs.json` beside the workflow, or they are derived from it.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    derive,
    workflow::{Target, Workflow},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Text,
    Integer,
    Number,
    Boolean,
    /// An integer that is random unless given.
    Seed,
    /// An upload, by its fileRef. Sound and video go the same way.
    Image,
}

/// One input.
#[derive(Debug, Clone, PartialEq)]
pub struct Input {
    pub name: String,
    pub kind: Kind,
    pub targets: Vec<Target>,
    pub description: Option<String>,
    /// In place of what the workflow says.
    pub default: Option<Value>,
    pub required: bool,
    pub minimum: Option<f64>,
    pub maximum: Option<f64>,
    pub choices: Vec<Value>,
}

/// All of a workflow's.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sidecar {
    pub title: Option<String>,
    pub description: Option<String>,
    /// The nodes whose files are the job's outputs; empty: those that save something.
    pub outputs: Vec<String>,
    pub inputs: Vec<Input>,
    /// Nobody wrote it.
    pub derived: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    title: Option<String>,
    description: Option<String>,
    #[serde(default)]
    outputs: Vec<String>,
    inputs: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    to: Option<Value>,
    node: Option<Value>,
    field: Option<String>,
    #[serde(rename = "type")]
    kind: Option<Kind>,
    description: Option<String>,
    default: Option<Value>,
    #[serde(default)]
    required: bool,
    minimum: Option<f64>,
    maximum: Option<f64>,
    #[serde(default)]
    choices: Vec<Value>,
}

impl Sidecar {
    /// Reads a sidecar. One without `inputs` gets the derived ones.
    ///
    /// # Errors
    /// What is wrong with it and what is accepted.
    pub fn parse(content: &[u8], toml: bool, workflow: &Workflow) -> Result<Self, String> {
        let text = std::str::from_utf8(content).map_err(|_| "it is not UTF-8".to_owned())?;
        let written: Written = match toml {
            true => toml::from_str(text).map_err(|e| e.message().to_owned())?,
            false => serde_json::from_str(text).map_err(|e| e.to_string())?,
        };
        for id in &written.outputs {
            if !workflow.has(id) {
                return Err(format!("outputs: the workflow has no node {id}"));
            }
        }
        let derived = written.inputs.is_none();
        let inputs = match written.inputs {
            None => derive::inputs(workflow),
            Some(inputs) => {
                let inputs = inputs.into_iter().map(|(name, value)| {
                    input(&name, value, workflow).map_err(|error| format!("inputs.{name}: {error}"))
                });
                inputs.collect::<Result<_, _>>()?
            }
        };
        let Written { title, description, outputs, .. } = written;
        Ok(Self { title, description, outputs, inputs, derived })
    }

    /// What there is without a file.
    pub fn derive(workflow: &Workflow) -> Self {
        Self { inputs: derive::inputs(workflow), derived: true, ..Self::default() }
    }

    pub fn input(&self, name: &str) -> Option<&Input> {
        self.inputs.iter().find(|input| input.name == name)
    }

    /// Where the job's `inputImage` goes.
    pub fn picture(&self) -> Option<&Input> {
        let pictures = || self.inputs.iter().filter(|input| input.kind == Kind::Image);
        pictures().find(|input| input.name == "image").or_else(|| pictures().next())
    }
}

/// `"6.text"`, `["3.seed", "9.noise_seed"]` or a table.
fn input(name: &str, value: Value, workflow: &Workflow) -> Result<Input, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
        return Err("its name is not valid: accepted are 1 to 64 letters, digits, '_' and '-'".into());
    }
    let table = match value {
        Value::Object(_) => serde_json::from_value(value).map_err(|e| e.to_string())?,
        places => Table {
            to: Some(places),
            node: None,
            field: None,
            kind: None,
            description: None,
            default: None,
            required: false,
            minimum: None,
            maximum: None,
            choices: Vec::new(),
        },
    };
    let targets = match (&table.to, &table.node, &table.field) {
        (Some(Value::String(place)), None, None) => vec![target(place)?],
        (Some(Value::Array(places)), None, None) if !places.is_empty() => {
            places.iter().map(|place| target(place.as_str().unwrap_or_default())).collect::<Result<_, _>>()?
        }
        (None, Some(Value::String(node)), Some(field)) => {
            vec![Target { node: node.clone(), field: field.clone() }]
        }
        (None, Some(Value::Number(node)), Some(field)) => {
            vec![Target { node: node.to_string(), field: field.clone() }]
        }
        _ => {
            return Err(
                "it says not where it goes: accepted are \"NODE.FIELD\", a list of them, and a table with \
                 to = \"NODE.FIELD\" or with node and field"
                    .into(),
            );
        }
    };
    for target in &targets {
        if !workflow.has(&target.node) {
            return Err(format!("the workflow has no node {}", target.node));
        }
        if workflow.input(&target.node, &target.field).is_none() {
            let fields: Vec<&str> = workflow.inputs(&target.node).map(|(field, _)| field).collect();
            let node = workflow.describe(&target.node);
            return Err(format!("{node} has no field '{}'; it has: {}", target.field, fields.join(", ")));
        }
    }
    let input = Input {
        name: name.to_owned(),
        kind: table.kind.unwrap_or_else(|| derive::kind(workflow, &targets[0])),
        targets,
        description: table.description,
        default: table.default,
        required: table.required,
        minimum: table.minimum,
        maximum: table.maximum,
        choices: table.choices,
    };
    if let Some(default) = &input.default
        && input.kind != Kind::Image
    {
        input.check(default).map_err(|error| format!("default: {error}"))?;
    }
    Ok(input)
}

fn target(place: &str) -> Result<Target, String> {
    // Ids of nodes inside of groups may have points or colons of their own.
    match place.rsplit_once('.') {
        Some((node, field)) if !node.is_empty() && !field.is_empty() => {
            Ok(Target { node: node.to_owned(), field: field.to_owned() })
        }
        _ => Err(format!("'{place}' is no place: accepted is NODE.FIELD, such as 6.text")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn workflow() -> Workflow {
        let nodes = json!({
            "1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
            "2": {"class_type": "ImageScale", "inputs": {"image": ["1", 0], "width": 64, "height": 64}},
            "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
        });
        Workflow::parse(nodes.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn toml_and_json_say_the_same() {
        let toml = br#"
            title = "Bigger"
            outputs = ["3"]
            [inputs]
            image = "1.image"
            size = ["2.width", "2.height"]
            name = { to = "3.filename_prefix", required = true, choices = ["a", "b"] }
        "#;
        let json = json!({
            "title": "Bigger",
            "outputs": ["3"],
            "inputs": {
                "image": {"node": 1, "field": "image"},
                "size": {"to": ["2.width", "2.height"]},
                "name": {"node": "3", "field": "filename_prefix", "required": true, "choices": ["a", "b"]},
            },
        });
        let read = Sidecar::parse(toml, true, &workflow()).unwrap();
        assert_eq!(read, Sidecar::parse(json.to_string().as_bytes(), false, &workflow()).unwrap());
        let kinds: Vec<_> = read.inputs.iter().map(|input| (input.name.as_str(), input.kind)).collect();
        assert_eq!(kinds, [("image", Kind::Image), ("name", Kind::Text), ("size", Kind::Integer)]);
        assert_eq!(read.input("size").unwrap().targets.len(), 2);
        assert_eq!(read.picture().unwrap().name, "image");
    }

    #[test]
    fn mistakes_are_named() {
        let error = |toml: &str| Sidecar::parse(toml.as_bytes(), true, &workflow()).unwrap_err();
        assert_eq!(error("inputs.x = '9.text'"), "inputs.x: the workflow has no node 9");
        assert_eq!(
            error("inputs.x = '2.widht'"),
            "inputs.x: node 2 (ImageScale) has no field 'widht'; it has: height, image, width"
        );
        assert!(error("inputs.x = 'width'").contains("accepted is NODE.FIELD, such as 6.text"));
        assert!(error("inputs.x = 5").contains("says not where it goes"));
        assert!(
            error("inputs.x = {to = '2.width', default = 'big'}").contains("default: must be a whole number")
        );
        assert!(error("inputs.x = {to = '2.width', type = 'int'}").contains("unknown variant `int`"));
        assert!(error("outputs = ['7']").contains("no node 7"));
        assert!(error("input.x = '1.image'").contains("unknown field `input`"));
    }

    #[test]
    fn a_sidecar_without_inputs_keeps_the_derived_ones() {
        let read = Sidecar::parse(b"title = 'Bigger'", true, &workflow()).unwrap();
        assert_eq!(read.inputs, Sidecar::derive(&workflow()).inputs);
        assert!(read.derived && read.title.is_some());
    }
}
