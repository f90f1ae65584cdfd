//! What a client may ask for, and what it comes to.

use std::collections::BTreeMap;

use reverie_plugin_sdk::{
    Error,
    diffusion::{Adapter, Order, Previews},
    images::Format,
    random,
};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::{
    names::{self, Named},
    schema,
};

const DEFAULT_QUALITY: u8 = 92;
const DEFAULT_MAGNITUDE: u32 = 2;
/// diffusers' for image to image.
const DEFAULT_STRENGTH: f64 = 0.8;
/// The range of the seeds that are drawn: all clients know them.
const SEEDS: u64 = 1 << 31;
/// The level of a style at which its LoRA has the strength that the operator gave it.
const FULL_LEVEL: f64 = 8.0;

/// The plugin's table in the configuration file.
#[derive(Debug, Deserialize)]
pub struct Config {
    #[serde(default = "default_superres_model")]
    pub superres_model: String,
    #[serde(default)]
    styles: BTreeMap<String, Style>,
}

/// A style that `style_lora` names.
#[derive(Debug, Deserialize)]
struct Style {
    lora: String,
    /// At level 8.
    #[serde(default = "one")]
    strength: f64,
}

fn default_superres_model() -> String {
    "realesr-animevideov3".to_owned()
}

fn one() -> f64 {
    1.0
}

/// A format as `out_format` names it.
pub fn name(format: Format) -> &'static str {
    match format {
        Format::Png => "png",
        Format::Jpeg => "jpeg",
        Format::Webp => "webp",
    }
}

/// What the client asked for. The host has checked it against the schema. Whole numbers are read as floats, because a
/// JSON Schema counts `2.0` among the integers.
#[derive(Debug, Deserialize)]
pub struct Request {
    pub prompt: String,
    pub negative_prompt: Option<String>,
    prompt_2: Option<String>,
    negative_prompt_2: Option<String>,
    size: Option<String>,
    num_inference_steps: Option<f64>,
    guidance_scale: Option<f64>,
    guidance_rescale: Option<f64>,
    eta: Option<f64>,
    seed: Option<f64>,
    scheduler: Option<String>,
    schedule_type: Option<String>,
    pub clip_skip: Option<f64>,
    mode: Option<String>,
    pub image: Option<String>,
    pub mask: Option<String>,
    strength: Option<f64>,
    style_lora: Option<StyleLora>,
    loras: Option<Vec<NamedLora>>,
    superres: Option<bool>,
    superres_magnitude: Option<f64>,
    superres_format: Option<String>,
    superres_quality: Option<f64>,
    out_format: Option<String>,
    quality: Option<f64>,
    previews: Option<Value>,
    controlnets: Option<Vec<Value>>,
    strict: Option<bool>,
    /// What the client gave that is not known.
    #[serde(skip)]
    pub warnings: Vec<String>,
    /// The names that the client gave parameters, by their own.
    #[serde(skip)]
    spelt: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
struct StyleLora {
    style: Option<String>,
    /// Null, unlike nothing, is off.
    #[serde(default = "full_level", deserialize_with = "level")]
    level: f64,
}

fn full_level() -> f64 {
    FULL_LEVEL
}

fn level<'de, D: Deserializer<'de>>(level: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(level)?.unwrap_or(0.0))
}

#[derive(Debug, Deserialize)]
struct NamedLora {
    name: String,
    #[serde(default = "one")]
    strength: f64,
}

impl Request {
    /// Parameters count inside `params` and beside it; beside it they win.
    ///
    /// # Errors
    /// `invalid-input` for two names of one parameter side by side with different values.
    pub fn read(mut fields: Map<String, Value>) -> Result<Self, Error> {
        let inside = match fields.remove("params") {
            Some(Value::Object(params)) => params,
            _ => Map::new(),
        };
        let warnings = names::unknown(fields.keys().chain(inside.keys()), &schema::parameters());
        let mut named = Named::read(fields)?;
        named.or(Named::read(inside)?);
        let request: Self = serde_json::from_value(Value::Object(named.values))
            .map_err(|e| Error::invalid_input(format!("generate: {e}")))?;
        if request.controlnets.as_ref().is_some_and(|controlnets| !controlnets.is_empty()) {
            return Err(Error::invalid_input(
                "controlnets: control networks are not supported yet; accepted are null and an empty list",
            ));
        }
        if request.strict()
            && let Some(first) = warnings.first()
        {
            return Err(Error::invalid_input(format!(
                "{first}: strict accepts no other parameters than its own"
            )));
        }
        Ok(Self { warnings, spelt: named.spelt, ..request })
    }

    /// Whether what would be warned of is an error.
    fn strict(&self) -> bool {
        self.strict.unwrap_or(false)
    }

    /// An error of the host's that names a parameter, with the name that the client gave it.
    pub fn as_spelt(&self, mut error: Error) -> Error {
        if let Some((own, rest)) = error.message.split_once(':')
            && let Some(spelt) = self.spelt.get(own)
        {
            error.message = format!("{spelt}:{rest}");
        }
        error
    }

    pub fn superres(&self) -> bool {
        self.superres.unwrap_or(false)
    }

    pub fn superres_magnitude(&self) -> u32 {
        self.superres_magnitude.map_or(DEFAULT_MAGNITUDE, |passes| passes as u32)
    }

    /// The format and quality of the picture that is stored.
    pub fn encoding(&self) -> (Format, u8) {
        let enlarged = self.superres();
        let format = self.superres_format.as_deref().filter(|_| enlarged).or(self.out_format.as_deref());
        let quality = self.superres_quality.filter(|_| enlarged).or(self.quality);
        let format = match format {
            Some("jpeg" | "jpg") => Format::Jpeg,
            Some("webp") => Format::Webp,
            _ => Format::Png,
        };
        (format, quality.map_or(DEFAULT_QUALITY, |quality| quality as u8))
    }

    /// What the host is asked for. A seed is drawn where none was given.
    pub fn order(&self, config: &Config, progress_to: f32) -> Result<Order, Error> {
        let (width, height) = self.size()?;
        let default_strength = if self.mask.is_some() { 1.0 } else { DEFAULT_STRENGTH };
        Ok(Order {
            mode: self.mode.clone().unwrap_or_default(),
            prompt: self.prompt.clone(),
            negative_prompt: self.negative_prompt.clone(),
            prompt_second: self.prompt_2.clone(),
            negative_prompt_second: self.negative_prompt_2.clone(),
            width,
            height,
            num_inference_steps: self.num_inference_steps.map(|steps| steps as u32),
            guidance_scale: self.guidance_scale,
            guidance_rescale: self.guidance_rescale.unwrap_or(0.0),
            eta: self.eta.unwrap_or(0.0),
            seed: self.seed.map_or_else(|| random::get_u64() % SEEDS, |seed| seed as u64),
            blends: Vec::new(),
            scheduler: self.scheduler.clone(),
            schedule_type: self.schedule_type.clone(),
            clip_skip: self.clip_skip.map(|layers| layers as u32),
            strength: self.strength.unwrap_or(default_strength),
            loras: self.loras(config)?,
            strict: self.strict(),
            previews: match &self.previews {
                Some(Value::Bool(true)) => Previews::Text,
                Some(Value::String(_)) => Previews::Binary,
                _ => Previews::None,
            },
            progress_from: 0.0,
            progress_to,
        })
    }

    /// Width and height; 0 for the mode's own.
    fn size(&self) -> Result<(u32, u32), Error> {
        let Some(size) = &self.size else { return Ok((0, 0)) };
        let sides = size.split_once('x').and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
        sides.filter(|&(w, h)| w > 0 && h > 0).ok_or_else(|| {
            Error::invalid_input(format!("size: '{size}' is no size in pixels, such as 512x512"))
        })
    }

    fn loras(&self, config: &Config) -> Result<Vec<Adapter>, Error> {
        let named = self.loras.iter().flatten();
        let mut loras: Vec<Adapter> =
            named.map(|lora| Adapter { name: lora.name.clone(), strength: lora.strength }).collect();
        let style = self.style_lora.as_ref().filter(|lora| lora.level > 0.0);
        if let Some((name, level)) = style.and_then(|lora| Some((lora.style.as_ref()?, lora.level))) {
            let style = config.styles.get(name).ok_or_else(|| {
                let known: Vec<_> = config.styles.keys().map(String::as_str).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                Error::invalid_input(format!("style_lora: there is no style '{name}'; there are: {known}"))
            })?;
            loras.push(Adapter { name: style.lora.clone(), strength: style.strength * level / FULL_LEVEL });
        }
        Ok(loras)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn request(fields: Value) -> Request {
        let Value::Object(fields) = fields else { unreachable!("an object was written") };
        Request::read(fields).unwrap()
    }

    #[test]
    fn parameters_stand_inside_params_or_beside() {
        let read = request(
            json!({"steps": 7, "params": {"prompt": "a cat", "steps": null, "cfg": 2, "size": "64x32"}}),
        );
        assert_eq!(
            (read.prompt.as_str(), read.num_inference_steps, read.guidance_scale),
            ("a cat", Some(7.0), Some(2.0))
        );
        assert!(matches!(read.size(), Ok((64, 32))));
        let read = request(
            json!({"prompt": "", "steps": 3, "params": {"num_inference_steps": 7, "cfg": 2}, "guidance_scale": 1}),
        );
        assert_eq!((read.num_inference_steps, read.guidance_scale), (Some(3.0), Some(1.0)));
        assert!(request(json!({"prompt": "", "size": "0x8"})).size().is_err());
    }

    #[test]
    fn a_style_is_a_lora_with_a_level() {
        let config: Config =
            serde_json::from_value(json!({"styles": {"ink": {"lora": "ink-v2", "strength": 0.8}}})).unwrap();
        let at = |level: i32| request(json!({"prompt": "", "style_lora": {"style": "ink", "level": level}}));
        let loras = at(4).loras(&config).unwrap();
        assert_eq!((loras[0].name.as_str(), loras[0].strength), ("ink-v2", 0.4));
        let styled = |style: Value| request(json!({"prompt": "", "style_lora": style})).loras(&config);
        assert_eq!(styled(json!({"style": "ink"})).unwrap()[0].strength, 0.8);
        for off in [
            json!(null),
            json!({}),
            json!({"style": null, "level": 4}),
            json!({"style": "ink", "level": 0}),
            json!({"style": "ink", "level": null}),
            json!({"style": "oil", "level": 0}),
            json!({"style": null, "level": null}),
        ] {
            assert!(styled(off.clone()).unwrap().is_empty(), "{off}");
        }
        let unknown = styled(json!({"style": "oil", "level": 1}));
        assert!(unknown.unwrap_err().message.contains("there are: ink"));
    }

    fn refused(fields: Value) -> String {
        let Value::Object(fields) = fields else { unreachable!("an object was written") };
        Request::read(fields).unwrap_err().message
    }

    #[test]
    fn later_clients_have_names_of_their_own() {
        let read =
            request(json!({"params": {"prompt": "", "init_image_ref": "fileRef:1", "denoise_strength": 0,
            "scheduler_id": "euler_a", "seed": 4_294_967_295_u32, "controlnets": []}, "controlnets": null}));
        assert_eq!((read.image.as_deref(), read.strength), (Some("fileRef:1"), Some(0.0)));
        assert_eq!((read.scheduler.as_deref(), read.seed), (Some("euler_a"), Some(4_294_967_295.0)));
        assert!(read.warnings.is_empty(), "{:?}", read.warnings);
        let error = read.as_spelt(Error::invalid_input("scheduler: there is no such"));
        assert_eq!(error.message, "scheduler_id: there is no such");
        let error = read.as_spelt(Error::invalid_input("mode: there is no such"));
        assert_eq!(error.message, "mode: there is no such");

        // The same twice is no contradiction.
        assert_eq!(request(json!({"prompt": "", "cfg": 2, "guidance_scale": 2})).guidance_scale, Some(2.0));
        for twice in [
            json!({"prompt": "", "sampler": "euler", "scheduler": "ddim"}),
            json!({"prompt": "", "sampler": "euler", "scheduler_id": "ddim"}),
            json!({"prompt": "", "params": {"sampler": "euler", "scheduler_id": "ddim"}}),
        ] {
            let told = refused(twice);
            assert!(told.contains("sampler and ") || told.contains(" and sampler"), "{told}");
        }
        let controlled = json!({"prompt": "", "controlnets": [{"control_type": "canny"}]});
        assert!(refused(controlled).starts_with("controlnets: "));
    }

    #[test]
    fn what_is_not_known_is_told() {
        let read = request(json!({"cgf": 2, "params": {"prompt": "", "negativePrompt": "x", "zebra": null}}));
        let told = read.warnings.join("\n");
        for part in ["'cgf'", "'cfg'", "'negativePrompt'", "'negative_prompt'", "'zebra'"] {
            assert!(told.contains(part), "{told}");
        }
        assert_eq!(read.warnings.len(), 3);
    }

    #[test]
    fn the_schema_has_every_name_in_both_places() {
        let schema: Value = serde_json::from_str(&schema::job()).unwrap();
        let (beside, inside) = (&schema["properties"], &schema["properties"]["params"]["properties"]);
        for name in schema::parameters().keys().filter(|name| *name != "params") {
            assert!(beside[name].is_object() && beside[name] == inside[name], "{name}");
            assert!(beside[name]["description"].is_string(), "{name}");
        }
        assert_eq!(inside["denoise_strength"]["maximum"], 1.0);
        assert_eq!(beside["seed"]["maximum"], 4_294_967_295_u32);
    }
}
