//! The allocator keeps what was freed for later: after a crowd has left, megabytes that other processes could use.

/// Gives free memory back to the system. It takes some milliseconds, and whoever allocates meanwhile may wait for it.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn give_back() {
    // SAFETY: it has no other arguments than how much to keep at the end of the heap, may be called by any thread at any time,
    // and touches nothing that is in use.
    unsafe { libc::malloc_trim(0) };
}

/// Gives free memory back to the system, where the allocator does not do so by itself.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn give_back() {}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::give_back;

    fn resident_kb() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[test]
    fn what_was_freed_is_given_back() {
        let mut small: Vec<Option<Box<[u8; 4000]>>> =
            (0..20_000).map(|_| Some(Box::new([1; 4000]))).collect();
        // One that stays at the end of the heap keeps the others there.
        for one in small.iter_mut().take(19_999) {
            *one = None;
        }
        let freed = resident_kb();
        give_back();
        let given_back = resident_kb();
        assert!(given_back + 60_000 < freed, "from {freed} to {given_back} kB");
        assert!(small.last().is_some_and(Option::is_some));
    }
}
