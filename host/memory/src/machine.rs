//! How much memory the process can have.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Bytes of memory of the machine, or what its control group allows if that is less; none where neither is known.
pub fn available() -> Option<usize> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| of_meminfo(&text));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = of_groups(Path::new("/sys/fs/cgroup"), &groups);
    machine.into_iter().chain(group).min()
}

fn of_meminfo(text: &str) -> Option<usize> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The least limit of a process's groups and of those above them, by the lines `ID:CONTROLLERS:PATH` of `/proc/self/cgroup`.
fn of_groups(root: &Path, lines: &str) -> Option<usize> {
    let mut limits = Vec::new();
    for line in lines.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (folder, file): (PathBuf, _) = match controllers {
            "" => (root.into(), "memory.max"),
            _ if controllers.split(',').any(|one| one == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => continue,
        };
        // In a container the path is often the host's, and the container's own group is the root that it sees.
        for group in Path::new(path.trim_start_matches('/')).ancestors() {
            limits.extend(fs::read_to_string(folder.join(group).join(file)).ok());
        }
    }
    // `max` is no limit.
    limits.iter().filter_map(|limit| limit.trim().parse().ok()).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_says_what_it_has() {
        assert_eq!(of_meminfo("MemFree: 1 kB\nMemTotal:       16384 kB\n"), Some(16 << 20));
        assert_eq!(of_meminfo("MemFree: 1 kB\n"), None);
        if cfg!(target_os = "linux") {
            assert!(available().is_some_and(|bytes| bytes > 64 << 20));
        }
    }

    #[test]
    fn the_least_limit_of_the_groups_counts() {
        let root = std::env::temp_dir().join(format!("reverie-memory-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("a/memory.max", "300\n");
        write("a/b/memory.max", "max\n");
        write("memory/c/memory.limit_in_bytes", "200\n");
        assert_eq!(of_groups(&root, "0::/a/b\n"), Some(300));
        assert_eq!(of_groups(&root, "0::/a\n5:cpu,memory:/c\n"), Some(200));
        assert_eq!(of_groups(&root, "5:cpu:/c\n"), None);
        // The path is the host's.
        write("memory.max", "100\n");
        assert_eq!(of_groups(&root, "0::/docker/0123\n"), Some(100));
        fs::remove_dir_all(&root).unwrap();
    }
}
