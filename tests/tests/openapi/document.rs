//! The document, and whether answers are as it says.

use reverie_tests::{Answer, Server};
use serde_json::{Map, Value, json};

pub struct Document(pub Value);

impl Document {
    pub fn of(server: &Server) -> Self {
        let answer = server.get("/openapi.json");
        assert_eq!(answer.status, 200, "{}", answer.text());
        Self(answer.json())
    }

    fn paths(&self) -> &Map<String, Value> {
        self.0["paths"].as_object().expect("an object")
    }

    /// Every method of every path.
    pub fn operations(&self) -> impl Iterator<Item = (String, String, &Value)> {
        let methods = |(path, methods): (&String, &'_ Value)| {
            (path.clone(), methods.as_object().expect("an object").clone())
        };
        let all: Vec<(String, Map<String, Value>)> = self.paths().iter().map(methods).collect();
        all.into_iter()
            .flat_map(|(path, methods)| {
                let names: Vec<String> = methods.keys().cloned().collect();
                names.into_iter().map(move |method| (method, path.clone()))
            })
            .map(|(method, path)| {
                let operation = &self.0["paths"][&path][&method];
                (method, path, operation)
            })
    }

    /// The path of the document that a request's is one of, the most literal one.
    pub fn path_of(&self, requested: &str) -> Option<&str> {
        let requested = requested.split('?').next().unwrap_or_default();
        let fits = |path: &&String| {
            let (mut a, mut b) = (path.split('/'), requested.split('/'));
            loop {
                match (a.next(), b.next()) {
                    (None, None) => return true,
                    (Some(a), Some(b)) if a == b || (a.starts_with('{') && !b.is_empty()) => {}
                    _ => return false,
                }
            }
        };
        let found = self.paths().keys().filter(fits);
        found.min_by_key(|path| path.matches('{').count()).map(String::as_str)
    }

    /// What stands behind a `$ref`.
    pub fn resolved<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(reference) => {
                let found = self.0.pointer(reference.trim_start_matches('#'));
                found.unwrap_or_else(|| panic!("{reference} leads nowhere"))
            }
            None => value,
        }
    }

    /// What is wrong with a value by a schema of the document.
    pub fn errors(&self, schema: &Value, value: &Value) -> Vec<String> {
        let schema = json!({"allOf": [schema], "components": self.0["components"]});
        let validator = jsonschema::validator_for(&schema).expect("a JSON Schema");
        validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect()
    }

    /// Holds an answer against what the document says of it. Returns its method and path there.
    pub fn check(&self, method: &str, requested: &str, answer: &Answer) -> (String, String) {
        let method = method.to_lowercase();
        let path = self.path_of(requested).unwrap_or_else(|| panic!("{requested} is not described"));
        let operation = &self.0["paths"][path][&method];
        let shown = || format!("{method} {requested}: {}: {:.500}", answer.status, answer.text());
        let response = &operation["responses"][answer.status.to_string()];
        assert!(response.is_object(), "a status that is not described: {}", shown());
        let Some(content) = self.resolved(response)["content"].as_object() else {
            assert!(answer.body.is_empty(), "a body that is not described: {}", shown());
            return (method, path.to_owned());
        };
        let given = answer.header("content-type").unwrap_or_default().split(';').next().unwrap_or_default();
        let described = content.get(given).or_else(|| content.get("*/*"));
        let described = described.unwrap_or_else(|| panic!("'{given}' is not described: {}", shown()));
        if given == "application/json" && described["schema"] != Value::Null {
            let errors = self.errors(&described["schema"], &answer.json());
            assert!(errors.is_empty(), "{}\n{}", shown(), errors.join("\n"));
        }
        for (name, _) in self.resolved(response)["headers"].as_object().into_iter().flatten() {
            // Those of an enlargement are told of enlarged pictures alone.
            let told = answer.header(&name.to_lowercase()).is_some();
            assert!(told || name.starts_with("X-SR-"), "without the header {name}: {}", shown());
        }
        (method, path.to_owned())
    }
}
