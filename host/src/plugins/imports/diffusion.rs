//! Text to image on the device.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use image::{DynamicImage, RgbImage, imageops};
use reverie_memory::{Budget, Kept};
use reverie_models::noise::Blend;
use serde_json::{Map, Value, json};
use uuid::Uuid;
use wasmtime::component::Resource;

use super::{
    super::{
        bindings::reverie::handler::{diffusion as wit, types},
        instance::CallState,
    },
    Picture,
    turn::{Abandon, Turn},
};
use crate::{
    diffusion::{Control, Request},
    error::Error,
    hub::{Frame, Hub},
    pictures::{self, Encoding, Format},
};

/// How many times larger than the latents a preview is, and its JPEG's quality.
const PREVIEW_SCALE: u32 = 4;
const PREVIEW: Encoding = Encoding { format: Format::Jpeg, quality: 70 };

impl wit::Host for CallState {
    fn modes(&mut self) -> wasmtime::Result<Vec<String>> {
        Ok(self.services.diffusion.modes().names().map(str::to_owned).collect())
    }

    async fn size(&mut self, mode: String) -> wasmtime::Result<Result<(u32, u32, u32), types::Error>> {
        let services = self.services.clone();
        let size = self.blocking(move || services.diffusion.own_size(&services.device, &mode)).await;
        let size = size.unwrap_or_else(|_| Err(Error::internal("the model failed (a fault of the server)")));
        Ok(size.map_err(Into::into))
    }

    async fn check(
        &mut self,
        mode: String,
        prompt: String,
    ) -> wasmtime::Result<Result<String, types::Error>> {
        let services = self.services.clone();
        let checked = self.blocking(move || services.diffusion.check(&mode, &prompt)).await;
        let checked = checked
            .unwrap_or_else(|_| Err(Error::internal("the prompt could not be read (a fault of the server)")));
        Ok(checked.map_err(Into::into))
    }

    async fn scheduler_id(
        &mut self,
        mode: String,
        scheduler: Option<String>,
        schedule_type: Option<String>,
    ) -> wasmtime::Result<Result<Option<String>, types::Error>> {
        let services = self.services.clone();
        let found = self.blocking(move || {
            services.diffusion.scheduler_id(&mode, scheduler.as_deref(), schedule_type.as_deref())
        });
        let found = found.await.unwrap_or_else(|_| {
            Err(Error::internal("the scheduler could not be told (a fault of the server)"))
        });
        Ok(found.map(|id| id.map(str::to_owned)).map_err(Into::into))
    }

    async fn generate(
        &mut self,
        request: wit::Request,
        image: Option<Resource<Picture>>,
        mask: Option<Resource<Picture>>,
    ) -> wasmtime::Result<Result<wit::Generated, types::Error>> {
        let made = match self.picture_of(order(request), image, mask).await? {
            Ok(made) => made,
            Err(error) => return Ok(Err(error)),
        };
        let lora = |lora: wit::Adapter| wit::Lora { name: lora.name, strength: lora.strength as f32 };
        Ok(Ok(wit::Generated {
            picture: made.picture,
            mode: made.mode,
            model: made.model,
            scheduler: made.scheduler,
            num_inference_steps: made.num_inference_steps,
            guidance_scale: made.guidance_scale as f32,
            negative_prompt: made.negative_prompt,
            loras: made.loras.into_iter().map(lora).collect(),
            backend: made.backend,
            load_ms: made.load_ms,
            encode_ms: made.encode_ms,
            denoise_ms: made.denoise_ms,
            decode_ms: made.decode_ms,
        }))
    }

    async fn make(
        &mut self,
        order: wit::Order,
        image: Option<Resource<Picture>>,
        mask: Option<Resource<Picture>>,
    ) -> wasmtime::Result<Result<wit::Made, types::Error>> {
        self.picture_of(order, image, mask).await
    }
}

/// A request of interface 0.2.3 and before as an order.
fn order(request: wit::Request) -> wit::Order {
    let adapter = |lora: wit::Lora| wit::Adapter { name: lora.name, strength: decimal(lora.strength) };
    wit::Order {
        mode: request.mode,
        prompt: request.prompt,
        negative_prompt: request.negative_prompt,
        prompt_second: request.prompt_second,
        negative_prompt_second: request.negative_prompt_second,
        width: request.width,
        height: request.height,
        num_inference_steps: request.num_inference_steps,
        guidance_scale: request.guidance_scale.map(decimal),
        guidance_rescale: 0.0,
        eta: 0.0,
        seed: request.seed,
        blends: request.blends,
        scheduler: request.scheduler,
        schedule_type: request.schedule_type,
        clip_skip: request.clip_skip,
        strength: decimal(request.strength),
        loras: request.loras.into_iter().map(adapter).collect(),
        strict: false,
        previews: request.previews,
        progress_from: request.progress_from,
        progress_to: request.progress_to,
    }
}

/// The number that was meant: the nearest `f32` of 0.7 is 0.699999988 as an `f64`, which is a step less of ten.
fn decimal(x: f32) -> f64 {
    x.to_string().parse().unwrap_or_else(|_| x.into())
}

impl CallState {
    async fn picture_of(
        &mut self,
        order: wit::Order,
        image: Option<Resource<Picture>>,
        mask: Option<Resource<Picture>>,
    ) -> wasmtime::Result<Result<wit::Made, types::Error>> {
        let (image, mask) = (self.given(image)?, self.given(mask)?);
        let (control, _abandon) = Steps::new(self, &order);
        let blend = |blend: wit::Blend| Blend { seed: blend.seed, amount: blend.amount };
        let request = Request {
            mode: order.mode,
            prompt: order.prompt,
            negative_prompt: order.negative_prompt,
            prompt_2: order.prompt_second,
            negative_prompt_2: order.negative_prompt_second,
            width: order.width,
            height: order.height,
            num_inference_steps: order.num_inference_steps,
            guidance_scale: order.guidance_scale,
            guidance_rescale: order.guidance_rescale,
            eta: order.eta,
            seed: order.seed,
            blends: order.blends.into_iter().map(blend).collect(),
            scheduler: order.scheduler,
            schedule_type: order.schedule_type,
            clip_skip: order.clip_skip,
            strength: order.strength,
            loras: order.loras.into_iter().map(|lora| (lora.name, lora.strength)).collect(),
            strict: order.strict,
            image,
            mask,
        };
        let services = self.services.clone();
        let done =
            self.blocking(move || services.diffusion.generate(&services.device, request, Arc::new(control)));
        let made = match done.await {
            Ok(Ok(made)) => made,
            Ok(Err(error)) => return Ok(Err(error.into())),
            Err(_) => return Ok(Err(Error::internal("the model failed (a fault of the server)").into())),
        };
        let picture = match self.picture(made.picture.map(DynamicImage::ImageRgb8)) {
            Ok(picture) => picture,
            Err(error) => return Ok(Err(error.into())),
        };
        Ok(Ok(wit::Made {
            picture,
            mode: made.mode,
            model: made.model,
            scheduler: made.scheduler.to_owned(),
            num_inference_steps: made.num_inference_steps,
            guidance_scale: made.guidance_scale,
            negative_prompt: made.negative_prompt,
            loras: made.loras.into_iter().map(|(name, strength)| wit::Adapter { name, strength }).collect(),
            warnings: made.warnings,
            backend: self.services.diffusion.backend().to_owned(),
            load_ms: made.timings.load,
            encode_ms: made.timings.encode,
            denoise_ms: made.timings.denoise,
            decode_ms: made.timings.decode,
        }))
    }

    fn given(&self, picture: Option<Resource<Picture>>) -> wasmtime::Result<Option<Arc<Kept<DynamicImage>>>> {
        picture.map(|picture| Ok(self.resources.get(&picture)?.0.clone())).transpose()
    }
}

/// Ties the steps of a picture to the job it is for.
struct Steps {
    turn: Turn,
    hub: Arc<Hub>,
    memory: Arc<Budget>,
    from: f32,
    span: f32,
    previews: wit::Previews,
}

impl Steps {
    /// Also what stops the picture when the call is dropped, as by a deadline.
    fn new(call: &CallState, order: &wit::Order) -> (Self, Abandon) {
        let (turn, abandon) = Turn::new(call);
        let steps = Self {
            turn,
            hub: call.services.hub.clone(),
            memory: call.services.memory.clone(),
            from: order.progress_from,
            span: order.progress_to - order.progress_from,
            previews: order.previews,
        };
        (steps, abandon)
    }
}

impl Control for Steps {
    fn priority(&self) -> i64 {
        self.turn.priority()
    }

    fn stopped(&self) -> bool {
        self.turn.stopped()
    }

    fn background(&self) -> bool {
        self.turn.background()
    }

    fn yields(&self) -> bool {
        self.turn.yields()
    }

    fn job(&self) -> Option<Uuid> {
        self.turn.job.as_ref().map(|job| job.id)
    }

    fn waited(&self, time: Duration) {
        self.turn.waited(time);
    }

    fn progress(&self, fraction: f32, detail: Map<String, Value>) {
        // A background job's pictures are no steps of its way.
        if let Some(job) = self.turn.job.as_ref().filter(|_| self.span > 0.0) {
            self.turn.jobs.progress(job.id, self.from + self.span * fraction, detail);
        }
    }

    fn wants_previews(&self) -> bool {
        self.previews != wit::Previews::None && self.turn.job.is_some()
    }

    fn preview(&self, step: usize, picture: RgbImage) {
        let Some(job) = &self.turn.job else { return };
        let (width, height) = (picture.width() * PREVIEW_SCALE, picture.height() * PREVIEW_SCALE);
        let large = imageops::resize(&picture, width, height, imageops::FilterType::Triangle);
        let Ok(jpeg) = pictures::encode(&DynamicImage::ImageRgb8(large), PREVIEW, &self.memory) else {
            return;
        };
        let mut message = json!({
            "type": "job:preview",
            "jobId": job.id,
            "jobType": job.spec.job_type,
            "step": step,
            "format": "jpeg",
            "width": width,
            "height": height,
        });
        let frame = match self.previews {
            wit::Previews::Binary => {
                let header = message.to_string();
                let length = (header.len() as u32).to_be_bytes();
                Frame::binary_preview(job.id, [&length, header.as_bytes(), &jpeg].concat())
            }
            _ => {
                message["data"] = BASE64_STANDARD.encode(&*jpeg).into();
                Frame::preview(job.id, message.to_string())
            }
        };
        self.hub.job_event(job.id, job.spec.owner.as_deref(), frame, false);
    }
}
