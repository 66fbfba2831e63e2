//! Sizes on the command line, and how much memory the KV cache may take.

use std::fmt;
use std::str::FromStr;

use crate::cgroup;

const GIB: u64 = 1 << 30;

/// A number of bytes, written like `1500MB`, `2GiB` or `4096`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ByteSize(pub(crate) u64);

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let number: f64 = number.parse().map_err(|_| format!("'{text}' does not start with a number"))?;
        let unit = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            "g" | "gib" => GIB,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            other => return Err(format!("unknown unit '{other}': use KiB, MiB, GiB, KB, MB or GB")),
        };
        Ok(Self((number * unit as f64) as u64))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0 as f64;
        match self.0 {
            0..0x10_0000 => write!(f, "{:.1} KiB", bytes / 1024.0),
            0x10_0000..GIB => write!(f, "{:.1} MiB", bytes / (1 << 20) as f64),
            _ => write!(f, "{:.2} GiB", bytes / GIB as f64),
        }
    }
}

/// What the KV cache takes when no flag says: half of what is free beside the weights, at most 8 GiB,
/// and no more than the sequences that may run could ever fill.
pub(crate) fn default_kv_bytes(available: Option<u64>, weights: u64, useful: u64) -> u64 {
    let free = available.map_or(2 * GIB, |available| available.saturating_sub(weights) / 2);
    free.min(8 * GIB).min(useful)
}

/// Memory that this machine, and whoever limits this process on it, can still give, page cache included; `None` where the
/// system does not say.
pub(crate) fn available() -> Option<u64> {
    [of_machine(), cgroup::available()].into_iter().flatten().min()
}

fn of_machine() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The largest resident set that this process has had, in bytes; `None` where the system does not say.
pub(crate) fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_both_unit_systems() {
        for (text, expected) in [
            ("4096", Some(4096)),
            ("2GiB", Some(2 << 30)),
            ("1.5g", Some(3 << 29)),
            ("1500 MB", Some(1_500_000_000)),
            ("GiB", None),
            ("2 pints", None),
        ] {
            assert_eq!(text.parse::<ByteSize>().ok().map(|size| size.0), expected, "{text}");
        }
    }

    #[test]
    fn the_cache_takes_half_of_what_is_free_within_its_bounds() {
        assert_eq!(default_kv_bytes(Some(20 * GIB), 12 * GIB, u64::MAX), 4 * GIB);
        assert_eq!(default_kv_bytes(Some(64 * GIB), 12 * GIB, u64::MAX), 8 * GIB);
        assert_eq!(default_kv_bytes(Some(64 * GIB), 12 * GIB, GIB), GIB);
        assert_eq!(default_kv_bytes(Some(GIB), 12 * GIB, u64::MAX), 0);
    }
}
