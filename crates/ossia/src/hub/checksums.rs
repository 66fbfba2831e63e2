//! `SHA256SUMS`, the file by which a checkpoint directory can be held to what was downloaded, with `ossia verify` or
//! with `sha256sum --check`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::{hash, is_file_name};

/// The name of the file.
pub(crate) const FILE: &str = "SHA256SUMS";

/// What looking at one file found.
pub(crate) struct Verdict {
    pub(crate) name: String,
    /// What is wrong, if anything.
    pub(crate) fault: Option<anyhow::Error>,
}

/// Writes the hashes of all files of a directory into it.
pub(super) fn write(dir: &Path) -> Result<()> {
    let mut text = String::new();
    for name in file_names(dir)? {
        text += &format!("{}  {name}\n", hash::sha256(&dir.join(&name))?);
    }
    let path = dir.join(FILE);
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Compares every file of a checkpoint directory with its hash: those in `SHA256SUMS`, else, in the cache of the hub
/// tools, those that are the names of its blobs. `None` if there are no hashes.
pub(crate) fn verify(dir: &Path) -> Result<Option<Vec<Verdict>>> {
    let list = dir.join(FILE);
    if list.exists() {
        return verify_listed(dir, &read(&list)?).map(Some);
    }
    let names = file_names(dir)?;
    let is_linked = |name: &String| dir.join(name).is_symlink();
    if names.is_empty() || !names.iter().all(is_linked) {
        return Ok(None);
    }
    let verdict = |name: String| Verdict { fault: hash::check_blob(&dir.join(&name)).err(), name };
    Ok(Some(names.into_iter().map(verdict).collect()))
}

/// The SHA-256 of the list of hashes: who has it from a trusted place needs to trust nothing else.
pub(crate) fn seal(dir: &Path) -> Option<String> {
    hash::sha256(&dir.join(FILE)).ok()
}

fn verify_listed(dir: &Path, listed: &BTreeMap<String, String>) -> Result<Vec<Verdict>> {
    let mut verdicts = Vec::new();
    for (name, expected) in listed {
        let path = dir.join(name);
        let fault = match path.exists() {
            true => hash::check(&path, expected).err(),
            false => Some(anyhow::anyhow!("{} is missing", path.display())),
        };
        verdicts.push(Verdict { name: name.clone(), fault });
    }
    for name in file_names(dir)?.into_iter().filter(|name| !listed.contains_key(name)) {
        let fault = Some(anyhow::anyhow!("{} is not in {FILE}", dir.join(&name).display()));
        verdicts.push(Verdict { name, fault });
    }
    Ok(verdicts)
}

/// Hashes by name.
fn read(path: &Path) -> Result<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut hashes = BTreeMap::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let place = || format!("{}:{}", path.display(), index + 1);
        // sha256sum marks binary mode with an asterisk.
        let (hash, name) = line
            .split_once(' ')
            .map(|(hash, name)| (hash, name.trim_start_matches([' ', '*'])))
            .with_context(|| format!("{}: expected a hash and a name", place()))?;
        let is_hash = hash.len() == 64 && hash.chars().all(|c| c.is_ascii_hexdigit());
        ensure!(is_hash, "{}: '{hash}' is no SHA-256, expected 64 hexadecimal digits", place());
        let name = name.strip_prefix("./").unwrap_or(name);
        ensure!(is_file_name(name), "{}: '{name}' is not a file of this directory", place());
        hashes.insert(name.to_owned(), hash.to_lowercase());
    }
    ensure!(!hashes.is_empty(), "{} lists no file", path.display());
    Ok(hashes)
}

/// The files of a directory by name, sorted, but for the list itself, hidden files and what is half downloaded.
fn file_names(dir: &Path) -> Result<Vec<String>> {
    let failed = || format!("cannot list {}", dir.display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(failed)? {
        let path: PathBuf = entry.with_context(failed)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_ours = name == FILE || name.starts_with('.') || name.ends_with(".incomplete");
        if !path.is_dir() && !is_ours {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn lists_are_read_as_sha256sum_writes_them() {
        let dir = tempfile::tempdir().expect("a directory");
        let list = dir.path().join(FILE);
        for (text, expected) in [
            (format!("{HASH}  a\n{HASH} *b\n{HASH}  ./c\n"), Ok("a b c")),
            (format!("{HASH}  ../a\n"), Err("SHA256SUMS:1: '../a' is not a file")),
            ("\n1234  a\n".to_owned(), Err("SHA256SUMS:2: '1234' is no SHA-256")),
            (format!("{HASH}\n"), Err("expected a hash and a name")),
            ("\n".to_owned(), Err("lists no file")),
        ] {
            std::fs::write(&list, text).expect("written");
            match (read(&list), expected) {
                (Ok(hashes), Ok(names)) => {
                    assert_eq!(hashes.into_keys().collect::<Vec<_>>().join(" "), names)
                }
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
                (found, expected) => panic!("found {found:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn what_is_wrong_missing_or_not_listed_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["good", "wrong", "missing"] {
            std::fs::write(dir.path().join(name), name).expect("written");
        }
        assert!(verify(dir.path()).expect("read").is_none(), "no hashes yet");
        write(dir.path()).expect("hashes");
        std::fs::write(dir.path().join("wrong"), "WRONG").expect("written");
        std::fs::write(dir.path().join("more"), "more").expect("written");
        std::fs::remove_file(dir.path().join("missing")).expect("removed");
        let verdicts = verify(dir.path()).expect("read").expect("hashes");
        let found: Vec<String> = verdicts
            .iter()
            .map(|verdict| match &verdict.fault {
                Some(fault) => fault.to_string().replace(dir.path().to_str().unwrap_or_default(), ""),
                None => format!("{} is right", verdict.name),
            })
            .collect();
        assert_eq!(found[0], "good is right");
        assert_eq!(found[1], "/missing is missing");
        assert!(found[2].starts_with("/wrong: hash mismatch"), "{found:?}");
        assert_eq!(found[3], "/more is not in SHA256SUMS");
    }
}
