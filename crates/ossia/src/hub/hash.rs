//! Hashes of files as the hub names them: SHA-256 of large files, git's SHA-1 of small ones.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// Compares a file with a hash of the hub: 64 digits are SHA-256, 40 are git's SHA-1. Others say nothing, as some
/// mirrors give; that is a warning.
pub(super) fn check(path: &Path, expected: &str) -> Result<()> {
    let found = match expected.len() {
        64 => sha256(path)?,
        40 => {
            let size = path.metadata().with_context(|| format!("cannot open {}", path.display()))?.len();
            hex::<Sha1>(path, &format!("blob {size}\0"))?
        }
        _ => {
            tracing::warn!("{}: the hub gave no hash, so it was not verified", path.display());
            return Ok(());
        }
    };
    ensure!(found == expected, "{}: hash mismatch: expected {expected}, found {found}", path.display());
    Ok(())
}

/// Compares a file of a snapshot with the hash that is the name of its blob.
pub(super) fn check_blob(path: &Path) -> Result<()> {
    let blob = path.canonicalize().with_context(|| format!("cannot open {}", path.display()))?;
    let expected = blob.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    check(path, &expected)
}

/// The SHA-256 of a file, in hexadecimal digits.
pub(super) fn sha256(path: &Path) -> Result<String> {
    hex::<Sha256>(path, "")
}

/// Digest of a header and a file.
fn hex<D: Digest>(path: &Path, header: &str) -> Result<String> {
    let failed = || format!("cannot read {}", path.display());
    let mut file = File::open(path).with_context(failed)?;
    let mut digest = D::new();
    digest.update(header);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).with_context(failed)? {
            0 => break,
            read => digest.update(&buffer[..read]),
        }
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
