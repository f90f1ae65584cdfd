//! How good a picture is, and for what text.

mod aesthetics;
mod perceptual_hash;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use image::{DynamicImage, RgbImage};
use parking_lot::Mutex;
use reverie_models::{clip::CLIPModel, pipeline::Picture};

use crate::{
    config::Config,
    diffusion,
    embedded::Embedded,
    error::{Error, ErrorKind},
    execution::{AnyBackend, Room, room},
};

pub use aesthetics::{Aesthetics, measure};
pub use perceptual_hash::perceptual_hash;

/// The dual encoder, loaded when it is first needed.
pub struct Scoring {
    backend: Arc<AnyBackend>,
    /// Of `[scoring] model`; empty: the embedded one.
    model: PathBuf,
    embedded: Option<Embedded>,
    loaded: Mutex<Option<Arc<CLIPModel<AnyBackend>>>>,
}

impl Scoring {
    pub fn new(config: &Config, backend: Arc<AnyBackend>) -> Self {
        Self {
            backend,
            model: config.scoring.model.clone(),
            embedded: config.diffusion.embedded.then(|| Embedded::new(&config.diffusion.embedded_dir)),
            loaded: Mutex::default(),
        }
    }

    fn folder(&self) -> Result<PathBuf, Error> {
        folder(&self.model, self.embedded.as_ref())
    }

    /// The dual encoder's name.
    ///
    /// # Errors
    /// `Unavailable` where there is none, with what to do.
    pub fn name(&self) -> Result<String, Error> {
        let folder = self.folder()?;
        Ok(folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned())
    }

    /// Loads the dual encoder where it is not in memory. To be called before the device is taken.
    ///
    /// # Errors
    /// `Unavailable` where there is none, or no room for it; `Internal` for files that are missing or broken.
    pub fn load(&self, room: &Room) -> Result<Arc<CLIPModel<AnyBackend>>, Error> {
        // A load that panicked has left nothing behind.
        let mut loaded = self.loaded.lock();
        if let Some(model) = &*loaded {
            return Ok(model.clone());
        }
        let (folder, began) = (self.folder()?, Instant::now());
        if let Some(embedded) = &self.embedded
            && folder == embedded.scorer()
        {
            embedded.unpack()?;
        }
        let model = room.retry(|| CLIPModel::open(&*self.backend, &folder)).map_err(|error| {
            let what = format!("scoring.model '{}'", folder.display());
            room::full(&what, &error).unwrap_or_else(|| Error::internal(format!("{what}: {error}")))
        })?;
        tracing::info!(model = %folder.display(), "dual encoder loaded in {:.1} s", began.elapsed().as_secs_f32());
        Ok(loaded.insert(Arc::new(model)).clone())
    }

    /// A text as a vector of length 1.
    ///
    /// # Errors
    /// Those of the device.
    pub fn embed_text(
        &self,
        room: &Room,
        model: &CLIPModel<AnyBackend>,
        text: &str,
    ) -> Result<Vec<f32>, Error> {
        room.retry(|| model.embed_text(&*self.backend, text)).map_err(error)
    }

    /// A picture as a vector of length 1: its dot product with a text's is their similarity.
    ///
    /// # Errors
    /// Those of the device.
    pub fn embed_image(
        &self,
        room: &Room,
        model: &CLIPModel<AnyBackend>,
        image: &DynamicImage,
    ) -> Result<Vec<f32>, Error> {
        let image = image.to_rgb8();
        let picture =
            Picture { width: image.width() as usize, height: image.height() as usize, rgb: image.into_raw() };
        room.retry(|| model.embed_picture(&*self.backend, &picture)).map_err(error)
    }

    /// Drops the dual encoder where nobody uses it; whether it did.
    pub fn drop_idle(&self) -> bool {
        // Locked, it is being loaded.
        let Some(mut loaded) = self.loaded.try_lock() else { return false };
        loaded.take_if(|model| Arc::strong_count(model) == 1).is_some()
    }
}

/// The folder of the dual encoder, of `[scoring] model` or the embedded one: the one place that says which it is.
///
/// # Errors
/// `Unavailable` where there is none, with what to do.
pub fn folder(model: &Path, embedded: Option<&Embedded>) -> Result<PathBuf, Error> {
    if !model.as_os_str().is_empty() {
        if model.join("config.json").is_file() {
            return Ok(model.to_owned());
        }
        let error =
            format!("scoring.model '{}' is no folder of a CLIPModel: it has no config.json", model.display());
        return Err(Error::new(ErrorKind::Unavailable, error));
    }
    if let Some(embedded) = embedded {
        return Ok(embedded.scorer());
    }
    let error = "no dual encoder is there to score pictures with: name the folder of a CLIPModel in the configuration \
                 ([scoring] model), or switch on the embedded one (diffusion.embedded)";
    Err(Error::new(ErrorKind::Unavailable, error))
}

fn error(error: reverie_models::Error) -> Error {
    room::full("scoring a picture", &error).unwrap_or_else(|| diffusion::error(error))
}

/// Luma by ITU-R BT.601, 0 to 255.
fn luma(image: &RgbImage) -> Vec<f32> {
    let luma =
        |p: &image::Rgb<u8>| 0.299 * f32::from(p[0]) + 0.587 * f32::from(p[1]) + 0.114 * f32::from(p[2]);
    image.pixels().map(luma).collect()
}

fn mean_and_variance(values: impl Iterator<Item = f32> + Clone) -> (f32, f32) {
    let count = values.clone().count().max(1) as f64;
    let mean = values.clone().map(f64::from).sum::<f64>() / count;
    let variance = values.map(|x| (f64::from(x) - mean).powi(2)).sum::<f64>() / count;
    (mean as f32, variance as f32)
}
