//! A file from the hub, from where it stopped the last time to its end.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use super::client::{Client, Refused, RemoteFile};
use crate::progress::Progress;

/// Times that a download is gone on with after an error.
const RETRIES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(300);

/// Appends to `path` what it has not yet of a file, until it is whole.
///
/// # Errors
/// The hub refuses, the disk does, or the network fails for the last time; what has arrived is kept.
pub(super) fn download(client: &Client, remote: &RemoteFile, path: &Path) -> Result<()> {
    let mut progress = Progress::new(&remote.name, remote.size);
    let mut pause = FIRST_PAUSE;
    for attempt in 0.. {
        match go_on(client, remote, path, &mut progress) {
            Ok(()) => break,
            Err(Refused::ForNow(error)) if attempt < RETRIES => {
                tracing::warn!("{}: {error:#}; trying again", remote.name);
                std::thread::sleep(pause);
                pause *= 2;
            }
            Err(Refused::ForNow(error) | Refused::ForGood(error)) => {
                return Err(error.context(format!(
                    "cannot download {} (what has arrived is kept; run the command again to go on)",
                    remote.name
                )));
            }
        }
    }
    progress.finish();
    Ok(())
}

fn go_on(client: &Client, remote: &RemoteFile, path: &Path, progress: &mut Progress) -> Result<(), Refused> {
    let (mut file, mut start) = open(path).map_err(Refused::ForGood)?;
    if start >= remote.size {
        // More than there is cannot be part of it; the hash will say so.
        return Ok(());
    }
    let (bytes, is_part) = client.bytes(remote, start)?;
    if !is_part {
        file.set_len(0).map_err(|error| Refused::ForGood(error.into()))?;
        start = 0;
    }
    progress.set(start);
    let end = start + copy(bytes, &mut file, path, progress)?;
    match remote.size.checked_sub(end) {
        None | Some(0) => Ok(()),
        Some(missing) => Err(Refused::ForNow(anyhow!("it ended {missing} bytes early"))),
    }
}

/// The file to append to, and how long it is.
fn open(path: &Path) -> Result<(File, u64)> {
    let file = OpenOptions::new().append(true).create(true).open(path);
    let file = file.with_context(|| format!("cannot write {}", path.display()))?;
    // Two that download the same file would garble it.
    file.try_lock().with_context(|| format!("{} is being downloaded by another process", path.display()))?;
    let len = file.metadata().with_context(|| format!("cannot read {}", path.display()))?.len();
    Ok((file, len))
}

/// Moves bytes and counts them, telling a network that fails from a disk that does.
fn copy(mut from: impl Read, to: &mut File, path: &Path, progress: &mut Progress) -> Result<u64, Refused> {
    let mut buffer = vec![0; 1 << 18];
    let mut received = 0;
    loop {
        let len = from.read(&mut buffer).map_err(|error| Refused::ForNow(error.into()))?;
        if len == 0 {
            return Ok(received);
        }
        received += len as u64;
        to.write_all(&buffer[..len])
            .with_context(|| format!("cannot write {}", path.display()))
            .map_err(Refused::ForGood)?;
        progress.advance(len as u64);
    }
}
