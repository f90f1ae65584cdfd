//! Scores of pictures: work of the device, on blocking threads.

use wasmtime::component::Resource;

use super::{
    super::{
        Services,
        bindings::reverie::handler::{scoring as wit, types},
        instance::CallState,
    },
    Picture,
    turn::Turn,
};
use crate::{
    error::Error,
    scoring::{self, Aesthetics},
};

type Answer<T> = wasmtime::Result<Result<T, types::Error>>;

impl wit::Host for CallState {
    fn model(&mut self) -> Answer<String> {
        Ok(self.services.scoring.name().map_err(Into::into))
    }

    async fn embed_text(&mut self, text: String) -> Answer<Vec<f32>> {
        self.on_device(
            |services| services.scoring.load(&services.device.room),
            move |services, model| services.scoring.embed_text(&services.device.room, &model, &text),
        )
        .await
    }

    async fn embed_image(&mut self, image: Resource<Picture>) -> Answer<Vec<f32>> {
        let image = self.resources.get(&image)?.0.clone();
        self.on_device(
            |services| services.scoring.load(&services.device.room),
            move |services, model| services.scoring.embed_image(&services.device.room, &model, &image),
        )
        .await
    }

    async fn measure(&mut self, image: Resource<Picture>) -> Answer<wit::Aesthetics> {
        let image = self.resources.get(&image)?.0.clone();
        self.on_device(
            |_| Ok(()),
            move |_, ()| {
                let Aesthetics { sharpness, colourfulness, contrast } = scoring::measure(&image);
                Ok(wit::Aesthetics { sharpness, colourfulness, contrast })
            },
        )
        .await
    }

    async fn perceptual_hash(&mut self, image: Resource<Picture>) -> Answer<u64> {
        let image = self.resources.get(&image)?.0.clone();
        self.on_device(|_| Ok(()), move |_, ()| Ok(scoring::perceptual_hash(&image))).await
    }
}

impl CallState {
    /// Does `work` when it is this call's turn; what `prepare` loads keeps nobody from the device.
    async fn on_device<M, T: Send + 'static>(
        &mut self,
        prepare: impl FnOnce(&Services) -> Result<M, Error> + Send + 'static,
        work: impl FnOnce(&Services, M) -> Result<T, Error> + Send + 'static,
    ) -> Answer<T> {
        let (turn, _abandon) = Turn::new(self);
        let services = self.services.clone();
        let done = self.blocking(move || {
            let prepared = prepare(&services)?;
            let ticket = services.device.ticket();
            let _lease = turn.lease(&ticket)?;
            work(&services, prepared)
        });
        let done =
            done.await.unwrap_or_else(|_| Err(Error::internal("the scoring failed (a fault of the server)")));
        Ok(done.map_err(Into::into))
    }
}
