//! Memory-mapping a checkpoint file, the one place where a file becomes a slice.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

/// Maps the whole file at `path` for reading.
///
/// The file must not be truncated while the map lives: the system then kills the process on access.
/// Checkpoints are written once, so Ossia takes that risk rather than copy 13 GB.
///
/// # Errors
/// Those of opening and mapping the file.
pub fn map_file(path: &Path) -> io::Result<Arc<Mmap>> {
    let file = File::open(path)?;
    // SAFETY: the map is only read, as bytes, for which any content is valid; that nobody shrinks the file
    // meanwhile is the documented condition of this function.
    let map = unsafe { Mmap::map(&file)? };
    Ok(Arc::new(map))
}
