//! Models in memory: loaded when they are first asked for, shared, and dropped when others need the room.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use reverie_models::{Adapters, LayerCache, Lora, ModelFiles, pipeline::Pipeline};

use super::Control;
use crate::{
    error::Error,
    execution::{AnyBackend, Lane, Room, backend, room},
};

/// Sets of adapters that one model is kept with.
const VARIANTS: usize = 3;

/// How often whoever waits for another's load looks whether it still shall.
const LOOK: Duration = Duration::from_millis(50);

/// Who a model is loaded for: hears of it, and may be stopped.
pub type For<'a> = Option<(&'a dyn Control, &'a (dyn Fn(f32) + Sync))>;

/// A model with a set of adapters, ready to make pictures.
pub struct Model {
    pub pipeline: Pipeline<AnyBackend>,
    /// What its adapters lose, in sentences; [`Pipeline::warnings`] has them, too.
    pub adapter_warnings: Vec<String>,
    /// Where its pictures meet.
    pub lane: Lane,
    base: Arc<Base>,
}

/// What the variants of a model share: its lane of the device, its files, and the layers that no adapter touches.
struct Base {
    backend: Arc<AnyBackend>,
    path: PathBuf,
    /// In place of the model's own.
    vae: Option<PathBuf>,
    files: ModelFiles,
    layers: LayerCache<AnyBackend>,
    bytes: u64,
}

/// A file of adapters and its strength.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    pub name: String,
    pub path: PathBuf,
    /// Length and time of the file: another one of the same name is another adapter.
    pub version: (u64, SystemTime),
    pub strength: f64,
}

#[derive(Default)]
struct Shelf {
    slots: Vec<Slot>,
    clock: u64,
}

struct Slot {
    base: Arc<Base>,
    adapters: Vec<Adapter>,
    model: Arc<Model>,
    used: u64,
}

/// All models in memory.
pub struct Library {
    /// What is dropped waits for the device: never under this lock, which others take to see what is loaded.
    shelf: Mutex<Shelf>,
    /// One model is loaded at a time.
    loading: Mutex<()>,
    budget: u64,
}

impl Library {
    /// Models of `budget` bytes in all, and always one.
    pub fn new(budget: u64) -> Self {
        Self { shelf: Mutex::default(), loading: Mutex::default(), budget }
    }

    /// The model of a file or folder with its adapters; loads it where it is not in memory. Requests that have it go on with
    /// it when it is dropped here.
    ///
    /// # Errors
    /// `InvalidInput` for adapters that do not fit and for models that are not supported, are broken or lack files; `Unavailable` where its weights do not fit on the device, not even without what is idle. The message
    /// names them and what is wrong. `Cancelled` where whom it is for was stopped.
    pub fn get(
        &self,
        backend: &Arc<AnyBackend>,
        room: &Room,
        path: &Path,
        vae: Option<&Path>,
        adapters: &[Adapter],
        whom: For,
    ) -> Result<Arc<Model>, Error> {
        if let Some(model) = self.find(path, vae, adapters) {
            return Ok(model);
        }
        let stopped = || whom.is_some_and(|(control, _)| control.stopped());
        // A load that panicked has left nothing behind.
        let _loading = loop {
            match self.loading.try_lock_for(LOOK) {
                Some(loading) => break loading,
                None if stopped() => return Err(Error::cancelled()),
                None => {}
            }
        };
        // Another request may have loaded it meanwhile.
        if let Some(model) = self.find(path, vae, adapters) {
            return Ok(model);
        }
        let base =
            self.shelf.lock().slots.iter().find(|slot| slot.base.is(path, vae)).map(|s| s.base.clone());
        let base = match base {
            Some(base) => base,
            None => Arc::new(self.open(backend, path, vae)?),
        };
        let began = std::time::Instant::now();
        let loras = adapters
            .iter()
            .map(|adapter| Ok((Arc::new(Lora::open(&adapter.path)?), adapter.strength as f32)));
        let loras = loras.collect::<Result<Vec<_>, _>>().map_err(error)?;
        let added =
            Adapters::for_model(&base.files, &loras).map_err(|e| Error::invalid(format!("loras: {e}")))?;
        if let [first, ..] = added.unmatched() {
            let count = added.unmatched().len();
            tracing::warn!(model = %path.display(), "{count} tensors of its LoRAs fit no layer and are left out, such as {first}");
        }
        // What a first try has prepared is kept for the second.
        let tell = |part: f32| {
            if let Some((_, tell)) = whom {
                tell(part);
            }
            if stopped() { Err(reverie_models::Error::Invalid("stopped".into())) } else { Ok(()) }
        };
        let load = || Pipeline::load_and_tell(&*base.backend, &base.files, &base.layers, &added, &tell);
        let pipeline = match room.retry(load) {
            Err(_) if stopped() => return Err(Error::cancelled()),
            loaded => loaded.map_err(|error| base.error(error))?,
        };
        tracing::info!(model = %path.display(), adapters = adapters.len(), "model loaded in {:.1} s", began.elapsed().as_secs_f32());
        let adapter_warnings = added.warnings().collect();
        let model = Arc::new(Model { pipeline, adapter_warnings, lane: Lane::default(), base: base.clone() });
        let mut shelf = self.shelf.lock();
        let used = shelf.tick();
        shelf.slots.push(Slot { base, adapters: adapters.to_vec(), model: model.clone(), used });
        let dropped = shelf.make_room(self.budget, 1);
        drop(shelf);
        drop(dropped);
        Ok(model)
    }

    fn open(&self, backend: &Arc<AnyBackend>, path: &Path, vae: Option<&Path>) -> Result<Base, Error> {
        let mut files = ModelFiles::open(path).map_err(error)?;
        if let Some(vae) = vae {
            files.vae = ModelFiles::open_vae(vae).map_err(error)?;
        }
        let bytes = files.resident_bytes();
        // Room is made before it is taken.
        let dropped = self.shelf.lock().make_room(self.budget.saturating_sub(bytes), 0);
        drop(dropped);
        let vae = vae.map(Path::to_owned);
        let backend = backend::lane(backend).map_err(|e| Error::internal(e.to_string()))?;
        Ok(Base { backend, path: path.to_owned(), vae, files, layers: LayerCache::default(), bytes })
    }

    fn find(&self, path: &Path, vae: Option<&Path>, adapters: &[Adapter]) -> Option<Arc<Model>> {
        let mut shelf = self.shelf.lock();
        let used = shelf.tick();
        let slot =
            shelf.slots.iter_mut().find(|slot| slot.base.is(path, vae) && slot.adapters == adapters)?;
        slot.used = used;
        Some(slot.model.clone())
    }

    /// Whether its lock, and those of its models, are given free within `patience` each. To be called where dropping a model may
    /// take a while.
    pub fn answers(&self, patience: Duration) -> bool {
        let Some(shelf) = self.shelf.try_lock_for(patience) else { return false };
        let models: Vec<Arc<Model>> = shelf.slots.iter().map(|slot| slot.model.clone()).collect();
        drop(shelf);
        models.iter().all(|model| model.lane.answers(patience))
    }

    /// Paths and bytes of the models in memory, the last used first.
    pub fn loaded(&self) -> Vec<(PathBuf, u64)> {
        let shelf = self.shelf.lock();
        let mut slots: Vec<&Slot> = shelf.slots.iter().collect();
        slots.sort_by_key(|slot| std::cmp::Reverse(slot.used));
        let mut loaded: Vec<(PathBuf, u64)> = Vec::new();
        for slot in slots {
            if !loaded.iter().any(|(path, _)| *path == slot.base.path) {
                loaded.push((slot.base.path.clone(), slot.base.bytes));
            }
        }
        loaded
    }

    /// Drops the models that no request has; whether there were any.
    pub fn drop_idle(&self) -> bool {
        let mut shelf = self.shelf.lock();
        // Those that requests have may be taken only from the shelf: under its lock, no idle one is.
        let idle: Vec<Slot> =
            shelf.slots.extract_if(.., |slot| Arc::strong_count(&slot.model) == 1).collect();
        drop(shelf);
        !idle.is_empty()
    }

    /// Drops all models: those whose files may have changed are read anew.
    pub fn clear(&self) {
        let dropped = std::mem::take(&mut self.shelf.lock().slots);
        drop(dropped);
    }
}

impl Model {
    /// The model's lane of the device.
    pub fn backend(&self) -> &AnyBackend {
        &self.base.backend
    }

    /// An error of the model as one of the host's.
    pub fn error(&self, error: reverie_models::Error) -> Error {
        self.base.error(error)
    }
}

impl Base {
    fn error(&self, error: reverie_models::Error) -> Error {
        let what = format!("model '{}' with {} MiB of weights", self.path.display(), self.bytes >> 20);
        room::full(&what, &error).unwrap_or_else(|| self::error(error))
    }

    fn is(&self, path: &Path, vae: Option<&Path>) -> bool {
        self.path == path && self.vae.as_deref() == vae
    }
}

impl Shelf {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Takes what was used longest ago from the shelf until `budget` is kept and no model has more than `VARIANTS`, for the caller
    /// to drop. The `least` last used stay in any case.
    fn make_room(&mut self, budget: u64, least: usize) -> Vec<Slot> {
        self.slots.sort_by_key(|slot| std::cmp::Reverse(slot.used));
        let (mut kept, mut excess): (Vec<Slot>, Vec<Slot>) = Default::default();
        let mut bytes = 0;
        for slot in self.slots.drain(..) {
            let variants = kept.iter().filter(|other| Arc::ptr_eq(&other.base, &slot.base)).count();
            let encodings = slot.model.pipeline.encodings().bytes() as u64;
            let more = encodings + if variants == 0 { slot.base.bytes } else { 0 };
            if kept.len() < least || variants < VARIANTS && bytes + more <= budget {
                bytes += more;
                kept.push(slot);
            } else {
                excess.push(slot);
            }
        }
        self.slots = kept;
        excess
    }
}

/// What a model can be made of, for what is missing or does not fit.
const ACCEPTED: &str = "; accepted are whole diffusers folders and single-file checkpoints (*.safetensors) of Stable Diffusion 1, 2 \
    and SDXL, in F32, F16 or BF16";

/// A model's error as one of the host's.
pub fn error(error: reverie_models::Error) -> Error {
    match error {
        // The device.
        reverie_models::Error::Backend(e) => Error::internal(e.to_string()),
        reverie_models::Error::Invalid(e) | reverie_models::Error::Unsupported(e) => Error::invalid(e),
        e => {
            let e = e.to_string();
            let accepted = if e.contains("accepted") { "" } else { ACCEPTED };
            Error::invalid(format!("{e}{accepted}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use image::RgbImage;
    use serde_json::{Map, Value};
    use uuid::Uuid;

    use crate::{embedded::Embedded, error::ErrorKind};

    use super::*;

    #[test]
    fn idle_models_make_room_and_those_in_use_stay() {
        let folder = tempfile::tempdir().unwrap();
        let embedded = Embedded::new(folder.path());
        embedded.unpack().unwrap();
        let (backend, library) = (backend::cpu(2), Library::new(u64::MAX));
        let get = || library.get(&backend, &Room::default(), &embedded.model(), None, &[], None).unwrap();
        let model = get();
        assert!(!library.drop_idle() && library.loaded().len() == 1);
        assert!(Arc::ptr_eq(&model, &get()));
        let full = reverie_kernels::Error::OutOfMemory {
            device: "a GPU".into(),
            what: "77 bytes".into(),
            budget: 100,
        };
        let error = model.error(full.into());
        assert_eq!(error.kind, ErrorKind::Unavailable);
        for part in ["emoji", "MiB of weights", "a GPU", "77 bytes", "execution.vram_budget_mb"] {
            assert!(error.message.contains(part), "{}", error.message);
        }
        drop(model);
        assert!(library.drop_idle() && library.loaded().is_empty());
        assert!(!library.drop_idle());
    }

    /// Somebody who is stopped after having heard so often how far a load is.
    struct StoppedAfter(usize, AtomicUsize);

    impl Control for StoppedAfter {
        fn priority(&self) -> i64 {
            0
        }
        fn stopped(&self) -> bool {
            self.1.load(Ordering::Relaxed) > self.0
        }
        fn background(&self) -> bool {
            false
        }
        fn yields(&self) -> bool {
            false
        }
        fn job(&self) -> Option<Uuid> {
            None
        }
        fn waited(&self, _: Duration) {}
        fn progress(&self, _: f32, _: Map<String, Value>) {
            self.1.fetch_add(1, Ordering::Relaxed);
        }
        fn wants_previews(&self) -> bool {
            false
        }
        fn preview(&self, _: usize, _: RgbImage) {}
    }

    #[test]
    fn whoever_is_stopped_loads_no_further() {
        let folder = tempfile::tempdir().unwrap();
        let embedded = Embedded::new(folder.path());
        embedded.unpack().unwrap();
        let (backend, library) = (backend::cpu(2), Library::new(u64::MAX));
        let get = |most: usize| {
            let control = StoppedAfter(most, AtomicUsize::new(0));
            let tell = |_: f32| control.progress(0.0, Map::new());
            let whom: For = Some((&control, &tell));
            let got = library.get(&backend, &Room::default(), &embedded.model(), None, &[], whom);
            (got.map(drop), control.1.load(Ordering::Relaxed))
        };
        let (stopped, told) = get(5);
        assert_eq!((stopped.unwrap_err().kind, told), (ErrorKind::Cancelled, 6));
        assert!(library.loaded().is_empty());
        // So does whoever waits for another's load.
        let loading = library.loading.lock();
        let control = StoppedAfter(0, AtomicUsize::new(1));
        let whom: For = Some((&control, &|_| {}));
        let waiting = library.get(&backend, &Room::default(), &embedded.model(), None, &[], whom);
        assert_eq!(waiting.map(drop).unwrap_err().kind, ErrorKind::Cancelled);
        drop(loading);
        let (loaded, told) = get(1000);
        assert!(loaded.is_ok() && told > 20, "{told}");
    }
}
