//! Super-resolution on the device.

use parking_lot::Mutex;
use reverie_memory::Use;
use wasmtime::component::Resource;

use super::{
    super::{
        bindings::reverie::handler::{types, upscale as wit},
        instance::CallState,
    },
    Picture,
    turn::Turn,
};
use crate::{
    error::Error,
    execution::{Lease, Ticket},
    models::{Cancelled, Control, Scale, UpscaleRequest},
    pictures,
};

impl wit::Host for CallState {
    fn networks(&mut self) -> wasmtime::Result<Vec<wit::Network>> {
        let networks = self.services.upscalers.list().into_iter();
        Ok(networks
            .map(|n| wit::Network {
                name: n.name,
                kind: n.kind.into(),
                scales: n.scales,
                architecture: n.architecture,
            })
            .collect())
    }

    async fn run(
        &mut self,
        picture: Resource<Picture>,
        options: wit::Options,
    ) -> wasmtime::Result<Result<Resource<Picture>, types::Error>> {
        let picture = self.resources.get(&picture)?.0.clone();
        let scale = match options.scale {
            wit::Scale::Passes(passes) => Scale::Passes(passes),
            wit::Scale::Factor(factor) => Scale::Factor(factor),
        };
        let request = UpscaleRequest { model: options.model, scale };
        let (turn, _abandon) = Turn::new(self);
        let steps =
            Steps { turn, from: options.progress_from, span: options.progress_to - options.progress_from };
        let (services, own) = (self.services.clone(), self.memory.clone());
        let done = self.blocking(move || {
            let (width, height) =
                services.upscalers.output_size(picture.width(), picture.height(), &request)?;
            pictures::check_size(width, height, services.config.images.max_output_pixels)?;
            own.count(pictures::bytes(&picture, width, height))?;
            let control = OnDevice { ticket: services.device.ticket(), lease: Default::default(), steps };
            let copied = picture.as_bytes().len();
            // Beside the picture: a copy to work on, and what comes of it, with what the last pass starts from.
            let mut held =
                services.memory.hold(Use::Pictures, copied + 2 * pictures::bytes(&picture, width, height))?;
            let made = services.upscalers.upscale((**picture).clone(), &request, &control)?;
            drop(picture);
            held.shrink(held.bytes().saturating_sub(made.as_bytes().len()));
            Ok::<_, Error>(held.with(made))
        });
        match done.await {
            Ok(Ok(made)) => Ok(self.picture(made).map_err(Into::into)),
            Ok(Err(error)) => Ok(Err(error.into())),
            Err(_) => Ok(Err(Error::internal("the network failed (a fault of the server)").into())),
        }
    }
}

/// Ties a computation's tiles to the job they are for.
struct Steps {
    turn: Turn,
    from: f32,
    span: f32,
}

/// Holds the device for one tile at a time.
struct OnDevice<'a> {
    ticket: Ticket<'a>,
    lease: Mutex<Option<Lease<'a>>>,
    steps: Steps,
}

impl Control for OnDevice<'_> {
    fn before_tile(&self) -> Result<(), Cancelled> {
        let lease = self.steps.turn.lease(&self.ticket).map_err(|_| Cancelled)?;
        *self.lease.lock() = Some(lease);
        Ok(())
    }

    fn make_room(&self) -> bool {
        self.ticket.device().room.make()
    }

    fn tile_done(&self, done: usize, total: usize) {
        *self.lease.lock() = None;
        if let Some(job) = &self.steps.turn.job {
            let fraction = self.steps.from + self.steps.span * done as f32 / total.max(1) as f32;
            let detail = serde_json::json!({"stage": "upscaling", "tile": done, "tiles": total});
            self.steps.turn.jobs.progress(job.id, fraction, detail.as_object().expect("an object").clone());
        }
    }
}
