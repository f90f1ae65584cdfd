//! A workflow: ComfyUI's API format, which names each node's class and the value or link of each of its fields.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// Checked to be a graph of nodes whose links lead somewhere.
#[derive(Debug, Clone, PartialEq)]
pub struct Workflow {
    /// By id: `{class_type, inputs, _meta?}`.
    nodes: Map<String, Value>,
}

/// Where a value goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub node: String,
    pub field: String,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.node, self.field)
    }
}

const UI_FORMAT: &str = "it is in the format of ComfyUI's editor (it has \"nodes\" and \"links\"), which its server does not \
     run: export it again with \"Export (API)\", in older versions \"Save (API Format)\" with the dev mode options on";

impl Workflow {
    /// Reads a file.
    ///
    /// # Errors
    /// What is wrong with it and what is accepted.
    pub fn parse(content: &[u8]) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(content).map_err(|e| format!("it is not JSON: {e}"))?;
        let Value::Object(mut nodes) = value else {
            return Err(
                "it is not a workflow: accepted is an object of nodes by their ids (API format)".into()
            );
        };
        if nodes.get("nodes").is_some_and(Value::is_array) {
            return Err(UI_FORMAT.into());
        }
        // The body of a POST /prompt, as scripts keep it.
        if let Some(Value::Object(inner)) = nodes.get("prompt")
            && !nodes.contains_key("class_type")
            && inner.values().all(|node| node.get("class_type").is_some())
        {
            nodes = inner.clone();
        }
        if nodes.is_empty() {
            return Err("it has no nodes".into());
        }
        for (id, node) in &nodes {
            if !node.get("class_type").is_some_and(Value::is_string) {
                return Err(format!(
                    "node {id} has no \"class_type\": accepted is ComfyUI's API format, an object of nodes by their ids"
                ));
            }
            if !node.get("inputs").is_some_and(Value::is_object) {
                return Err(format!("node {id} has no \"inputs\": accepted is an object of its fields"));
            }
        }
        let workflow = Self { nodes };
        for id in workflow.ids() {
            for (field, value) in workflow.inputs(id) {
                if let Some((source, _)) = link(value)
                    && !workflow.nodes.contains_key(source)
                {
                    let node = workflow.describe(id);
                    return Err(format!(
                        "{node}, field '{field}': its link leads to node {source}, which is not there"
                    ));
                }
            }
        }
        Ok(workflow)
    }

    /// The nodes' ids, numbers by their value.
    pub fn ids(&self) -> Vec<&str> {
        let mut ids: Vec<&str> = self.nodes.keys().map(String::as_str).collect();
        ids.sort_by_key(|id| (id.parse::<u64>().unwrap_or(u64::MAX), *id));
        ids
    }

    pub fn has(&self, id: &str) -> bool {
        self.nodes.contains_key(id)
    }

    pub fn class(&self, id: &str) -> &str {
        self.nodes.get(id).and_then(|node| node["class_type"].as_str()).unwrap_or_default()
    }

    /// The title that the author gave a node, where it says more than its class.
    pub fn title(&self, id: &str) -> Option<&str> {
        let title = self.nodes.get(id)?.get("_meta")?.get("title")?.as_str()?;
        (!title.is_empty() && title != self.class(id)).then_some(title)
    }

    /// A node for people: `node 3 (KSampler, 'First pass')`.
    pub fn describe(&self, id: &str) -> String {
        match (self.class(id), self.title(id)) {
            ("", _) => format!("node {id}"),
            (class, None) => format!("node {id} ({class})"),
            (class, Some(title)) => format!("node {id} ({class}, '{title}')"),
        }
    }

    pub fn inputs(&self, id: &str) -> impl Iterator<Item = (&str, &Value)> {
        let inputs = self.nodes.get(id).and_then(|node| node["inputs"].as_object());
        inputs.into_iter().flatten().map(|(field, value)| (field.as_str(), value))
    }

    pub fn input(&self, id: &str, field: &str) -> Option<&Value> {
        self.nodes.get(id)?.get("inputs")?.get(field)
    }

    /// Puts a value into a field, in place of a link too.
    pub fn set(&mut self, target: &Target, value: Value) {
        if let Some(inputs) = self.nodes.get_mut(&target.node).and_then(|node| node["inputs"].as_object_mut())
        {
            inputs.insert(target.field.clone(), value);
        }
    }

    pub fn classes(&self) -> BTreeSet<&str> {
        self.nodes.keys().map(|id| self.class(id)).collect()
    }

    /// The nodes that these ones need, with themselves: those that the server will run.
    pub fn needed(&self, outputs: &[&str]) -> BTreeSet<String> {
        let mut needed = BTreeSet::new();
        let mut left: Vec<&str> = outputs.to_vec();
        while let Some(id) = left.pop() {
            if needed.insert(id.to_owned()) {
                left.extend(self.inputs(id).filter_map(|(_, value)| link(value)).map(|(source, _)| source));
            }
        }
        needed
    }

    /// As the server takes it.
    pub fn to_json(&self) -> Value {
        Value::Object(self.nodes.clone())
    }
}

/// The node and the output that a field is linked to.
pub fn link(value: &Value) -> Option<(&str, u64)> {
    match value.as_array()?.as_slice() {
        [Value::String(node), slot] => Some((node, slot.as_u64()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(value: Value) -> Result<Workflow, String> {
        Workflow::parse(value.to_string().as_bytes())
    }

    #[test]
    fn what_is_no_workflow_is_refused_with_a_hint() {
        let hint = parse(json!({"nodes": [], "links": [], "version": 0.4})).unwrap_err();
        assert!(hint.contains("Save (API Format)") && hint.contains("\"links\""), "{hint}");
        assert!(Workflow::parse(b"{").unwrap_err().starts_with("it is not JSON"));
        assert!(parse(json!([])).unwrap_err().contains("API format"));
        assert_eq!(parse(json!({})).unwrap_err(), "it has no nodes");
        assert!(parse(json!({"3": {"inputs": {}}})).unwrap_err().contains("node 3 has no \"class_type\""));
        assert!(parse(json!({"3": {"class_type": "A"}})).unwrap_err().contains("node 3 has no \"inputs\""));
        let loose =
            json!({"3": {"class_type": "A", "inputs": {"image": ["9", 0]}, "_meta": {"title": "Mine"}}});
        assert_eq!(
            parse(loose).unwrap_err(),
            "node 3 (A, 'Mine'), field 'image': its link leads to node 9, which is not there"
        );
    }

    #[test]
    fn a_graph_is_walked_from_its_outputs() {
        let nodes = json!({
            "10": {"class_type": "Save", "inputs": {"images": ["2", 0]}},
            "2": {"class_type": "Scale", "inputs": {"image": ["1", 0], "width": 8}},
            "1": {"class_type": "Load", "inputs": {"image": "a.png"}},
            "4": {"class_type": "Load", "inputs": {"image": "b.png"}},
        });
        // The body of a request is taken as well.
        let mut workflow = parse(json!({"prompt": nodes, "client_id": "x"})).unwrap();
        assert_eq!(workflow.ids(), ["1", "2", "4", "10"]);
        assert_eq!(workflow.needed(&["10"]).into_iter().collect::<Vec<_>>(), ["1", "10", "2"]);
        workflow.set(&Target { node: "2".into(), field: "width".into() }, json!(16));
        assert_eq!(workflow.input("2", "width"), Some(&json!(16)));
        assert_eq!(link(&json!([1, 2])), None);
    }
}
