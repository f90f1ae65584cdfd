//! What a picture's client hears of its steps.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use image::RgbImage;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{Control, library::Model};
use crate::execution::{Denoise, Watch};

/// Shares of the progress: loading, encoding, then the steps, then decoding, and enlarging where that follows.
pub const LOADED: f32 = 0.02;
pub const ENCODED: f32 = 0.03;
pub const DENOISED: f32 = 0.92;
pub const DECODED: f32 = 0.95;

/// Tells a request's client of its steps.
pub struct Steps {
    control: Arc<dyn Control>,
    model: Arc<Model>,
    /// When its first step ended: what the time left is reckoned from.
    began: Mutex<Option<Instant>>,
}

impl Steps {
    pub fn new(control: Arc<dyn Control>, model: Arc<Model>) -> Self {
        Self { control, model, began: Mutex::default() }
    }
}

impl Watch for Steps {
    fn priority(&self) -> i64 {
        self.control.priority()
    }

    fn stopped(&self) -> bool {
        self.control.stopped()
    }

    fn yields(&self) -> bool {
        self.control.yields()
    }

    fn background(&self) -> bool {
        self.control.background()
    }

    fn job(&self) -> Option<Uuid> {
        self.control.job()
    }

    fn waited(&self, time: Duration) {
        self.control.waited(time);
    }

    fn stepped(&self, picture: &Denoise) {
        let (done, steps) = (picture.position(), picture.steps());
        let mut detail = steps_of(picture, "denoising");
        let first = *self.began.lock().get_or_insert_with(Instant::now);
        if done > 1 {
            let eta = first.elapsed().as_secs_f64() / (done - 1) as f64 * (steps - done) as f64;
            detail.insert("eta_s".into(), ((eta * 10.0).round() / 10.0).into());
        }
        let share = done as f32 / steps as f32;
        self.control.progress(ENCODED + (DENOISED - ENCODED) * share, detail);
        if self.control.wants_previews() && done < steps {
            // Cheap enough for the leader of a batch: a projection of the latents. One that fails is missed by nobody; the next
            // step says what is wrong with the device.
            if let Ok(Some(small)) = self.model.pipeline.preview(self.model.backend(), picture)
                && let Some(small) = RgbImage::from_raw(small.width as u32, small.height as u32, small.rgb)
            {
                self.control.preview(done, small);
            }
        }
    }
}

/// What is being done with a picture, as clients see it, where it takes no steps.
pub fn stage(stage: &str) -> Map<String, Value> {
    Map::from_iter([("stage".to_owned(), stage.into())])
}

/// The same with the step that the picture is at; `total` is what clients of the Python server call the number of steps.
pub fn steps_of(picture: &Denoise, stage: &str) -> Map<String, Value> {
    let (done, steps) = (picture.position(), picture.steps());
    let detail = json!({"stage": stage, "step": done, "steps": steps, "total": steps});
    detail.as_object().expect("an object was written").clone()
}
