//! What a call has of memory: its guest's own, and all that the host holds for it. Both count against `memory_mb` of the plugin,
//! and are taken from the server's budget.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use reverie_memory::{Budget, Held, Refused, Use};

use crate::error::{Error, ErrorKind};

/// Bytes up to which a value that is there for a moment, or one message, is not counted: there are few at a time.
pub const SMALL: usize = 4096;

/// The memory of one call. Clones are the same memory.
#[derive(Clone)]
pub struct Memory(Arc<Account>);

struct Account {
    /// Empty while a manifest is being read.
    plugin: Arc<str>,
    limit: usize,
    used: AtomicUsize,
    budget: Arc<Budget>,
}

impl Memory {
    /// For a call of `plugin`, `limit` bytes at most.
    pub fn new(plugin: Arc<str>, limit: usize, budget: Arc<Budget>) -> Self {
        Self(Arc::new(Account { plugin, limit, used: AtomicUsize::new(0), budget }))
    }

    /// A part without any bytes yet.
    pub fn nothing(&self) -> Part {
        Part { account: self.0.clone(), counted: 0, held: self.0.budget.nothing(Use::Plugins) }
    }

    /// Takes so many bytes.
    ///
    /// # Errors
    /// Over the plugin's limit, or the server's.
    pub fn take(&self, bytes: usize) -> Result<Part, Exhausted> {
        let mut part = self.nothing();
        part.grow(bytes)?;
        Ok(part)
    }

    /// Takes so many bytes of what holds memory of the server already, such as a picture.
    ///
    /// # Errors
    /// Over the plugin's limit.
    pub fn count(&self, bytes: usize) -> Result<Part, Exhausted> {
        let mut part = self.nothing();
        part.count(bytes)?;
        Ok(part)
    }

    /// Whether there is room for a value of so many bytes that is only passed to the guest, whose memory counts then.
    ///
    /// # Errors
    /// Over the plugin's limit, or the server's.
    pub fn check(&self, bytes: usize) -> Result<(), Exhausted> {
        if bytes <= SMALL { Ok(()) } else { self.take(bytes).map(drop) }
    }
}

/// Memory of a call, until it is dropped, which may be after the call's end.
pub struct Part {
    account: Arc<Account>,
    counted: usize,
    held: Held,
}

impl Part {
    /// Takes so many bytes more.
    ///
    /// # Errors
    /// Those of [`Memory::take`]; what it had before it still has.
    pub fn grow(&mut self, more: usize) -> Result<(), Exhausted> {
        self.count(more)?;
        self.held.grow(more).map_err(|refused| {
            self.uncount(more);
            Exhausted::Server(refused)
        })
    }

    /// Takes so many bytes more of what holds memory of the server already.
    ///
    /// # Errors
    /// Those of [`Memory::count`]; what it had before it still has.
    pub fn count(&mut self, more: usize) -> Result<(), Exhausted> {
        let Account { plugin, limit, used, .. } = &*self.account;
        let raised = |used: usize| used.checked_add(more).filter(|sum| sum <= limit);
        used.fetch_update(Relaxed, Relaxed, raised)
            .map_err(|_| Exhausted::Plugin { plugin: plugin.clone(), limit: *limit })?;
        self.counted += more;
        Ok(())
    }

    /// Gives so many bytes back, at most those that it took.
    pub fn shrink(&mut self, less: usize) {
        let less = less.min(self.held.bytes());
        self.held.shrink(less);
        self.uncount(less);
    }

    /// Bytes that it has.
    pub fn bytes(&self) -> usize {
        self.counted
    }

    /// The same, of what from now on holds memory of the server by itself, such as a message that waits to be sent.
    pub fn shared(mut self) -> Self {
        self.held.shrink(self.held.bytes());
        self
    }

    fn uncount(&mut self, less: usize) {
        self.account.used.fetch_sub(less, Relaxed);
        self.counted -= less;
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.account.used.fetch_sub(self.counted, Relaxed);
    }
}

/// Memory that a call did not get. As a trap it ends the call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exhausted {
    Plugin { plugin: Arc<str>, limit: usize },
    Server(Refused),
}

impl Exhausted {
    /// Of the error of a call that it ended.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Plugin { .. } => ErrorKind::Internal,
            Self::Server(_) => ErrorKind::Unavailable,
        }
    }
}

impl fmt::Display for Exhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plugin { plugin, limit } => {
                write!(f, "ran out of memory (")?;
                match plugin.is_empty() {
                    true => write!(f, "plugin_runtime.limits")?,
                    false => write!(f, "plugins.{plugin}")?,
                }
                write!(f, ".memory_mb = {})", limit >> 20)
            }
            Self::Server(refused) => write!(f, "ran out of memory: {refused}"),
        }
    }
}

impl std::error::Error for Exhausted {}

impl From<Exhausted> for Error {
    fn from(exhausted: Exhausted) -> Self {
        match &exhausted {
            Exhausted::Plugin { plugin, .. } => {
                Error::new(ErrorKind::TooLarge, format!("plugin '{plugin}' {exhausted}"))
            }
            Exhausted::Server(refused) => Error::from(*refused),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_has_its_limit_and_the_servers() {
        let budget = Budget::new(100);
        let (small, large) = (
            Memory::new("small".into(), 60, budget.clone()),
            Memory::new("large".into(), 200, budget.clone()),
        );
        let mut part = small.take(40).unwrap();
        assert_eq!(small.take(21).err(), Some(Exhausted::Plugin { plugin: "small".into(), limit: 60 }));
        assert_eq!(budget.used(), 40, "what the plugin did not get is not taken from the server's either");
        assert!(matches!(large.take(61), Err(Exhausted::Server(_))));
        let rest = large.take(60).unwrap();
        assert!(matches!(part.grow(1), Err(Exhausted::Server(_))));
        assert_eq!(part.bytes(), 40);
        drop(rest);
        assert!(large.take(60).is_ok(), "what the server did not give was not counted");
        part.shrink(30);
        assert_eq!((part.bytes(), budget.used()), (10, 10));
        assert!(small.take(50).is_ok() && small.take(51).is_err());
        drop(part);
        assert_eq!((budget.used(), small.0.used.load(Relaxed)), (0, 0));
    }

    #[test]
    fn what_holds_memory_itself_counts_for_the_plugin_alone() {
        let budget = Budget::new(100);
        let memory = Memory::new("one".into(), 1000, budget.clone());
        let mut part = memory.count(500).unwrap();
        part.grow(50).unwrap();
        assert_eq!((part.bytes(), budget.used()), (550, 50));
        assert!(matches!(memory.count(451), Err(Exhausted::Plugin { .. })));
        let part = part.shared();
        assert_eq!((part.bytes(), budget.used()), (550, 0));
        assert!(memory.count(451).is_err() && memory.count(450).is_ok());
        drop(part);
        assert!(memory.count(1000).is_ok());
    }

    #[test]
    fn errors_name_the_key() {
        let error = |name: &str| Exhausted::Plugin { plugin: name.into(), limit: 64 << 20 };
        assert_eq!(error("sr").to_string(), "ran out of memory (plugins.sr.memory_mb = 64)");
        assert_eq!(error("").to_string(), "ran out of memory (plugin_runtime.limits.memory_mb = 64)");
        let result = Error::from(error("sr"));
        assert_eq!(result.message, "plugin 'sr' ran out of memory (plugins.sr.memory_mb = 64)");
        assert_eq!(result.kind, ErrorKind::TooLarge);
    }
}
