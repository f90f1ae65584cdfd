//! From a request to what is done: defaults, and the rules that a JSON Schema cannot express.

use reverie_plugin_sdk::{
    Error,
    images::Format,
    upscale::{Network, Scale},
};
use serde::Deserialize;
use serde_json::{Map, Number, Value};

const DEFAULT_MODEL: &str = "realesr-animevideov3";
const DEFAULT_MAGNITUDE: u32 = 2;
const DEFAULT_QUALITY: u8 = 92;

/// The plugin's table in the configuration file.
#[derive(Debug, Deserialize)]
pub struct Config {
    #[serde(default = "default_model")]
    pub model: String,
}

fn default_model() -> String {
    DEFAULT_MODEL.to_owned()
}

/// What the client asked for. The host has checked it against the schema. Whole numbers are read as floats, because a
/// JSON Schema counts `2.0` among the integers.
#[derive(Debug, Deserialize)]
pub struct Request {
    #[serde(rename = "fileRef")]
    pub file_ref: String,
    magnitude: Option<f64>,
    scale: Option<f64>,
    model: Option<String>,
    out_format: Option<String>,
    quality: Option<f64>,
    /// What was given and does nothing.
    #[serde(skip)]
    pub warnings: Vec<String>,
}

/// Their names.
const FIELDS: &[&str] = &["fileRef", "magnitude", "scale", "model", "out_format", "quality"];

impl Request {
    /// Options count beside `fileRef` and inside `params`; beside it they win.
    pub fn read(mut fields: Map<String, Value>) -> Result<Self, Error> {
        if let Some(Value::Object(params)) = fields.remove("params") {
            for (name, value) in params {
                fields.entry(name).or_insert(value);
            }
        }
        let known = FIELDS.join(", ");
        let unknown = fields.keys().filter(|name| !FIELDS.contains(&name.as_str()));
        let warnings = unknown
            .map(|name| format!("{name}: ignored: there is no such parameter; known are {known}"))
            .collect();
        let request: Self = serde_json::from_value(Value::Object(fields))
            .map_err(|e| Error::invalid_input(format!("sr: {e}")))?;
        Ok(Self { warnings, ..request })
    }
}

/// What to do.
#[derive(Debug)]
pub struct Plan {
    pub model: String,
    pub scale: Scale,
    /// How many times longer each side becomes.
    pub factor: Number,
    /// How often the network runs, and how many times longer each side becomes each time.
    pub passes: u32,
    pub scale_per_pass: Number,
    pub format: Format,
    pub quality: u8,
}

impl Plan {
    pub fn new(request: &Request, config: Config, networks: &[Network]) -> Result<Self, Error> {
        let configured = request.model.is_none();
        let model = request.model.clone().unwrap_or(config.model);
        let Some(network) = networks.iter().find(|n| n.name == model) else {
            let names: Vec<_> = networks.iter().map(|n| n.name.as_str()).collect();
            let message = format!("model '{model}' does not exist; there are: {}", names.join(", "));
            return Err(match configured {
                true => Error::internal(format!("the plugin's config table: {message}")),
                false => Error::invalid_input(message),
            });
        };
        let (scale, factor) = match (request.scale, request.magnitude) {
            (Some(_), Some(_)) => {
                return Err(Error::invalid_input(
                    "give either 'magnitude' (a number of passes) or 'scale' (the factor of one pass), not both",
                ));
            }
            (Some(scale), None) => one_pass(scale, network)?,
            (None, magnitude) => passes(magnitude.map_or(DEFAULT_MAGNITUDE, |m| m as u32), network),
        };
        let (passes, scale_per_pass) = match scale {
            Scale::Passes(passes) => (passes, smallest(network).into()),
            Scale::Factor(_) => (1, factor.clone()),
        };
        let format = match request.out_format.as_deref().map(str::to_ascii_lowercase).as_deref() {
            None | Some("png") => Format::Png,
            Some("jpeg" | "jpg") => Format::Jpeg,
            Some("webp") => Format::Webp,
            Some(other) => {
                return Err(Error::invalid_input(format!("out_format '{other}' is none of png, jpeg, webp")));
            }
        };
        let quality = request.quality.map_or(DEFAULT_QUALITY, |q| q as u8);
        Ok(Self { model, scale, factor, passes, scale_per_pass, format, quality })
    }

    /// The number of passes, if it was they that were chosen.
    pub fn magnitude(&self) -> Option<u32> {
        match self.scale {
            Scale::Passes(passes) => Some(passes),
            Scale::Factor(_) => None,
        }
    }

    /// As `out_format` names it.
    pub fn format_name(&self) -> &'static str {
        match self.format {
            Format::Png => "png",
            Format::Jpeg => "jpeg",
            Format::Webp => "webp",
        }
    }
}

fn one_pass(scale: f64, network: &Network) -> Result<(Scale, Number), Error> {
    if !network.scales.is_empty() && !network.scales.iter().any(|&s| f64::from(s) == scale) {
        let accepted: Vec<_> = network.scales.iter().map(u32::to_string).collect();
        return Err(Error::invalid_input(format!(
            "scale {scale} is none that model '{}' has in one pass: {}",
            network.name,
            accepted.join(", ")
        )));
    }
    let number =
        if scale.fract() == 0.0 { Some(Number::from(scale as u32)) } else { Number::from_f64(scale) };
    let number = number.ok_or_else(|| Error::invalid_input("scale must be a finite number"))?;
    Ok((Scale::Factor(scale as f32), number))
}

fn passes(magnitude: u32, network: &Network) -> (Scale, Number) {
    (Scale::Passes(magnitude), Number::from(smallest(network).pow(magnitude)))
}

/// The factor of a pass.
fn smallest(network: &Network) -> u32 {
    network.scales.iter().min().copied().unwrap_or(2)
}

#[cfg(test)]
mod tests {
    use reverie_plugin_sdk::ErrorKind;
    use serde_json::json;

    use super::*;

    fn networks() -> Vec<Network> {
        let network = |name: &str, kind: &str, scales: &[u32]| Network {
            name: name.to_owned(),
            kind: kind.to_owned(),
            scales: scales.to_vec(),
            architecture: String::new(),
        };
        vec![
            network(DEFAULT_MODEL, "network", &[4, 2, 3]),
            network("x4", "network", &[4]),
            network("lanczos3", "resampler", &[]),
        ]
    }

    fn plan(fields: Value) -> Result<Plan, Error> {
        let Value::Object(fields) = fields else { panic!("not an object") };
        Plan::new(&Request::read(fields)?, Config { model: default_model() }, &networks())
    }

    fn refused(fields: Value) -> String {
        let error = plan(fields).expect_err("accepted");
        assert_eq!(error.kind, ErrorKind::InvalidInput);
        error.message
    }

    #[test]
    fn a_bare_file_ref_gets_the_defaults() {
        let plan = plan(json!({"fileRef": "a"})).unwrap();
        assert_eq!((plan.model.as_str(), plan.magnitude(), plan.quality), (DEFAULT_MODEL, Some(2), 92));
        assert_eq!((plan.factor.to_string().as_str(), plan.format_name()), ("4", "png"));
    }

    #[test]
    fn options_count_in_params_and_win_beside_the_file_ref() {
        let fields = json!({"fileRef": "a", "quality": 7, "params": {"quality": 9, "out_format": "jpg", "magnitude": 1}});
        let plan = plan(fields).unwrap();
        assert_eq!((plan.quality, plan.format_name(), plan.magnitude()), (7, "jpeg", Some(1)));
    }

    #[test]
    fn empty_params_and_unknown_fields_are_tolerated() {
        assert!(plan(json!({"fileRef": "a", "params": null, "extra": [1]})).is_ok());
        assert!(plan(json!({"fileRef": "a", "params": {"prompt": "a cat"}})).is_ok());
    }

    #[test]
    fn passes_multiply_the_smallest_factor() {
        let of = |model: &str, magnitude: f64| {
            plan(json!({"fileRef": "a", "model": model, "magnitude": magnitude})).unwrap().factor.to_string()
        };
        assert_eq!(of(DEFAULT_MODEL, 3.0), "8");
        assert_eq!(of("x4", 2.0), "16");
        assert_eq!(of("lanczos3", 1.0), "2");
    }

    #[test]
    fn a_scale_is_one_pass() {
        let whole = plan(json!({"fileRef": "a", "scale": 3})).unwrap();
        assert_eq!((whole.magnitude(), whole.factor.to_string().as_str()), (None, "3"));
        let odd = plan(json!({"fileRef": "a", "scale": 2.5, "model": "lanczos3"})).unwrap();
        assert_eq!(odd.factor.to_string(), "2.5");
    }

    #[test]
    fn refusals_say_what_is_accepted() {
        assert!(
            refused(json!({"fileRef": "a", "model": "x9"})).contains("realesr-animevideov3, x4, lanczos3")
        );
        assert!(refused(json!({"fileRef": "a", "scale": 2.5})).ends_with("in one pass: 4, 2, 3"));
        assert!(
            refused(json!({"fileRef": "a", "scale": 2, "params": {"magnitude": 1}})).contains("not both")
        );
        assert!(refused(json!({"magnitude": 1})).contains("fileRef"));
    }

    #[test]
    fn a_bad_default_is_the_operators_fault() {
        let request = Request::read(Map::from_iter([("fileRef".to_owned(), json!("a"))])).unwrap();
        let error =
            Plan::new(&request, Config { model: "gone".to_owned() }, &networks()).expect_err("accepted");
        assert_eq!(error.kind, ErrorKind::Internal);
        assert!(error.message.contains("'gone'"));
    }

    #[test]
    fn the_schema_is_json() {
        let schema: Value = serde_json::from_str(include_str!("schema.json")).unwrap();
        assert_eq!(schema["required"], json!(["fileRef"]));
    }
}
