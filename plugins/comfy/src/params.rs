//! A client's parameters: checked by a workflow's inputs and put into its fields. Also the JSON Schema that tells clients
//! what a workflow takes.

use reverie_plugin_sdk::Error;
use serde_json::{Map, Value, json};

use crate::{
    object_info::Infos,
    sidecar::{Input, Kind, Sidecar},
    workflow::{Target, Workflow},
};

/// Seeds that are chosen here; those that are given may have 64 bits.
const RANDOM_SEEDS: u64 = 1 << 31;

/// A workflow that is ready to run, but for the pictures, which have no names on the server yet.
#[derive(Debug)]
pub struct Patched {
    pub workflow: Workflow,
    pub seed: Option<u64>,
    pub pictures: Vec<Picture>,
    /// What was given and does nothing.
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    pub file_ref: String,
    pub targets: Vec<Target>,
}

impl Input {
    /// Checks a value.
    ///
    /// # Errors
    /// What is wrong with it and what is accepted.
    pub fn check(&self, value: &Value) -> Result<(), String> {
        let right = match self.kind {
            Kind::Text => value.is_string(),
            Kind::Integer => value.as_f64().is_some_and(|x| x.fract() == 0.0),
            Kind::Seed => {
                value.as_u64().is_some() || value.as_f64().is_some_and(|x| x.fract() == 0.0 && x >= 0.0)
            }
            Kind::Number => value.is_number(),
            Kind::Boolean => value.is_boolean(),
            Kind::Image => value.is_string(),
        };
        if !right {
            let wanted = match self.kind {
                Kind::Text => "a string",
                Kind::Integer => "a whole number",
                Kind::Seed => "a whole number from 0 on",
                Kind::Number => "a number",
                Kind::Boolean => "true or false",
                Kind::Image => "a fileRef, as POST /v1/upload returns it",
            };
            return Err(format!("must be {wanted}"));
        }
        if let Some(number) = value.as_f64() {
            let (low, high) = (self.minimum, self.maximum);
            if low.is_some_and(|low| number < low) || high.is_some_and(|high| number > high) {
                let bound = |bound: Option<f64>| bound.map_or("any".into(), |bound| bound.to_string());
                return Err(format!(
                    "{number} is out of range: accepted is {} to {}",
                    bound(low),
                    bound(high)
                ));
            }
        }
        if !self.choices.is_empty() && !self.choices.contains(value) {
            let choices: Vec<String> = self.choices.iter().map(plain).collect();
            return Err(format!("'{}' is not accepted; accepted are: {}", plain(value), choices.join(", ")));
        }
        Ok(())
    }

    /// A text that says a number or a boolean, where that is wanted, as one.
    fn read(&self, value: Value) -> Value {
        let Some(text) = value.as_str().map(str::trim) else { return value };
        let read = match self.kind {
            Kind::Integer | Kind::Seed | Kind::Number => {
                serde_json::from_str(text).ok().filter(Value::is_number)
            }
            Kind::Boolean => match text.to_ascii_lowercase().as_str() {
                "true" | "1" => Some(true.into()),
                "false" | "0" => Some(false.into()),
                _ => None,
            },
            Kind::Text | Kind::Image => None,
        };
        read.unwrap_or(value)
    }

    fn schema(&self, workflow: &Workflow, infos: Option<&Infos>) -> Value {
        let mut schema = match self.kind {
            Kind::Text => json!({"type": "string"}),
            Kind::Integer => json!({"type": "integer"}),
            Kind::Seed => json!({"type": "integer", "minimum": 0}),
            Kind::Number => json!({"type": "number"}),
            Kind::Boolean => json!({"type": "boolean"}),
            Kind::Image => json!({"type": "string", "format": "fileRef"}),
        };
        // What the server says of the field, below what the operator says.
        let target = &self.targets[0];
        if self.kind != Kind::Image
            && let Some(field) =
                infos.and_then(|infos| infos.field(workflow.class(&target.node), &target.field))
        {
            if let Some((low, high)) = field.range() {
                schema["minimum"] = json!(low);
                schema["maximum"] = json!(high);
            }
            if let Some(choices) = field.choices() {
                schema["enum"] = json!(choices);
            }
        }
        if let Some(minimum) = self.minimum {
            schema["minimum"] = json!(minimum);
        }
        if let Some(maximum) = self.maximum {
            schema["maximum"] = json!(maximum);
        }
        if !self.choices.is_empty() {
            schema["enum"] = json!(self.choices);
        }
        if let Some(description) = &self.description {
            schema["description"] = json!(description);
        }
        let standing = workflow.input(&target.node, &target.field).filter(|value| !value.is_array());
        if !self.required
            && self.kind != Kind::Image
            && let Some(default) = self.default.as_ref().or(standing.filter(|_| self.kind != Kind::Seed))
        {
            schema["default"] = default.clone();
        }
        schema
    }
}

/// A value for people.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The JSON Schema of `params`.
pub fn schema(workflow: &Workflow, sidecar: &Sidecar, infos: Option<&Infos>) -> Value {
    let properties: Map<String, Value> =
        sidecar.inputs.iter().map(|input| (input.name.clone(), input.schema(workflow, infos))).collect();
    let required: Vec<&str> =
        sidecar.inputs.iter().filter(|input| input.required).map(|input| input.name.as_str()).collect();
    json!({"type": "object", "properties": properties, "required": required})
}

/// Puts parameters into a workflow. `input_image` is the job's; `random` chooses the seeds that are not given.
///
/// # Errors
/// `invalid-input`, naming the parameter.
pub fn patch(
    workflow: &Workflow,
    sidecar: &Sidecar,
    params: &Map<String, Value>,
    input_image: Option<&str>,
    random: u64,
) -> Result<Patched, Error> {
    let mut values = params.clone();
    // A null is as good as nothing.
    values.retain(|_, value| !value.is_null());
    if let Some(file_ref) = input_image {
        let Some(input) = sidecar.picture() else {
            return Err(Error::invalid_input("inputImage: this workflow takes no picture"));
        };
        values.entry(input.name.clone()).or_insert_with(|| file_ref.into());
    }
    let names: Vec<&str> = sidecar.inputs.iter().map(|input| input.name.as_str()).collect();
    let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    let unknown = values.keys().filter(|name| sidecar.input(name).is_none());
    let warnings = unknown
        .map(|name| format!("params.{name}: ignored: the workflow has no such input; it has: {names}"))
        .collect();
    let mut patched = Patched { workflow: workflow.clone(), seed: None, pictures: Vec::new(), warnings };
    let seed = random % RANDOM_SEEDS;
    for input in &sidecar.inputs {
        let given = values.remove(&input.name).map(|value| input.read(value));
        // -1 stands for a random seed in A1111's API, and in what people are used to.
        let given = given.filter(|value| input.kind != Kind::Seed || value.as_f64() != Some(-1.0));
        if given.is_none() && input.required && input.kind != Kind::Seed {
            let what = match input.kind {
                Kind::Image => "is required: give a fileRef, or one as inputImage",
                _ => "is required",
            };
            return Err(Error::invalid_input(format!("params.{}: {what}", input.name)));
        }
        let fallback = || input.default.clone().or((input.kind == Kind::Seed).then(|| seed.into()));
        let from_client = given.is_some();
        let Some(value) = given.or_else(fallback) else { continue };
        if from_client {
            input.check(&value).map_err(|e| Error::invalid_input(format!("params.{}: {e}", input.name)))?;
        }
        if input.kind == Kind::Image && from_client {
            let file_ref = plain(&value);
            patched.pictures.push(Picture { file_ref, targets: input.targets.clone() });
            continue;
        }
        let value = match input.kind {
            // 5.0 is a whole number in JSON Schema, but not for Python.
            Kind::Integer | Kind::Seed => whole(value),
            _ => value,
        };
        if input.kind == Kind::Seed && patched.seed.is_none() {
            patched.seed = value.as_u64();
        }
        for target in &input.targets {
            patched.workflow.set(target, value.clone());
        }
    }
    Ok(patched)
}

fn whole(value: Value) -> Value {
    match value.as_f64() {
        Some(x) if value.is_f64() => json!(x as i64),
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workflow() -> Workflow {
        let nodes = json!({
            "1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
            "2": {"class_type": "ImageScale", "inputs": {"image": ["1", 0], "width": 64, "height": 64}},
            "3": {"class_type": "KSampler", "inputs": {"seed": 5}},
            "4": {"class_type": "KSampler", "inputs": {"noise_seed": 5}},
        });
        Workflow::parse(nodes.to_string().as_bytes()).unwrap()
    }

    fn patch_with(toml: &str, params: Value, image: Option<&str>) -> Result<Patched, String> {
        let workflow = workflow();
        let sidecar = match toml {
            "" => Sidecar::derive(&workflow),
            toml => Sidecar::parse(toml.as_bytes(), true, &workflow).unwrap(),
        };
        let Value::Object(params) = params else { unreachable!("an object was written") };
        patch(&workflow, &sidecar, &params, image, (1 << 40) + 7).map_err(|error| error.message)
    }

    #[test]
    fn values_go_where_they_belong() {
        let given = json!({"width": 32.0, "seed": -1, "image": null});
        let patched = patch_with("", given, Some("fileRef:x")).unwrap();
        assert_eq!(patched.workflow.input("2", "width"), Some(&json!(32)));
        assert_eq!(patched.workflow.input("2", "height"), Some(&json!(64)));
        assert_eq!((patched.seed, patched.workflow.input("3", "seed")), (Some(7), Some(&json!(7))));
        assert_eq!(patched.workflow.input("4", "noise_seed"), Some(&json!(7)));
        assert_eq!(patched.pictures.len(), 1);
        assert_eq!(
            (patched.pictures[0].file_ref.as_str(), patched.pictures[0].targets[0].node.as_str()),
            ("fileRef:x", "1")
        );
        let big = patch_with("", json!({"seed": u64::MAX}), None).unwrap();
        assert_eq!(big.workflow.input("3", "seed"), Some(&json!(u64::MAX)));
    }

    #[test]
    fn defaults_of_the_sidecar_win_over_the_workflow() {
        let sidecar = "inputs.size = {to = ['2.width', '2.height'], default = 16}\n\
             inputs.seed = {to = '3.seed', default = 42}";
        let patched = patch_with(sidecar, json!({}), None).unwrap();
        assert_eq!(patched.workflow.input("2", "height"), Some(&json!(16)));
        assert_eq!(patched.seed, Some(42));
        assert!(patch_with(sidecar, json!({}), Some("x")).unwrap_err().contains("takes no picture"));
    }

    #[test]
    fn bad_parameters_are_named() {
        let error = |params: Value| patch_with("", params, None).unwrap_err();
        let patched = patch_with("", json!({"promt": "a", "width": "32"}), None).unwrap();
        assert_eq!(
            patched.warnings,
            [
                "params.promt: ignored: the workflow has no such input; it has: image, height, width, seed, seed_4"
            ]
        );
        assert_eq!(patched.workflow.input("2", "width"), Some(&json!(32)), "numbers may be texts");
        assert_eq!(error(json!({"width": "a"})), "params.width: must be a whole number");
        assert_eq!(error(json!({"seed": 1.5})), "params.seed: must be a whole number from 0 on");
        let sidecar = "inputs.image = {to = '1.image', required = true}\ninputs.w = {to = '2.width', minimum = 8, maximum = 64}";
        let error = |params: Value| patch_with(sidecar, params, None).unwrap_err();
        assert!(error(json!({})).starts_with("params.image: is required"));
        assert_eq!(error(json!({"image": "x", "w": 4})), "params.w: 4 is out of range: accepted is 8 to 64");
        let sidecar = "inputs.w = {to = '2.width', choices = [8, 16]}";
        assert_eq!(
            patch_with(sidecar, json!({"w": 9}), None).unwrap_err(),
            "params.w: '9' is not accepted; accepted are: 8, 16"
        );
    }

    #[test]
    fn the_schema_tells_types_defaults_and_ranges() {
        let workflow = workflow();
        let info =
            json!({"ImageScale": {"input": {"required": {"width": ["INT", {"min": 0, "max": 16384}]}}}});
        let infos = Infos::of([("ImageScale", &info)]);
        let schema = schema(&workflow, &Sidecar::derive(&workflow), Some(&infos));
        assert_eq!(schema["properties"]["width"]["maximum"], 16384.0);
        assert_eq!(schema["properties"]["width"]["default"], 64);
        assert_eq!(schema["properties"]["seed"].get("default"), None);
        assert_eq!(schema["properties"]["image"]["format"], "fileRef");
    }
}
