//! `ossia key`: makes, lists and revokes API keys in the file that `serve` reads.

use std::io::{Write, stdout};
use std::path::Path;

use anyhow::{Context, Result};
use ossia_server::{KeySpec, hash_of, new_secret};
use toml_edit::{Array, Table, value};

use crate::cli::{KeyAction, KeyArgs, NewKeyArgs};
use crate::key_file;

/// Does what the arguments say.
pub(crate) fn run(args: &KeyArgs) -> Result<()> {
    let path = args
        .api_keys
        .as_deref()
        .context("which file of keys? give --api-keys FILE, or set it as for `serve`")?;
    match &args.action {
        KeyAction::New(new) => make(path, new),
        KeyAction::List => list(path),
        KeyAction::Revoke { key } => key_file::revoke(path, key),
    }
}

/// The key goes to stdout and nowhere else: only its hash is kept.
#[allow(clippy::print_stderr)]
fn make(path: &Path, args: &NewKeyArgs) -> Result<()> {
    let secret = new_secret();
    let hash = hash_of(&secret);
    let id = format!("key_{}", &hash["sha256:".len()..][..12]);
    key_file::add(path, table(&id, &hash, args)?)?;
    writeln!(stdout(), "{secret}")?;
    eprintln!("{id} for {} is in {}; the key itself is not kept anywhere", args.name, path.display());
    Ok(())
}

fn table(id: &str, hash: &str, args: &NewKeyArgs) -> Result<Table> {
    let mut table = Table::new();
    table.insert("id", value(id));
    table.insert("name", value(&args.name));
    if let Some(tenant) = &args.tenant {
        table.insert("tenant", value(tenant));
    }
    table.insert("hash", value(hash));
    let tokens =
        args.tokens_per_minute.map(i64::try_from).transpose().context("--tokens-per-minute is too large")?;
    let limits = [
        ("requests_per_minute", args.requests_per_minute.map(i64::from)),
        ("tokens_per_minute", tokens),
        ("max_concurrent", args.max_concurrent.map(i64::from)),
        ("priority", (args.priority != 0).then(|| i64::from(args.priority))),
    ];
    for (field, limit) in limits {
        if let Some(limit) = limit {
            table.insert(field, value(limit));
        }
    }
    if !args.model.is_empty() {
        table.insert("models", value(args.model.iter().collect::<Array>()));
    }
    if let Some(expires) = &args.expires {
        table.insert("expires", value(expires));
    }
    if args.admin {
        table.insert("admin", value(true));
    }
    Ok(table)
}

fn list(path: &Path) -> Result<()> {
    let mut out = stdout().lock();
    writeln!(out, "{:<17} {:<16} {:<16} {:<11} limits", "id", "name", "tenant", "expires")?;
    for key in key_file::read(path)? {
        let expires = key.expires.as_deref().unwrap_or("never");
        writeln!(out, "{:<17} {:<16} {:<16} {expires:<11} {}", key.id, key.name, key.tenant(), limits(&key))?;
    }
    Ok(())
}

fn limits(key: &KeySpec) -> String {
    let limits = [
        key.requests_per_minute.map(|limit| format!("{limit} requests/min")),
        key.tokens_per_minute.map(|limit| format!("{limit} tokens/min")),
        key.max_concurrent.map(|limit| format!("{limit} at once")),
        (key.priority != 0).then(|| format!("priority {}", key.priority)),
        (!key.models.is_empty()).then(|| key.models.join(" ")),
        key.admin.then(|| "admin".to_owned()),
    ];
    limits.into_iter().flatten().collect::<Vec<_>>().join(", ")
}
