//! How many files and sockets the process may have open.

/// Raises the limit as far as the system lets a process raise its own. Returns what it is then; `None` where there is none.
#[cfg(unix)]
pub fn raise() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!("the limit of open files can't be raised to {:?}: {error}", limit.maximum);
        }
    }
    allowed()
}

/// The limit as it is; `None` where there is none.
#[cfg(unix)]
pub fn allowed() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

#[cfg(not(unix))]
pub fn raise() -> Option<u64> {
    None
}

#[cfg(not(unix))]
pub fn allowed() -> Option<u64> {
    None
}

/// How many connections there may be of `wanted`, when `reserved` descriptors are left to other things. Where there are too
/// few for both, half of them are for connections.
pub fn for_connections(wanted: usize, reserved: usize) -> usize {
    share(wanted, reserved, allowed())
}

/// The same once [`raise`] has been called, which it is not for this.
pub fn possible(wanted: usize, reserved: usize) -> usize {
    share(wanted, reserved, maximum())
}

#[cfg(unix)]
fn maximum() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum
}

#[cfg(not(unix))]
fn maximum() -> Option<u64> {
    None
}

fn share(wanted: usize, reserved: usize, allowed: Option<u64>) -> usize {
    let Some(allowed) = allowed.and_then(|allowed| usize::try_from(allowed).ok()) else { return wanted };
    wanted.min(allowed.saturating_sub(reserved).max(allowed / 2)).max(1)
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn connections_leave_descriptors_to_others() {
        assert_eq!(share(1000, 256, None), 1000);
        assert_eq!(share(1000, 256, Some(20000)), 1000);
        assert_eq!(share(16384, 256, Some(1024)), 768);
        assert_eq!(share(16384, 256, Some(300)), 150);
        assert_eq!(share(16384, 256, Some(1)), 1);
    }

    #[cfg(unix)]
    #[test]
    fn the_limit_is_raised_to_what_is_allowed() {
        let raised = super::raise();
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        assert_eq!((raised, limit.current), (limit.maximum, limit.maximum));
    }
}
