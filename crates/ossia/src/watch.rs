//! Files that may change while the server runs: keys and certificates.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// How often files are looked at. Polling works where notifications do not: on network file systems, and where a file is
/// a link that is moved, as in Kubernetes.
const INTERVAL: Duration = Duration::from_secs(1);

/// Calls `reload` whenever one of the files has changed, for as long as the future is polled.
pub(crate) async fn on_change(paths: Vec<PathBuf>, mut reload: impl FnMut()) {
    let mut last = stamps(&paths);
    loop {
        tokio::time::sleep(INTERVAL).await;
        let now = stamps(&paths);
        if now != last {
            last = now;
            reload();
        }
    }
}

/// What tells that a file is another one than before.
fn stamps(paths: &[PathBuf]) -> Vec<Option<(SystemTime, u64)>> {
    let stamp = |path: &PathBuf| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    paths.iter().map(stamp).collect()
}
