use crate::{Entry, Manifest};

/// A builder: start with [`Manifest::new`] and add what the plugin takes.
impl Manifest {
    /// `name` is the key of the plugin's table in the configuration file: lower-case letters, digits and `-`.
    /// `version` is a semantic version; `env!("CARGO_PKG_VERSION")` is a good one. `description` is one line.
    pub fn new(name: &str, version: &str, description: &str) -> Self {
        Self {
            name: name.to_owned(),
            version: version.to_owned(),
            description: description.to_owned(),
            messages: Vec::new(),
            jobs: Vec::new(),
            background: Vec::new(),
            capabilities: Vec::new(),
        }
    }

    /// Takes a message type, `domain:action`. `schema` is a JSON Schema (2020-12) of the whole message, which the host
    /// checks before the handler is called; an empty one accepts any object.
    #[must_use]
    pub fn message(mut self, name: &str, description: &str, schema: &str) -> Self {
        self.messages.push(entry(name, description, schema));
        self
    }

    /// Takes a job type. `schema` is a JSON Schema (2020-12) of the parameters: the `job:submit` message without `type`,
    /// `id`, `jobType` and `priority`. An empty one accepts any object.
    #[must_use]
    pub fn job(mut self, name: &str, description: &str, schema: &str) -> Self {
        self.jobs.push(entry(name, description, schema));
        self
    }

    /// Takes a job type whose jobs run in the background, while no others do; else as [`Manifest::job`]. They should look at
    /// [`Job::interruption`] and store their state as they go.
    #[must_use]
    pub fn background_job(mut self, name: &str, description: &str, schema: &str) -> Self {
        self.background.push(name.to_owned());
        self.job(name, description, schema)
    }

    /// Asks for capabilities: any of `uploads`, `storage`, `images`, `upscale`, `diffusion`, `scoring`, `jobs`, `hub`,
    /// `http`, `websocket` and `files`. The operator must grant all of them.
    #[must_use]
    pub fn capabilities(mut self, capabilities: &[&str]) -> Self {
        self.capabilities.extend(capabilities.iter().map(|&c| c.to_owned()));
        self
    }
}

fn entry(name: &str, description: &str, schema: &str) -> Entry {
    Entry { name: name.to_owned(), description: description.to_owned(), schema: schema.to_owned() }
}
