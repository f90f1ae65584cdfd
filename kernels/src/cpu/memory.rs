//! How much memory the process can still have.

/// The bytes that the machine has available, or the control group that the process is in where that has fewer; none where the
/// system does not say.
pub(super) fn free() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let machine = available(&text)?;
    Some(control_group().map_or(machine, |group| group.min(machine)))
}

/// `MemAvailable` of `/proc/meminfo`, which is in KiB.
fn available(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// What is left of a limit of control groups, version 2; "max" is none.
fn control_group() -> Option<u64> {
    let read = |name: &str| -> Option<u64> {
        std::fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok()?.trim().parse().ok()
    };
    Some(read("memory.max")?.saturating_sub(read("memory.current")?))
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_available_is_read() {
        let text = "MemTotal:       24000 kB\nMemFree:         1000 kB\nMemAvailable:   12000 kB\n";
        assert_eq!(super::available(text), Some(12000 * 1024));
        assert_eq!(super::available("MemTotal: 1 kB"), None);
        if cfg!(target_os = "linux") {
            assert!(super::free().is_some_and(|free| free > 0));
        }
    }
}
