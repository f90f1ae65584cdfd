//! What can be told of a mode without loading its model.

use std::{path::Path, sync::Arc};

use reverie_models::{Adapters, Lora, ModelFiles, ModelKind, Tokenizer};

use super::{Diffusion, Request, library, rules};
use crate::{config::Mode, error::Error};

/// A mode whose files were opened.
#[derive(Debug, Clone)]
pub struct Inspected {
    pub kind: ModelKind,
    /// What its weights take in memory.
    pub bytes: u64,
    pub inpainting: bool,
    /// Tensors of its LoRAs that fit no layer, and are left out.
    pub unmatched: Vec<String>,
}

impl Diffusion {
    /// Opens all that a mode's model is loaded from: headers, configurations, vocabularies, LoRAs. Reads no weights.
    ///
    /// # Errors
    /// Those that loading it would end with, as far as they show without the weights.
    pub fn inspect(&self, mode: &Mode) -> Result<Inspected, Error> {
        let mut files = ModelFiles::open(&mode.model).map_err(library::error)?;
        if let Some(vae) = &mode.vae {
            files.vae = ModelFiles::open_vae(vae).map_err(library::error)?;
        }
        for folder in files.tokenizer.iter().chain(&files.tokenizer_2) {
            Tokenizer::open(folder).map_err(library::error)?;
        }
        let own = files.scheduler_config().map_err(library::error)?;
        rules::scheduler("", mode, None, None, &own)?;
        let adapters = self.adapters(mode, &Request::default())?;
        let loras = adapters
            .iter()
            .map(|adapter| Ok((Arc::new(Lora::open(&adapter.path)?), adapter.strength as f32)));
        let loras = loras.collect::<Result<Vec<_>, _>>().map_err(library::error)?;
        let added = Adapters::for_model(&files, &loras).map_err(|e| Error::invalid(format!("loras: {e}")))?;
        Ok(Inspected {
            kind: files.kind,
            bytes: files.resident_bytes(),
            inpainting: files.is_inpainting(),
            unmatched: added.unmatched().to_vec(),
        })
    }

    /// The file of a LoRA that [`Diffusion::loras`] names.
    pub fn lora(&self, name: &str) -> impl AsRef<Path> + use<> {
        self.settings.loras_dir.join(format!("{name}.safetensors"))
    }

    /// Whether a mode's model is the embedded one.
    pub fn is_embedded(&self, mode: &Mode) -> bool {
        self.embedded.as_ref().is_some_and(|embedded| mode.model == embedded.model())
    }
}
