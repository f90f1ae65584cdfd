//! Room on the device: where something does not fit, what is idle is dropped, and it is tried once more.

use std::sync::OnceLock;

use crate::error::{Error, ErrorKind};

/// An error that may be for want of memory.
pub trait MayBeFull {
    /// What the device said, where it is.
    fn full(&self) -> Option<&reverie_kernels::Error>;
}

impl MayBeFull for reverie_kernels::Error {
    fn full(&self) -> Option<&reverie_kernels::Error> {
        matches!(self, Self::OutOfMemory { .. }).then_some(self)
    }
}

impl MayBeFull for reverie_models::Error {
    fn full(&self) -> Option<&reverie_kernels::Error> {
        if let Self::Backend(error) = self { error.full() } else { None }
    }
}

/// Who can make room.
#[derive(Default)]
pub struct Room {
    drop_idle: OnceLock<Box<dyn Fn() -> bool + Send + Sync>>,
}

impl Room {
    /// Sets, once, what drops all that is on the device and that nobody uses at the moment, and says whether there was any.
    pub fn made_by(&self, drop_idle: impl Fn() -> bool + Send + Sync + 'static) {
        let _ = self.drop_idle.set(Box::new(drop_idle));
    }

    /// Drops what is idle; whether there was any.
    pub fn make(&self) -> bool {
        let made = self.drop_idle.get().is_some_and(|drop_idle| drop_idle());
        if made {
            tracing::warn!("the device is full: models that nobody uses at the moment were dropped");
        }
        made
    }

    /// What `work` gives, at its second try where the device was full at the first and something was idle. Nothing may have
    /// changed then that the second try needs.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn retry<T, E: MayBeFull>(&self, mut work: impl FnMut() -> Result<T, E>) -> Result<T, E> {
        match work() {
            Err(error) if error.full().is_some() && self.make() => work(),
            done => done,
        }
    }
}

/// The error of the job that did not fit, with what the operator can set; none where that is not what `error` is. `what` says
/// what was to be done.
pub fn full(what: &str, error: &impl MayBeFull) -> Option<Error> {
    let error = error.full()?;
    let message = format!(
        "{what}: {error}, though what was idle has been dropped. A larger execution.vram_budget_mb allows more, as far as the \
         device has it; smaller pictures, diffusion.max_batch, execution.tile and execution.lanes need less"
    );
    Some(Error::new(ErrorKind::Unavailable, message))
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    };

    use super::*;

    type Result<T> = std::result::Result<T, reverie_kernels::Error>;

    /// Of so many bytes, as an error of a device with this many.
    fn take(bytes: usize, left: &AtomicUsize) -> Result<usize> {
        let full = |budget| reverie_kernels::Error::OutOfMemory {
            device: "a small one".into(),
            what: format!("{bytes} bytes"),
            budget,
        };
        left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(bytes)).map_err(full)
    }

    #[test]
    fn what_does_not_fit_is_tried_once_more_when_something_was_idle() {
        let (room, left, idle) =
            (Room::default(), Arc::new(AtomicUsize::new(10)), Arc::new(AtomicUsize::new(5)));
        assert!(room.retry(|| take(11, &left)).is_err(), "nobody can make room");
        let (to, from) = (left.clone(), idle.clone());
        room.made_by(move || {
            let dropped = from.swap(0, Relaxed);
            to.fetch_add(dropped, Relaxed);
            dropped > 0
        });
        let mut tries = 0;
        let mut attempt = |bytes| {
            tries = 0;
            room.retry(|| {
                tries += 1;
                take(bytes, &left)
            })
            .map(|_| tries)
            .map_err(|error| (error, tries))
        };
        assert_eq!(attempt(10), Ok(1), "what fits drops nothing");
        assert_eq!(idle.load(Relaxed), 5);
        assert_eq!(attempt(4), Ok(2));
        // 1 is left, and nothing is idle any more.
        assert_eq!(attempt(2).unwrap_err().1, 1);
        idle.store(5, Relaxed);
        let (error, tries) = attempt(7).unwrap_err();
        assert_eq!(tries, 2, "and no more");
        let error = full("model 'large'", &error).unwrap();
        assert_eq!(error.kind, ErrorKind::Unavailable);
        for part in ["model 'large'", "a small one", "7 bytes", "the budget is 6 bytes", "vram_budget_mb"] {
            assert!(error.message.contains(part), "{}", error.message);
        }
    }

    #[test]
    fn other_errors_are_no_reason_to_drop_anything() {
        let room = Room::default();
        room.made_by(|| panic!("not asked for"));
        let lost = reverie_kernels::Error::Device { device: "it".into(), what: "gone".into(), lost: true };
        let error = room.retry(|| Err::<(), _>(reverie_models::Error::Backend(lost.clone()))).unwrap_err();
        assert!(full("a model", &error).is_none());
    }
}
