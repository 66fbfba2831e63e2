//! How much memory the control groups of this process leave it. Containers, pods and systemd units have such limits, and
//! whoever passes one is killed, however much memory the machine has.

use std::path::Path;

/// Memory that all groups of this process can still give; `None` where there are no groups.
pub(crate) fn available() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    available_under(Path::new("/sys/fs/cgroup"), &groups)
}

/// `groups` has a line per hierarchy, `ID:CONTROLLERS:PATH`; the second version of groups has one hierarchy without
/// controllers.
fn available_under(root: &Path, groups: &str) -> Option<u64> {
    let left = groups.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        match rest.split_once(':')? {
            ("", path) => smallest(root, path, &V2),
            (controllers, path) if controllers.split(',').any(|name| name == "memory") => {
                smallest(&root.join("memory"), path, &V1)
            }
            _ => None,
        }
    });
    left.min()
}

/// How a version calls what it counts.
struct Names {
    limit: &'static str,
    usage: &'static str,
    /// Fields of `memory.stat`: pages of files, which are given back when they are needed.
    files: [&'static str; 2],
}

const V1: Names = Names {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    files: ["total_inactive_file", "total_active_file"],
};
const V2: Names =
    Names { limit: "memory.max", usage: "memory.current", files: ["inactive_file", "active_file"] };

/// The least of what a group and those above it leave. In a container the path may be one that only the host sees; then
/// its own group is the root.
fn smallest(root: &Path, path: &str, names: &Names) -> Option<u64> {
    let dir = root.join(path.trim_start_matches('/'));
    let dirs = dir.ancestors().take_while(|dir| dir.starts_with(root));
    dirs.filter_map(|dir| left(dir, names)).min()
}

/// What one group leaves; `None` if it has no limit.
fn left(dir: &Path, names: &Names) -> Option<u64> {
    let number = |name| std::fs::read_to_string(dir.join(name)).ok()?.trim().parse::<u64>().ok();
    let limit = number(names.limit)?;
    let stat = std::fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
    let field = |name: &str| {
        let line = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    let files: u64 = names.files.iter().map(|name| field(name)).sum();
    let used = number(names.usage).unwrap_or(0).saturating_sub(files);
    Some(limit.saturating_sub(used))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (name, text) in files {
            let path = root.join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            std::fs::write(path, text).expect("written");
        }
    }

    #[test]
    fn the_tightest_group_counts_and_pages_of_files_do_not() {
        let root = tempfile::tempdir().expect("a directory");
        write(
            root.path(),
            &[
                ("a/memory.max", "1000\n"),
                ("a/memory.current", "700\n"),
                ("a/memory.stat", "anon 100\ninactive_file 400\nactive_file 100\n"),
                ("a/b/memory.max", "max\n"),
                ("a/b/memory.current", "10\n"),
            ],
        );
        assert_eq!(available_under(root.path(), "0::/a/b\n"), Some(800));
        assert_eq!(available_under(root.path(), "0::/c\n"), None, "no limit");
        write(root.path(), &[("memory.max", "500\n"), ("memory.current", "450\n")]);
        assert_eq!(available_under(root.path(), "0::/seen/by/the/host\n"), Some(50), "in a container");
    }

    #[test]
    fn the_first_version_has_a_hierarchy_of_its_own() {
        let root = tempfile::tempdir().expect("a directory");
        write(
            root.path(),
            &[
                ("memory/x/memory.limit_in_bytes", "1000"),
                ("memory/x/memory.usage_in_bytes", "300"),
                ("memory/x/memory.stat", "total_inactive_file 50\n"),
            ],
        );
        let groups = "4:cpu,cpuacct:/x\n3:memory:/x\n0::/x\n";
        assert_eq!(available_under(root.path(), groups), Some(750));
    }
}
