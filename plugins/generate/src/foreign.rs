//! Parameters of other programs that `generate` does not have, so that whoever sends one is told what became of it.

/// What stands here in place of a parameter.
enum Here {
    /// Another parameter.
    Is(&'static str),
    /// Nothing: it would change the picture.
    Nothing,
    /// Nothing: it does not change the picture.
    Idle,
}

use Here::{Idle, Is, Nothing};

/// Arguments of diffusers' pipelines of Stable Diffusion 1, 2 and SDXL, and of latent consistency models.
const DIFFUSERS: [(&str, Here); 48] = [
    ("width", Is("size")),
    ("height", Is("size")),
    ("mask_image", Is("mask")),
    ("control_image", Is("controlnets")),
    ("controlnet_conditioning_scale", Is("controlnets")),
    ("control_guidance_start", Is("controlnets")),
    ("control_guidance_end", Is("controlnets")),
    ("guess_mode", Is("controlnets")),
    ("cross_attention_kwargs", Is("loras")),
    ("generator", Is("seed")),
    ("output_type", Is("out_format")),
    ("masked_image_latents", Nothing),
    ("padding_mask_crop", Nothing),
    ("timesteps", Nothing),
    ("sigmas", Nothing),
    ("denoising_start", Nothing),
    ("denoising_end", Nothing),
    ("original_inference_steps", Nothing),
    ("num_images_per_prompt", Nothing),
    ("latents", Nothing),
    ("prompt_embeds", Nothing),
    ("negative_prompt_embeds", Nothing),
    ("pooled_prompt_embeds", Nothing),
    ("negative_pooled_prompt_embeds", Nothing),
    ("ip_adapter_image", Nothing),
    ("ip_adapter_image_embeds", Nothing),
    ("original_size", Nothing),
    ("crops_coords_top_left", Nothing),
    ("target_size", Nothing),
    ("negative_original_size", Nothing),
    ("negative_crops_coords_top_left", Nothing),
    ("negative_target_size", Nothing),
    ("aesthetic_score", Nothing),
    ("negative_aesthetic_score", Nothing),
    ("pag_scale", Nothing),
    ("pag_adaptive_scale", Nothing),
    ("safety_checker", Nothing),
    ("torch_dtype", Nothing),
    ("variant", Nothing),
    ("lora_scale", Is("loras")),
    ("freeu", Nothing),
    ("vae_tiling", Nothing),
    ("return_dict", Idle),
    ("callback", Idle),
    ("callback_steps", Idle),
    ("callback_on_step_end", Idle),
    ("callback_on_step_end_tensor_inputs", Idle),
    ("use_safetensors", Idle),
];

/// Fields of AUTOMATIC1111's web UI; its own API here, `/sdapi/v1`, has a table of its own.
const A1111: [(&str, Here); 46] = [
    ("cfg_scale", Is("guidance_scale")),
    ("sampler_name", Is("scheduler")),
    ("sampler_index", Is("scheduler")),
    ("denoising_strength", Is("strength")),
    ("init_images", Is("image")),
    ("inpainting_mask_invert", Nothing),
    ("override_settings", Nothing),
    ("batch_size", Nothing),
    ("n_iter", Nothing),
    ("subseed", Nothing),
    ("subseed_strength", Nothing),
    ("seed_resize_from_h", Nothing),
    ("seed_resize_from_w", Nothing),
    ("seed_enable_extras", Nothing),
    ("restore_faces", Nothing),
    ("tiling", Nothing),
    ("styles", Nothing),
    ("s_churn", Nothing),
    ("s_tmin", Nothing),
    ("s_tmax", Nothing),
    ("s_noise", Nothing),
    ("s_min_uncond", Nothing),
    ("token_merging_ratio", Nothing),
    ("refiner_checkpoint", Nothing),
    ("refiner_switch_at", Nothing),
    ("enable_hr", Is("superres")),
    ("hr_scale", Is("superres_magnitude")),
    ("hr_upscaler", Nothing),
    ("hr_second_pass_steps", Nothing),
    ("hr_resize_x", Nothing),
    ("hr_resize_y", Nothing),
    ("resize_mode", Nothing),
    ("image_cfg_scale", Nothing),
    ("initial_noise_multiplier", Nothing),
    ("mask_blur", Nothing),
    ("mask_blur_x", Nothing),
    ("mask_blur_y", Nothing),
    ("inpainting_fill", Nothing),
    ("inpaint_full_res", Nothing),
    ("inpaint_full_res_padding", Nothing),
    ("script_name", Nothing),
    ("script_args", Nothing),
    ("alwayson_scripts", Nothing),
    ("send_images", Idle),
    ("save_images", Idle),
    ("do_not_save_samples", Idle),
];

/// Inputs of ComfyUI's nodes that make pictures.
const COMFYUI: [(&str, Here); 28] = [
    ("positive", Is("prompt")),
    ("negative", Is("negative_prompt")),
    ("text", Is("prompt")),
    ("text_g", Is("prompt")),
    ("text_l", Is("prompt_2")),
    ("denoise", Is("strength")),
    ("noise_seed", Is("seed")),
    ("ckpt_name", Is("mode")),
    ("lora_name", Is("loras")),
    ("strength_model", Is("loras")),
    ("strength_clip", Is("loras")),
    ("control_net_name", Is("controlnets")),
    ("pixels", Is("image")),
    ("latent_image", Is("image")),
    ("noise_mask", Is("mask")),
    ("upscale_model", Is("superres")),
    ("stop_at_clip_layer", Is("clip_skip")),
    ("add_noise", Nothing),
    ("start_at_step", Nothing),
    ("end_at_step", Nothing),
    ("return_with_leftover_noise", Nothing),
    ("grow_mask_by", Nothing),
    ("vae_name", Nothing),
    ("weight_dtype", Nothing),
    ("crop_w", Nothing),
    ("crop_h", Nothing),
    ("conditioning", Nothing),
    ("filename_prefix", Idle),
];

/// What a client is told of a parameter of another program; none where it is of none of them.
pub fn told(name: &str) -> Option<String> {
    let programs =
        [("diffusers", &DIFFUSERS[..]), ("AUTOMATIC1111's web UI", &A1111[..]), ("ComfyUI", &COMFYUI[..])];
    programs.into_iter().find_map(|(program, fields)| {
        let (_, here) = fields.iter().find(|(field, _)| *field == name)?;
        Some(match here {
            Is(own) => format!("'{name}' of {program} was ignored: it is '{own}' here"),
            Nothing => format!("'{name}' of {program} was ignored: it is not built here"),
            Idle => format!("'{name}' of {program} was ignored: it changes nothing of the picture"),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;

    #[test]
    fn no_parameter_of_ones_own_is_foreign_and_what_is_pointed_at_is_there() {
        let own = schema::parameters();
        for (name, here) in DIFFUSERS.iter().chain(&A1111).chain(&COMFYUI) {
            assert!(!own.contains_key(*name), "{name}");
            if let Is(field) = here {
                assert!(own.contains_key(*field), "{name}: {field}");
            }
        }
        assert_eq!(told("timesteps").unwrap(), "'timesteps' of diffusers was ignored: it is not built here");
        assert!(told("denoise").unwrap().ends_with("it is 'strength' here"));
        assert!(told("frobnicate").is_none());
    }
}
