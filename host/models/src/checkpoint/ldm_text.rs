//! The names of text encoders: OpenAI's CLIP as transformers has it, and OpenCLIP's.

use crate::{
    config::{CLIPTextConfig, Limited},
    error::Result,
    weights::{Entry, Weights},
};

/// Features for a head, in all of CLIP's text encoders.
const HEAD_FEATURES: usize = 64;

/// A text encoder that has transformers' names already, with or without `text_model.` before them, and its configuration.
///
/// # Errors
/// [`crate::Error::Missing`]; [`crate::Error::Unsupported`] for sizes beyond all limits.
pub(super) fn clip(weights: &Weights) -> Result<(CLIPTextConfig, Weights)> {
    let weights = with_text_model(weights);
    Ok((config(&weights, "quick_gelu")?, weights))
}

/// A text encoder with OpenCLIP's names. Of its layers at most `max_layers` are taken: SD 2 uses the output of the last but
/// one, and diffusers leaves out the last.
///
/// # Errors
/// [`crate::Error::Missing`]; [`crate::Error::Unsupported`] for sizes beyond all limits.
pub(super) fn open_clip(weights: &Weights, max_layers: usize) -> Result<(CLIPTextConfig, Weights)> {
    let converted = weights.mapped(|name, entry| from_open_clip(name, entry, max_layers));
    Ok((config(&converted, "gelu")?, converted))
}

/// Some files, and transformers since 5.6, leave out the module around the encoder.
pub(super) fn with_text_model(weights: &Weights) -> Weights {
    weights.renamed(|name| {
        // Of old files: 0 to 76.
        if name.ends_with("position_ids") {
            return None;
        }
        let outside = ["text_model.", "text_projection."].iter().any(|known| name.starts_with(known));
        Some(if outside { name.to_owned() } else { format!("text_model.{name}") })
    })
}

fn config(weights: &Weights, hidden_act: &str) -> Result<CLIPTextConfig> {
    let embedding = "text_model.embeddings.token_embedding.weight";
    let hidden_size = weights.side(embedding, 1, 2)?;
    let layer = |i: &usize| weights.has(&format!("text_model.encoder.layers.{i}.layer_norm1.weight"));
    let projection = "text_projection.weight";
    let config = CLIPTextConfig {
        vocab_size: weights.side(embedding, 0, 2)?,
        hidden_size,
        intermediate_size: weights.side("text_model.encoder.layers.0.mlp.fc1.weight", 0, 2)?,
        projection_dim: if weights.has(projection) { weights.side(projection, 0, 2)? } else { hidden_size },
        num_hidden_layers: (0..).take_while(layer).count(),
        num_attention_heads: (hidden_size / HEAD_FEATURES).max(1),
        max_position_embeddings: weights.side("text_model.embeddings.position_embedding.weight", 0, 2)?,
        hidden_act: hidden_act.to_owned(),
        ..CLIPTextConfig::default()
    };
    config.check_limits(weights.file())?;
    Ok(config)
}

/// The tensors that take the place of `entry`; none for what the encoder does not use, as `logit_scale`.
fn from_open_clip(name: &str, entry: &Entry, max_layers: usize) -> Vec<(String, Entry)> {
    let as_it_is = |name: &str| vec![(format!("text_model.{name}"), entry.clone())];
    match name {
        "positional_embedding" => as_it_is("embeddings.position_embedding.weight"),
        "token_embedding.weight" => as_it_is("embeddings.token_embedding.weight"),
        "ln_final.weight" => as_it_is("final_layer_norm.weight"),
        "ln_final.bias" => as_it_is("final_layer_norm.bias"),
        // A matrix that is multiplied from the right.
        "text_projection" => {
            entry.transposed().map(|it| ("text_projection.weight".to_owned(), it)).into_iter().collect()
        }
        "text_projection.weight" => vec![(name.to_owned(), entry.clone())],
        _ => {
            let Some((index, rest)) =
                name.strip_prefix("transformer.resblocks.").and_then(|it| it.split_once('.'))
            else {
                return Vec::new();
            };
            match index.parse::<usize>() {
                Ok(index) if index < max_layers => layer(index, rest, entry),
                _ => Vec::new(),
            }
        }
    }
}

fn layer(index: usize, rest: &str, entry: &Entry) -> Vec<(String, Entry)> {
    let prefix = format!("text_model.encoder.layers.{index}");
    if let Some(last) = rest.strip_prefix("attn.in_proj_") {
        // Queries, keys and values in one.
        let part = |(i, name)| Some((format!("{prefix}.self_attn.{name}.{last}"), entry.part(i, 3)?));
        return ["q_proj", "k_proj", "v_proj"].into_iter().enumerate().filter_map(part).collect();
    }
    let modules = [
        ("ln_1.", "layer_norm1."),
        ("ln_2.", "layer_norm2."),
        ("mlp.c_fc.", "mlp.fc1."),
        ("mlp.c_proj.", "mlp.fc2."),
        ("attn.out_proj.", "self_attn.out_proj."),
    ];
    let renamed = |(old, new): (&str, &str)| Some(format!("{prefix}.{new}{}", rest.strip_prefix(old)?));
    modules.into_iter().find_map(renamed).map(|name| (name, entry.clone())).into_iter().collect()
}
