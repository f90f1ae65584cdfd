//! What the name of a LoRA's tensor says, in the namings that are in use.

use super::Target;

/// A tensor's name, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) target: Target,
    /// The layer, without the component. kohya's names have underscores for dots.
    pub(super) module: String,
    pub(super) part: Part,
}

/// Which of a layer's tensors it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Down,
    Up,
    Mid,
    Alpha,
    /// Something that would change the layer in a way that is not supported.
    Other,
}

/// kohya's prefixes; the last is that of SD 1 and 2, and begins no other.
const KOHYA: [(&str, Target); 4] = [
    ("lora_unet_", Target::Unet),
    ("lora_te1_", Target::TextEncoder),
    ("lora_te2_", Target::TextEncoder2),
    ("lora_te_", Target::TextEncoder),
];

/// The prefixes of diffusers and of peft. Names without one are of a UNet that was saved by itself.
const DOTTED: [(&str, Target); 5] = [
    ("unet.", Target::Unet),
    ("text_encoder.", Target::TextEncoder),
    ("text_encoder_2.", Target::TextEncoder2),
    ("base_model.model.", Target::Unet),
    ("", Target::Unet),
];

/// Ends of names. Those that end another one come after it.
const PARTS: [(&str, Part); 20] = [
    (".lora_linear_layer.down.weight", Part::Down),
    (".lora_linear_layer.up.weight", Part::Up),
    (".lora.down.weight", Part::Down),
    (".lora.up.weight", Part::Up),
    // diffusers before 0.22, on attention's processors.
    ("_lora.down.weight", Part::Down),
    ("_lora.up.weight", Part::Up),
    (".lora_down.weight", Part::Down),
    (".lora_up.weight", Part::Up),
    (".lora_mid.weight", Part::Mid),
    (".lora_A.weight", Part::Down),
    (".lora_B.weight", Part::Up),
    (".lora_A.default.weight", Part::Down),
    (".lora_B.default.weight", Part::Up),
    (".lora.alpha", Part::Alpha),
    ("_lora.alpha", Part::Alpha),
    (".alpha", Part::Alpha),
    (".lora_B.bias", Part::Other),
    (".dora_scale", Part::Other),
    (".lora_magnitude_vector", Part::Other),
    (".lora_magnitude_vector.weight", Part::Other),
];

/// None for a name that is of no layer.
pub(super) fn parse(name: &str) -> Option<Key> {
    let known = PARTS.iter().find_map(|&(end, part)| Some((name.strip_suffix(end)?, part)));
    if let Some((prefix, target)) = KOHYA.iter().find(|(prefix, _)| name.starts_with(prefix)) {
        // With this prefix everything changes a layer in some way.
        let (module, part) = known.or_else(|| Some((name.split_once('.')?.0, Part::Other)))?;
        return Some(Key { target: *target, module: module.strip_prefix(prefix)?.to_owned(), part });
    }
    let (module, part) = known?;
    let (module, target) =
        DOTTED.iter().find_map(|(prefix, target)| Some((module.strip_prefix(prefix)?, *target)))?;
    let mut module = module.replace(".processor.", ".");
    // A processor's `to_out_lora` is of the first of the two modules in `to_out`.
    if module.ends_with(".to_out") {
        module.push_str(".0");
    }
    Some(Key { target, module, part })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_naming_is_taken_apart() {
        let attention = "down_blocks.0.attentions.0.transformer_blocks.0.attn1";
        for (name, target, module, part) in [
            (
                "lora_unet_mid_block_resnets_0_conv1.lora_mid.weight",
                Target::Unet,
                "mid_block_resnets_0_conv1",
                Part::Mid,
            ),
            ("lora_te_text_projection.alpha", Target::TextEncoder, "text_projection", Part::Alpha),
            ("lora_te1_a_b.lora_up.weight", Target::TextEncoder, "a_b", Part::Up),
            ("lora_te2_a_b.lora_down.weight", Target::TextEncoder2, "a_b", Part::Down),
            ("lora_unet_x.hada_w1_a", Target::Unet, "x", Part::Other),
            ("lora_unet_x.dora_scale", Target::Unet, "x", Part::Other),
            (
                "unet.mid_block.resnets.0.conv1.lora_A.weight",
                Target::Unet,
                "mid_block.resnets.0.conv1",
                Part::Down,
            ),
            ("text_encoder_2.text_model.a.lora_B.weight", Target::TextEncoder2, "text_model.a", Part::Up),
            (
                "text_encoder.a.mlp.fc1.lora_linear_layer.up.weight",
                Target::TextEncoder,
                "a.mlp.fc1",
                Part::Up,
            ),
            ("base_model.model.conv_in.lora_A.default.weight", Target::Unet, "conv_in", Part::Down),
            ("unet.conv_in.lora.up.weight", Target::Unet, "conv_in", Part::Up),
            ("conv_out.lora_magnitude_vector", Target::Unet, "conv_out", Part::Other),
        ] {
            assert_eq!(parse(name), Some(Key { target, module: module.to_owned(), part }), "{name}");
        }
        for (layer, expected) in [("to_q", "to_q"), ("to_out", "to_out.0")] {
            let name = format!("unet.{attention}.processor.{layer}_lora.down.weight");
            let module = format!("{attention}.{expected}");
            assert_eq!(parse(&name), Some(Key { target: Target::Unet, module, part: Part::Down }));
        }
        for name in ["bundle_emb.word.string_to_param", "model.diffusion_model.out.0.weight"] {
            assert_eq!(parse(name), None);
        }
    }
}
