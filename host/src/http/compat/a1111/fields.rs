//! What AUTOMATIC1111's web UI has in a request, and what is done with it here.

use serde_json::{Map, Value};

/// What is done as there.
const HONOURED: &[&str] = &[
    "prompt",
    "negative_prompt",
    "seed",
    "steps",
    "cfg_scale",
    "width",
    "height",
    "sampler_name",
    "sampler_index",
    "scheduler",
    "eta",
    "batch_size",
    "n_iter",
    "init_images",
    "mask",
    "inpainting_mask_invert",
    // Without a picture it is of `enable_hr`.
    "denoising_strength",
    "override_settings",
    // Not theirs.
    "superres",
    "superres_magnitude",
];

/// What would change the picture, with the numbers that leave it as it is.
const CHANGING: &[(&str, &[f64])] = &[
    ("enable_hr", &[0.0]),
    ("tiling", &[0.0]),
    ("restore_faces", &[0.0]),
    ("styles", &[]),
    ("alwayson_scripts", &[]),
    ("script_name", &[]),
    ("subseed_strength", &[0.0]),
    ("seed_resize_from_h", &[-1.0, 0.0]),
    ("seed_resize_from_w", &[-1.0, 0.0]),
    ("refiner_checkpoint", &[]),
    ("image_cfg_scale", &[0.0, 1.0, 1.5]),
    ("initial_noise_multiplier", &[0.0, 1.0]),
    ("firstphase_width", &[0.0]),
    ("firstphase_height", &[0.0]),
    ("s_churn", &[0.0]),
    ("s_noise", &[0.0, 1.0]),
    ("s_min_uncond", &[0.0]),
    ("token_merging_ratio", &[0.0]),
    ("ddim_discretize", &[]),
    ("disable_extra_networks", &[0.0]),
    ("infotext", &[]),
    ("latent_mask", &[]),
    ("resize_mode", &[0.0]),
];

/// What would change it where there is a mask.
const CHANGING_WITH_MASK: &[(&str, &[f64])] = &[
    ("mask_blur", &[0.0]),
    ("mask_blur_x", &[0.0]),
    ("mask_blur_y", &[0.0]),
    // 1: the picture itself is what the masked part begins with.
    ("inpainting_fill", &[1.0]),
    ("inpaint_full_res", &[0.0]),
];

/// What changes nothing: files and answers, and what counts only beside one of [`CHANGING`].
const IDLE: &[&str] = &[
    "subseed",
    "seed_enable_extras",
    "refiner_switch_at",
    "script_args",
    "s_tmin",
    "s_tmax",
    "token_merging_ratio_hr",
    "hr_scale",
    "hr_upscaler",
    "hr_second_pass_steps",
    "hr_resize_x",
    "hr_resize_y",
    "hr_checkpoint_name",
    "hr_sampler_name",
    "hr_scheduler",
    "hr_prompt",
    "hr_negative_prompt",
    "hr_cfg",
    "hr_additional_modules",
    "inpaint_full_res_padding",
    "mask_round",
    "override_settings_restore_afterwards",
    "do_not_reload_embeddings",
    "do_not_save_samples",
    "do_not_save_grid",
    "save_images",
    "send_images",
    "include_init_images",
    "outpath_samples",
    "outpath_grids",
    "force_task_id",
    "extra_generation_params",
    "comments",
];

/// What of `override_settings` is done as there.
const SETTINGS: &[&str] = &["sd_model_checkpoint", "CLIP_stop_at_last_layers"];

/// What of it changes nothing: where and how files are written, and `sd_vae` unless it names one.
const IDLE_SETTINGS: &[&str] =
    &["samples_format", "samples_save", "grid_save", "save_images_add_number", "jpeg_quality"];

/// What a request asks for and does not get, in sentences that name it. The clients of this API send all fields always, so that
/// only what is not off counts.
pub fn ignored(asked: &Map<String, Value>) -> Vec<String> {
    let masked = asked.get("mask").is_some_and(|mask| !is_off(mask, &[]));
    let changing = |field: &str| {
        let with_mask = CHANGING_WITH_MASK.iter().filter(|_| masked);
        CHANGING.iter().chain(with_mask).find(|(name, _)| *name == field).map(|(_, off)| *off)
    };
    let known = |field: &str| {
        let of_masks = CHANGING_WITH_MASK.iter().any(|(name, _)| *name == field);
        HONOURED.contains(&field) || IDLE.contains(&field) || of_masks
    };
    let mut ignored = Vec::new();
    for (field, value) in asked {
        match changing(field) {
            Some(off) if is_off(value, off) => {}
            Some(_) => ignored.push(format!("{field}: ignored: it is not supported here")),
            None if known(field) || value.is_null() => {}
            None => ignored.push(format!("{field}: ignored: no such field is known")),
        }
    }
    let settings = asked.get("override_settings").and_then(Value::as_object);
    for (setting, value) in settings.into_iter().flatten() {
        let known = SETTINGS.contains(&setting.as_str()) || IDLE_SETTINGS.contains(&setting.as_str());
        if !known && !is_off(value, &[]) {
            ignored.push(format!("override_settings.{setting}: ignored: it is not supported here"));
        }
    }
    ignored
}

fn is_off(value: &Value, off: &[f64]) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64().is_some_and(|number| off.contains(&number)),
        Value::String(text) => matches!(text.as_str(), "" | "None" | "none" | "Automatic"),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(asked: Value) -> Vec<String> {
        ignored(asked.as_object().unwrap())
    }

    #[test]
    fn what_the_web_ui_sends_by_default_is_not_told() {
        // The fields of its clients with what they have where nobody asks for anything.
        let plain = json!({"prompt": "", "styles": [], "subseed": -1, "subseed_strength": 0, "seed_resize_from_h": -1,
            "seed_resize_from_w": -1, "sampler_name": "Euler", "scheduler": "Automatic", "restore_faces": false, "tiling": null,
            "eta": null, "s_churn": 0.0, "s_noise": 1.0, "s_tmax": null, "hr_scale": 2.0, "hr_upscaler": "Latent",
            "denoising_strength": 0.75, "enable_hr": false, "alwayson_scripts": {}, "script_args": [], "script_name": null,
            "mask_blur": 4, "inpainting_fill": 0, "inpaint_full_res": true, "inpaint_full_res_padding": 32, "resize_mode": 0,
            "override_settings": {"sd_vae": "Automatic", "samples_format": "png"}, "send_images": true, "mask": null});
        assert_eq!(told(plain), [""; 0]);
    }

    #[test]
    fn what_would_change_the_picture_is_told_by_name() {
        let asked = json!({"enable_hr": true, "subseed_strength": 0.3, "s_churn": 5, "frobnicate": 1, "mask": "x", "mask_blur": 4,
            "inpainting_fill": 0, "override_settings": {"eta_noise_seed_delta": 31337, "sd_vae": "other.pt"}});
        let told = told(asked);
        for field in
            ["enable_hr", "subseed_strength", "s_churn", "frobnicate", "mask_blur", "inpainting_fill"]
        {
            assert!(
                told.iter().any(|text| text.starts_with(&format!("{field}: ignored"))),
                "{field}: {told:?}"
            );
        }
        for setting in ["eta_noise_seed_delta", "sd_vae"] {
            assert!(
                told.iter().any(|text| text.contains(&format!("override_settings.{setting}:"))),
                "{told:?}"
            );
        }
        assert_eq!(told.len(), 8, "{told:?}");
    }
}
