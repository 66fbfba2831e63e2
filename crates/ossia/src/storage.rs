//! Where `serve` keeps its state: the store that the flags name, and the key that seals what clients carry.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result};
use ossia_server::{SealingKey, Store, StoreOptions, StoreTarget};

use crate::cli::StoreArgs;

const SECONDS_PER_DAY: u64 = 86_400;

/// What `--store` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoreArg(pub(crate) StoreTarget);

impl FromStr for StoreArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let target = match text {
            "none" => StoreTarget::Nothing,
            "memory" => StoreTarget::Memory,
            _ if text.starts_with("postgres://") || text.starts_with("postgresql://") => {
                StoreTarget::Postgres(text.to_owned())
            }
            _ => match text.strip_prefix("sqlite:") {
                Some(path) if !path.is_empty() => StoreTarget::Sqlite(path.into()),
                _ => {
                    return Err(format!(
                        "'{text}' is neither sqlite:PATH nor postgres://... nor 'memory' nor 'none'"
                    ));
                }
            },
        };
        Ok(Self(target))
    }
}

/// The store, not yet open, and the key.
pub(crate) fn prepare(args: &StoreArgs) -> Result<(Store, SealingKey)> {
    let target = match &args.store {
        Some(StoreArg(target)) => target.clone(),
        None => default_target(),
    };
    if let StoreTarget::Sqlite(path) = &target {
        make_parent(path)?;
    }
    let key = key(args, &target)?;
    let options = StoreOptions {
        ttl: Duration::from_secs(args.store_days.saturating_mul(SECONDS_PER_DAY)),
        max_bytes: args.store_size.0,
        ..StoreOptions::default()
    };
    tracing::info!("store: {target}");
    Ok((Store::new(target, options), key))
}

/// A file in the user's data directory; memory where there is none.
fn default_target() -> StoreTarget {
    match data_dir() {
        Some(dir) => {
            tracing::info!(
                "state is kept in {} (--store says otherwise, --store none keeps nothing)",
                dir.display()
            );
            StoreTarget::Sqlite(dir.join("store.sqlite"))
        }
        None => {
            tracing::warn!("there is no home directory: state is kept in memory; see --store");
            StoreTarget::Memory
        }
    }
}

/// The key that is given, else the one in the file that is given, else the one beside the store, made there at the
/// first start. What is kept in this process only has a key of this process only.
fn key(args: &StoreArgs, target: &StoreTarget) -> Result<SealingKey> {
    if let Some(key) = &args.encryption_key {
        return SealingKey::from_hex(key).context("OSSIA_ENCRYPTION_KEY is not 64 hexadecimal digits");
    }
    let beside = match target {
        StoreTarget::Sqlite(path) => Some(path.with_extension("key")),
        StoreTarget::Postgres(_) => data_dir().map(|dir| dir.join("encryption.key")),
        StoreTarget::Memory | StoreTarget::Nothing => None,
    };
    match args.encryption_key_file.clone().or(beside) {
        Some(path) => read_or_make_key(&path),
        None => Ok(SealingKey::random()),
    }
}

fn read_or_make_key(path: &Path) -> Result<SealingKey> {
    make_parent(path)?;
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Ok(mut file) => {
            let key = SealingKey::random();
            file.write_all(key.to_hex().as_bytes())
                .and_then(|()| file.sync_all())
                .with_context(|| format!("cannot write the encryption key to {}", path.display()))?;
            Ok(key)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let text = fs::read_to_string(path)
                .with_context(|| format!("cannot read the encryption key in {}", path.display()))?;
            SealingKey::from_hex(&text)
                .with_context(|| format!("{} does not hold 64 hexadecimal digits", path.display()))
        }
        Err(error) => {
            Err(error).with_context(|| format!("cannot make the encryption key file {}", path.display()))
        }
    }
}

/// Makes the directory that a file will be in, for its owner only.
fn make_parent(path: &Path) -> Result<()> {
    let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) else { return Ok(()) };
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).with_context(|| {
        format!("cannot make the directory {} (--store says where state is kept)", dir.display())
    })
}

/// Where programs of this user keep their data.
fn data_dir() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || variable("HOME");
    let base = if cfg!(windows) {
        variable("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        home().map(|home| home.join("Library/Application Support"))
    } else {
        variable("XDG_DATA_HOME").or_else(|| home().map(|home| home.join(".local/share")))
    };
    base.map(|base| base.join("ossia"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_argument_is_read_as_what_it_names() {
        let cases = [
            ("none", Some(StoreTarget::Nothing)),
            ("memory", Some(StoreTarget::Memory)),
            ("sqlite:a/b.db", Some(StoreTarget::Sqlite("a/b.db".into()))),
            ("postgres://u@h/d", Some(StoreTarget::Postgres("postgres://u@h/d".to_owned()))),
            ("postgresql:///d", Some(StoreTarget::Postgres("postgresql:///d".to_owned()))),
            ("sqlite:", None),
            ("a.db", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<StoreArg>().ok().map(|arg| arg.0), expected, "{text}");
        }
    }

    #[test]
    fn a_key_is_made_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a/b/ossia.key");
        let key = read_or_make_key(&path).expect("a key");
        assert_eq!(read_or_make_key(&path).expect("the same key"), key);
        fs::write(&path, "half a ke").expect("written");
        let error = read_or_make_key(&path).expect_err("no key").to_string();
        assert!(error.contains("64 hexadecimal digits"), "{error}");
    }
}
