//! What a mode accepts, where its operator says so.

use reverie_models::schedulers::SchedulerConfig;

use super::Request;
use crate::{
    config::{Mode, parse_size},
    error::Error,
};

/// Checks a request's size and negative prompts against what its mode lists.
///
/// # Errors
/// `InvalidInput` names the field and what is accepted.
pub fn check(name: &str, mode: &Mode, request: &Request) -> Result<(), Error> {
    let size = (request.width, request.height);
    let listed = mode.resolutions.iter().any(|resolution| parse_size(&resolution.size) == Some(size));
    if request.width > 0 && request.height > 0 && !mode.resolutions.is_empty() && !listed {
        let sizes: Vec<&str> = mode.resolutions.iter().map(|resolution| resolution.size.as_str()).collect();
        return Err(Error::invalid(format!(
            "size: {}x{} is none that mode '{name}' accepts: {}",
            size.0,
            size.1,
            sizes.join(", ")
        )));
    }
    if mode.allow_custom_negative_prompt == Some(false) {
        let given = [
            ("negative_prompt", &request.negative_prompt),
            ("negative_prompt_2", &request.negative_prompt_2),
        ];
        for (field, text) in given {
            negative_prompt(name, mode, field, text.as_deref().unwrap_or_default())?;
        }
    }
    Ok(())
}

fn negative_prompt(name: &str, mode: &Mode, field: &str, text: &str) -> Result<(), Error> {
    let templates = &mode.negative_prompt_templates;
    let mut accepted = templates.values().chain(&mode.negative_prompt);
    if text.is_empty() || accepted.any(|accepted| accepted.trim() == text.trim()) {
        return Ok(());
    }
    let mut listed: Vec<String> = templates.iter().map(|(name, text)| format!("'{text}' ({name})")).collect();
    listed.extend(mode.negative_prompt.iter().map(|text| format!("'{text}' (the mode's)")));
    listed.push("an empty one".to_owned());
    Err(Error::invalid(format!(
        "{field}: mode '{name}' accepts no text of one's own, but {}",
        listed.join(", ")
    )))
}

/// What a request takes its steps with; `own` is the model's scheduler.
///
/// # Errors
/// `InvalidInput` for what is not known, what does not go with the model, and what the mode does not list.
pub fn scheduler(
    name: &str,
    mode: &Mode,
    scheduler: Option<&str>,
    schedule_type: Option<&str>,
    own: &SchedulerConfig,
) -> Result<SchedulerConfig, Error> {
    let mut chosen = own.clone();
    if let Some(scheduler) = scheduler.or(mode.default_scheduler()) {
        let named = own.with_name(scheduler).or_else(|error| {
            let spaced = schedule_type.map(|spacing| own.with_name_and_schedule_type(scheduler, spacing));
            spaced.and_then(Result::ok).ok_or(error)
        });
        chosen = named.map_err(|e| Error::invalid(format!("scheduler: {e}")))?;
    }
    if let Some(spacing) = schedule_type {
        let spaced = chosen.with_schedule_type(spacing);
        chosen = spaced.map_err(|e| Error::invalid(format!("schedule_type: {e}")))?;
    }
    chosen.usable().map_err(|e| Error::invalid(format!("scheduler: the model's own can't be used: {e}")))?;
    let allowed = &mode.allowed_schedulers;
    let asked = scheduler.or(schedule_type);
    let listed = |id: &String| own.with_name(id).is_ok_and(|other| other.is_same(&chosen));
    match asked {
        Some(asked) if !allowed.is_empty() && !allowed.iter().any(listed) => {
            let field = if scheduler.is_some() { "scheduler" } else { "schedule_type" };
            let spaced = schedule_type.filter(|_| scheduler.is_some());
            let with = spaced.map(|spacing| format!(" with schedule_type '{spacing}'")).unwrap_or_default();
            let ids = allowed.join(", ");
            Err(Error::invalid(format!(
                "{field}: mode '{name}' accepts the schedulers {ids}, not '{asked}'{with}"
            )))
        }
        _ => Ok(chosen),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(toml: &str) -> Mode {
        toml::from_str(&format!("model = \"x\"\n{toml}")).unwrap()
    }

    #[test]
    fn sizes_and_negative_prompts_are_those_that_are_listed() {
        let mut mode = mode(
            "negative_prompt = \"blurry\"\nnegative_prompt_templates = { photo = \"low quality\" }\nallow_custom_negative_prompt = false",
        );
        mode.resolutions = vec!["512x512", "512x768"]
            .into_iter()
            .map(|size| crate::config::Resolution { size: size.into(), aspect_ratio: String::new() })
            .collect();
        let asked = |width, height, negative: Option<&str>| {
            let negative_prompt = negative.map(str::to_owned);
            check("m", &mode, &Request { width, height, negative_prompt, ..Request::default() })
        };
        for accepted in
            [(0, 0, None), (512, 768, Some("low quality ")), (0, 0, Some("blurry")), (0, 0, Some(""))]
        {
            asked(accepted.0, accepted.1, accepted.2).unwrap();
        }
        let error = asked(768, 512, None).unwrap_err().message;
        assert_eq!(error, "size: 768x512 is none that mode 'm' accepts: 512x512, 512x768");
        let error = asked(0, 0, Some("ugly")).unwrap_err().message;
        for part in ["negative_prompt: ", "'low quality' (photo)", "'blurry'", "an empty one"] {
            assert!(error.contains(part), "{error}");
        }
        let second = Request { negative_prompt_2: Some("ugly".into()), ..Request::default() };
        assert!(check("m", &mode, &second).unwrap_err().message.starts_with("negative_prompt_2: "));
        mode.allow_custom_negative_prompt = None;
        check("m", &mode, &second).unwrap();
    }

    #[test]
    fn schedulers_are_those_that_are_listed_by_any_name() {
        let own = SchedulerConfig::from_json(r#"{"_class_name": "DDIMScheduler"}"#).unwrap();
        let limited = mode("allowed_schedulers = [\"dpmpp_2m_karras\", \"euler_a\"]");
        let with = |mode: &Mode, name: Option<&str>, spacing: Option<&str>| {
            let chosen = scheduler("m", mode, name, spacing, &own).map_err(|error| error.message)?;
            Ok::<_, String>(chosen.sampler_id(&own))
        };
        assert_eq!(with(&limited, None, None), Ok(Some("dpmpp_2m_karras")));
        assert_eq!(with(&limited, Some("Euler a"), None), Ok(Some("euler_a")));
        assert_eq!(with(&limited, Some("DPM++ 2M"), Some("karras")), Ok(Some("dpmpp_2m_karras")));
        let error = with(&limited, Some("DPM++ 2M"), None).unwrap_err();
        assert_eq!(
            error,
            "scheduler: mode 'm' accepts the schedulers dpmpp_2m_karras, euler_a, not 'DPM++ 2M'"
        );
        assert!(with(&limited, Some("dpmpp_2m"), Some("exponential")).unwrap_err().contains("'exponential'"));
        assert!(with(&limited, None, Some("exponential")).unwrap_err().starts_with("schedule_type: "));
        let free = mode("");
        assert_eq!(with(&free, None, None), Ok(Some("ddim")));
        assert_eq!(with(&free, Some("dpmpp_2m"), None), Ok(Some("dpmpp_2m")));
        assert_eq!(with(&free, Some("euler"), Some("karras")), Ok(None));
        let error = with(&free, Some("nope"), None).unwrap_err();
        assert!(error.starts_with("scheduler: ") && error.contains("dpmpp_2m_sde_karras"), "{error}");
    }
}
