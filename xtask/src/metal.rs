//! What lets the Metal side be type-checked on Linux. Apple's frameworks are bound through objc2, which also knows GNUstep's
//! runtime; what it cannot do without Apple is link, and a type check does not.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::{command, sources};

/// The line that asks a linker for Apple's framework.
const LINK: &str = "#[link(name = \"Metal\", kind = \"framework\")]";

/// objc2-metal in a form that can be checked anywhere. Dropping it puts the lock file back, into which cargo writes a
/// patched dependency.
pub(crate) struct Patched {
    copy: PathBuf,
    _lock: Kept,
}

impl Patched {
    pub(crate) fn new() -> Result<Self> {
        let copy = command::root().join("target/objc2-metal");
        copy_without_link(&sources::of("objc2-metal", "ossia/metal")?, &copy)?;
        Ok(Self { copy, _lock: Kept::new(command::root().join("Cargo.lock"))? })
    }

    /// For cargo's `--config`.
    pub(crate) fn config(&self) -> String {
        format!("patch.crates-io.objc2-metal.path={:?}", self.copy.display().to_string())
    }
}

/// Copies the sources of objc2-metal without the line that only Apple's linker understands.
fn copy_without_link(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        fs::remove_dir_all(to).with_context(|| format!("cannot replace {}", to.display()))?;
    }
    copy_dir(from, to)?;
    let bindings = to.join("src/generated/mod.rs");
    let text =
        fs::read_to_string(&bindings).with_context(|| format!("cannot read {}", bindings.display()))?;
    ensure!(text.contains(LINK), "{} does not ask for the framework any more", bindings.display());
    fs::write(&bindings, text.replace(LINK, ""))
        .with_context(|| format!("cannot write {}", bindings.display()))
}

fn copy_dir(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy_dir(&from, &to)?;
        } else {
            fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
        }
    }
    Ok(())
}

/// A file that is written back when this is dropped.
struct Kept {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Kept {
    fn new(path: PathBuf) -> Result<Self> {
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { path, bytes })
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.path, &self.bytes) {
            eprintln!("cannot write {} back: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_file_comes_back_and_the_link_goes() {
        let dir = std::env::temp_dir().join(format!("ossia-metal-{}", std::process::id()));
        let (from, to) = (dir.join("from"), dir.join("to"));
        fs::create_dir_all(from.join("src/generated")).unwrap();
        let bindings = "src/generated/mod.rs";
        fs::write(from.join(bindings), format!("a\n{LINK}\nb\n")).unwrap();
        copy_without_link(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(to.join(bindings)).unwrap(), "a\n\nb\n");
        fs::write(from.join(bindings), "a\n").unwrap();
        assert!(copy_without_link(&from, &to).is_err(), "a version without the line needs another look");

        let kept = Kept::new(from.join(bindings)).unwrap();
        fs::write(from.join(bindings), "changed").unwrap();
        drop(kept);
        assert_eq!(fs::read_to_string(from.join(bindings)).unwrap(), "a\n");
        fs::remove_dir_all(&dir).unwrap();
    }
}
