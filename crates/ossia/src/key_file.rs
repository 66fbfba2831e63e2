//! The file of API keys: TOML, one `[[key]]` each, with hashes in place of keys. People may edit it; comments stay.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use ossia_server::KeySpec;
use serde::Deserialize;
use toml_edit::{ArrayOfTables, DocumentMut, Item, Table};

/// The table of the file that each key is in.
const TABLE: &str = "key";
/// The start of a file that was not there.
const HEADER: &str =
    "# API keys of Ossia, as hashes. See `ossia key --help`; a running server reads changes by itself.\n";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    #[serde(default)]
    key: Vec<KeySpec>,
}

/// All keys of a file.
pub(crate) fn read(path: &Path) -> Result<Vec<KeySpec>> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("cannot read the API keys in {}", path.display()))?;
    parse(&text).with_context(|| format!("API keys in {}", path.display()))
}

fn parse(text: &str) -> Result<Vec<KeySpec>> {
    let file: KeyFile = toml_edit::de::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
        anyhow!("line {line}: {}", error.message())
    })?;
    Ok(file.key)
}

/// Adds a key, making the file if there is none.
pub(crate) fn add(path: &Path, key: Table) -> Result<()> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => HEADER.to_owned(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let mut document = document(&text, path)?;
    let keys = document.entry(TABLE).or_insert_with(|| Item::ArrayOfTables(ArrayOfTables::new()));
    keys.as_array_of_tables_mut()
        .with_context(|| format!("'{TABLE}' in {} is not a list of [[{TABLE}]] tables", path.display()))?
        .push(key);
    write(path, &document.to_string())
}

/// Takes the key of this id or name out.
pub(crate) fn revoke(path: &Path, wanted: &str) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut document = document(&text, path)?;
    let keys = document.get_mut(TABLE).and_then(Item::as_array_of_tables_mut);
    let keys = keys.with_context(|| format!("there is no key in {}", path.display()))?;
    let says = |key: &Table, field| key.get(field).and_then(Item::as_str) == Some(wanted);
    let by_id = keys.iter().any(|key| says(key, "id"));
    let is_wanted = |key: &Table| says(key, if by_id { "id" } else { "name" });
    let num_found = keys.iter().filter(|key| is_wanted(key)).count();
    ensure!(num_found > 0, "no key in {} has the id or the name '{wanted}'", path.display());
    ensure!(num_found == 1, "{num_found} keys in {} have the name '{wanted}': give the id", path.display());
    keys.retain(|key| !is_wanted(key));
    write(path, &document.to_string())
}

fn document(text: &str, path: &Path) -> Result<DocumentMut> {
    text.parse().with_context(|| format!("{} is not TOML", path.display()))
}

/// Replaces the file at once, so that a server never reads half of it; for its owner only.
fn write(path: &Path, text: &str) -> Result<()> {
    parse(text).context("the file would not be one of keys")?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(dir).with_context(|| format!("cannot make the directory {}", dir.display()))?;
    let failed = || format!("cannot write {}", path.display());
    let mut file = tempfile::NamedTempFile::new_in(dir).with_context(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).with_context(failed)?;
    file.persist(path).with_context(failed)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str, name: &str) -> Table {
        let mut key = Table::new();
        for (field, value) in [("id", id), ("name", name), ("hash", "sha256:00")] {
            key.insert(field, toml_edit::value(value));
        }
        key
    }

    #[test]
    fn keys_come_and_go_and_comments_stay() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a/keys.toml");
        for (id, name) in [("k1", "ann"), ("k2", "bob"), ("k3", "bob")] {
            add(&path, key(id, name)).expect("added");
        }
        let ids = || read(&path).expect("keys").into_iter().map(|key| key.id).collect::<Vec<_>>();
        assert_eq!(ids(), ["k1", "k2", "k3"]);
        let commented =
            fs::read_to_string(&path).expect("text").replace("id = \"k2\"", "# bob's old one\nid = \"k2\"");
        fs::write(&path, commented).expect("written");
        assert!(revoke(&path, "bob").expect_err("two of them").to_string().contains("give the id"));
        revoke(&path, "k3").expect("gone");
        revoke(&path, "ann").expect("gone");
        assert_eq!(ids(), ["k2"]);
        assert!(fs::read_to_string(&path).expect("text").contains("# bob's old one"));
        assert!(revoke(&path, "k3").is_err());
    }

    #[test]
    fn a_wrong_file_is_named_with_its_line() {
        for (text, expected) in [
            ("[[key]]\nid = 1\n", "line 2"),
            ("[[key]]\nid = \"a\"\nname = \"a\"\nhash = \"x\"\nrate = 1\n", "line 5: unknown field `rate`"),
            ("keys = 1\n", "unknown field `keys`"),
            ("[[key]\n", "line 1"),
        ] {
            let message = format!("{:#}", parse(text).expect_err(text));
            assert!(message.contains(expected), "{text}: {message}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn the_file_is_its_owners_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("keys.toml");
        add(&path, key("k", "k")).expect("added");
        assert_eq!(fs::metadata(&path).expect("metadata").permissions().mode() & 0o777, 0o600);
    }
}
