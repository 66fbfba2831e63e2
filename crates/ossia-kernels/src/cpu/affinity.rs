//! On which cores compute threads run, and over which memory nodes their memory is spread, where somebody says so.

use std::io;
use std::sync::OnceLock;

/// The cores of [`pin_threads`].
static CORES: OnceLock<Vec<usize>> = OnceLock::new();

/// Has each compute thread run on one core: the thread that runs forward passes on the first, helpers on the others in turn.
/// To be called once, before the first pass.
///
/// # Errors
/// Names the first core that this process may not use; says so where the system cannot pin threads, or if it was called before.
pub fn pin_threads(cores: Vec<usize>) -> io::Result<()> {
    let allowed = system::allowed_cores()?;
    if let Some(core) = cores.iter().find(|core| !allowed.contains(core)) {
        let message = format!("core {core} is not one that this process may use ({allowed:?})");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    CORES.set(cores).map_err(|_| io::Error::other("threads are pinned already"))
}

/// Pins the calling thread, which is about to run a forward pass, if [`pin_threads`] said where.
pub fn pin_pass_thread() {
    thread_local! {
        static IS_PINNED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    }
    if CORES.get().is_some() && !IS_PINNED.replace(true) {
        pin(0);
    }
}

/// Pins the calling thread, the `idx`-th helper.
pub(super) fn pin_helper(idx: usize) {
    pin(idx + 1);
}

fn pin(idx: usize) {
    if let Some(cores) = CORES.get().filter(|cores| !cores.is_empty()) {
        // A core that has gone since costs speed only.
        let _ = system::run_on(cores[idx % cores.len()]);
    }
}

/// Spreads the pages that this thread and those that it starts will touch first over all memory nodes in turn; how many
/// there are. Pages that are in memory already stay where they are.
///
/// # Errors
/// The system's, which may not know nodes or not allow it.
pub fn interleave_memory() -> io::Result<usize> {
    system::interleave_memory()
}

#[cfg(target_os = "linux")]
mod system {
    use std::io;

    use super::parse_list;

    /// Cores of a set.
    const MAX_CORES: usize = libc::CPU_SETSIZE as usize;

    pub(super) fn allowed_cores() -> io::Result<Vec<usize>> {
        // SAFETY: a set of no cores is all zeros, and is as large as is said.
        let set = unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            match libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) {
                0 => set,
                _ => return Err(io::Error::last_os_error()),
            }
        };
        // SAFETY: cores are within the set.
        Ok((0..MAX_CORES).filter(|&core| unsafe { libc::CPU_ISSET(core, &set) }).collect())
    }

    pub(super) fn run_on(core: usize) -> io::Result<()> {
        // SAFETY: as above; the core is one that was allowed, within the set.
        let failed = unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(core, &mut set);
            libc::sched_setaffinity(0, size_of_val(&set), &raw const set)
        };
        if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    pub(super) fn interleave_memory() -> io::Result<usize> {
        /// Nodes of a mask, as many as the kernel may be built for.
        const MAX_NODES: usize = 1024;
        const BITS: usize = u64::BITS as usize;
        let online = std::fs::read_to_string("/sys/devices/system/node/online")?;
        let nodes = parse_list(online.trim()).map_err(io::Error::other)?;
        let mut mask = [0u64; MAX_NODES / BITS];
        for &node in nodes.iter().filter(|node| **node < MAX_NODES) {
            mask[node / BITS] |= 1 << (node % BITS);
        }
        // SAFETY: the mask has the bits that are said; the kernel takes one less than it is told.
        let failed = unsafe {
            libc::syscall(libc::SYS_set_mempolicy, libc::MPOL_INTERLEAVE, mask.as_ptr(), MAX_NODES + 1)
        };
        if failed == 0 { Ok(nodes.len()) } else { Err(io::Error::last_os_error()) }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::io;

    pub(super) fn allowed_cores() -> io::Result<Vec<usize>> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }

    pub(super) fn run_on(_: usize) -> io::Result<()> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }

    pub(super) fn interleave_memory() -> io::Result<usize> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }
}

/// Numbers as `taskset` and the kernel write them: `0-3,8`.
///
/// # Errors
/// Says which part is not a number or a range.
pub fn parse_list(list: &str) -> Result<Vec<usize>, String> {
    let mut numbers = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        match (first.trim().parse::<usize>(), last.trim().parse::<usize>()) {
            (Ok(first), Ok(last)) if first <= last && last - first < 1 << 16 => numbers.extend(first..=last),
            _ => return Err(format!("`{part}` is not a number or a range such as 0-3")),
        }
    }
    Ok(numbers)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_numbers_and_ranges() {
        assert_eq!(parse_list("0-3,8").unwrap(), [0, 1, 2, 3, 8]);
        assert_eq!(parse_list("5").unwrap(), [5]);
        for bad in ["", "a", "3-1", "1-", "0-99999999", "1,,2"] {
            assert!(parse_list(bad).unwrap_err().contains("is not a number"), "{bad}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_pinned_thread_runs_on_its_core_and_the_others_anywhere() {
        let cores = system::allowed_cores().unwrap();
        let last = *cores.last().unwrap();
        let on_core = std::thread::spawn(move || {
            system::run_on(last).unwrap();
            (0..100).all(|_| {
                std::thread::yield_now();
                // SAFETY: asks for a number.
                unsafe { libc::sched_getcpu() == last as i32 }
            })
        });
        assert!(on_core.join().unwrap());
        assert_eq!(system::allowed_cores().unwrap(), cores);
        let refused = pin_threads(vec![cores[0], 100_000]).unwrap_err();
        assert!(refused.to_string().contains("core 100000"), "{refused}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_may_be_spread() {
        // In a thread of its own, which is what it holds for. A container may forbid it.
        let answer = std::thread::spawn(interleave_memory).join().unwrap();
        match answer {
            Ok(nodes) => assert!(nodes > 0),
            Err(error) => {
                assert!(matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS)), "{error}")
            }
        }
    }
}
