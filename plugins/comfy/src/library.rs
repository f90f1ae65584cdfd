//! The operator's folder of workflows: `NAME.json` in the API format, and beside it `NAME.inputs.toml` or
//! `NAME.inputs.json`. It is read anew for each call, so what is changed there takes effect at once.

use reverie_plugin_sdk::{Error, files};

use crate::{sidecar::Sidecar, workflow::Workflow};

/// Why a file is no workflow.
#[derive(Debug, PartialEq)]
pub struct Refused {
    pub file: String,
    pub error: String,
}

/// A workflow by its name.
#[derive(Debug)]
pub struct Entry {
    pub id: String,
    pub workflow: Workflow,
    pub sidecar: Sidecar,
}

/// A folder, for tests to have one of their own.
pub trait Folder {
    /// # Errors
    /// The folder can't be read.
    fn names(&self) -> Result<Vec<String>, Error>;
    /// # Errors
    /// The file can't be read.
    fn read(&self, name: &str) -> Result<Vec<u8>, Error>;
}

/// The one that the operator granted.
pub struct Granted;

impl Folder for Granted {
    fn names(&self) -> Result<Vec<String>, Error> {
        Ok(files::list()?.into_iter().map(|entry| entry.name).collect())
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, Error> {
        files::read(name)
    }
}

/// The name of the workflow in a file, if it holds one.
fn id(file: &str) -> Option<&str> {
    file.strip_suffix(".json").filter(|id| !id.is_empty() && !id.ends_with(".inputs"))
}

/// All workflows by name, and what is refused.
///
/// # Errors
/// The folder can't be read.
pub fn all(folder: &impl Folder) -> Result<(Vec<Entry>, Vec<Refused>), Error> {
    let names = folder.names()?;
    let (mut entries, mut refused) = (Vec::new(), Vec::new());
    for id in names.iter().filter_map(|file| id(file)) {
        match read(folder, &names, id) {
            Ok(entry) => entries.push(entry),
            Err(error) => refused.push(error),
        }
    }
    // A sidecar under a wrong name would go unseen.
    for file in &names {
        let of = file.strip_suffix(".inputs.toml").or_else(|| file.strip_suffix(".inputs.json"));
        if let Some(of) = of
            && !names.contains(&format!("{of}.json"))
        {
            refused.push(Refused {
                file: file.clone(),
                error: format!("there is no workflow {of}.json beside it"),
            });
        }
    }
    Ok((entries, refused))
}

/// The workflow of a name.
///
/// # Errors
/// `not-found`, with the names that there are; `internal` for one that is refused.
pub fn find(folder: &impl Folder, wanted: &str) -> Result<Entry, Error> {
    let names = folder.names()?;
    if !names.contains(&format!("{wanted}.json")) || id(&format!("{wanted}.json")).is_none() {
        let known: Vec<&str> = names.iter().filter_map(|file| id(file)).collect();
        let known = if known.is_empty() {
            "the folder has none".into()
        } else {
            format!("there are: {}", known.join(", "))
        };
        return Err(Error::not_found(format!("workflowId: no workflow '{wanted}'; {known}")));
    }
    read(folder, &names, wanted)
        .map_err(|refused| Error::internal(format!("{}: {}", refused.file, refused.error)))
}

fn read(folder: &impl Folder, names: &[String], id: &str) -> Result<Entry, Refused> {
    let file = format!("{id}.json");
    let content = |file: &str| {
        folder.read(file).map_err(|error| Refused { file: file.to_owned(), error: error.message })
    };
    let workflow =
        Workflow::parse(&content(&file)?).map_err(|error| Refused { file: file.clone(), error })?;
    let (toml, json) = (format!("{id}.inputs.toml"), format!("{id}.inputs.json"));
    let sidecar = match (names.contains(&toml), names.contains(&json)) {
        (true, true) => {
            return Err(Refused {
                file: toml,
                error: format!("there is {json} too: accepted is one of them"),
            });
        }
        (false, false) => Sidecar::derive(&workflow),
        (is_toml, _) => {
            let file = if is_toml { toml } else { json };
            let content = content(&file)?;
            Sidecar::parse(&content, is_toml, &workflow).map_err(|error| Refused { file, error })?
        }
    };
    Ok(Entry { id: id.to_owned(), workflow, sidecar })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    struct Memory(BTreeMap<&'static str, &'static str>);

    impl Folder for Memory {
        fn names(&self) -> Result<Vec<String>, Error> {
            Ok(self.0.keys().map(|name| (*name).to_owned()).collect())
        }

        fn read(&self, name: &str) -> Result<Vec<u8>, Error> {
            Ok(self.0[name].as_bytes().to_vec())
        }
    }

    #[test]
    fn files_become_workflows_or_are_refused_by_name() {
        let graph = r#"{"1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}}}"#;
        let folder = Memory(BTreeMap::from([
            ("a.json", graph),
            ("b.json", graph),
            ("b.inputs.toml", "inputs.picture = '1.image'"),
            ("c.json", graph),
            ("c.inputs.json", r#"{"inputs": {"x": "2.image"}}"#),
            ("d.inputs.toml", ""),
            ("ui.json", r#"{"nodes": [], "links": []}"#),
            ("readme.md", ""),
        ]));
        let (entries, refused) = all(&folder).unwrap();
        let names: Vec<_> =
            entries.iter().map(|e| (e.id.as_str(), e.sidecar.inputs[0].name.as_str())).collect();
        assert_eq!(names, [("a", "image"), ("b", "picture")]);
        let files: Vec<_> = refused.iter().map(|r| r.file.as_str()).collect();
        assert_eq!(files, ["c.inputs.json", "ui.json", "d.inputs.toml"]);
        assert!(refused[1].error.contains("API"));
        assert_eq!(find(&folder, "b").unwrap().id, "b");
        let missing = find(&folder, "../b").unwrap_err().message;
        assert_eq!(missing, "workflowId: no workflow '../b'; there are: a, b, c, ui");
        assert!(find(&folder, "c.inputs").is_err());
        assert!(find(&folder, "ui").unwrap_err().message.starts_with("ui.json: "));
    }
}
