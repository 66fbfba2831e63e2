//! The release build: without paths of this machine in it, of the commit's time, and for how old a C library.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::command;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The time that stands for all times of the build, in seconds: `SOURCE_DATE_EPOCH`, else the commit's.
pub(super) fn epoch() -> Result<String> {
    let text = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(epoch) => epoch,
        Err(_) => command::output("git", &["log", "-1", "--format=%ct"])
            .context("without git, SOURCE_DATE_EPOCH says when the sources are from")?,
    };
    let epoch = text.trim();
    ensure!(epoch.parse::<u64>().is_ok(), "SOURCE_DATE_EPOCH is '{epoch}', expected seconds since 1970");
    Ok(epoch.to_owned())
}

/// Builds the program, optimised, and gives its path.
pub(super) fn build(glibc: Option<&str>, epoch: &str) -> Result<PathBuf> {
    let mut line = vec![if glibc.is_some() { "zigbuild" } else { "build" }];
    line.extend(["--release", "--locked", "--package", "ossia"]);
    let target = glibc.map(|version| format!("{TARGET}.{version}"));
    if let Some(target) = &target {
        line.extend(["--target", target]);
    }
    let (rust, c) = remapped()?;
    let env = [
        ("RUSTFLAGS", rust.as_str()),
        ("CFLAGS", c.as_str()),
        ("SOURCE_DATE_EPOCH", epoch),
        ("CARGO_INCREMENTAL", "0"),
    ];
    command::cargo_with_env(&line, &env)?;
    let dir = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    let dir = if target.is_some() { dir.join(TARGET) } else { dir };
    Ok(command::root().join(dir).join("release/ossia"))
}

/// Flags of rustc and of the C compiler under which the sources have the same paths on every machine.
fn remapped() -> Result<(String, String)> {
    let root = command::root();
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home =
        home.or_else(|| Some(std::env::home_dir()?.join(".cargo"))).context("there is no home directory")?;
    let sysroot = command::output("rustc", &["--print", "sysroot"])?;
    let paths =
        [(root.as_path(), "/ossia"), (home.as_path(), "/cargo"), (Path::new(sysroot.trim()), "/rust")];
    let mut rust = std::env::var("RUSTFLAGS").unwrap_or_default();
    let mut c = std::env::var("CFLAGS").unwrap_or_default();
    for (from, to) in paths {
        ensure!(
            !from.to_string_lossy().contains(' '),
            "{} has a space, which flags cannot have",
            from.display()
        );
        rust += &format!(" --remap-path-prefix={}={to}", from.display());
        c += &format!(" -ffile-prefix-map={}={to}", from.display());
    }
    Ok((rust.trim().to_owned(), c.trim().to_owned()))
}

/// What was built, from what, and what it needs; fails if it needs a newer glibc than was asked for.
pub(super) fn info(program: &Path, asked: Option<&str>) -> Result<String> {
    let needed = needed_glibc(program)?;
    if let Some(asked) = asked {
        ensure!(
            numbers(&needed) <= numbers(asked),
            "the program needs glibc {needed}, {asked} was asked for"
        );
    }
    let commit = command::output("git", &["rev-parse", "HEAD"]).unwrap_or_else(|_| "unknown\n".to_owned());
    let rustc = command::output("rustc", &["--version"])?;
    let version = env!("CARGO_PKG_VERSION");
    Ok(format!("ossia {version}\ncommit {commit}{rustc}needs glibc {needed} or newer\n"))
}

/// The newest version of glibc that a symbol of the program is from.
fn needed_glibc(program: &Path) -> Result<String> {
    let path = program.to_str().with_context(|| format!("{} is not UTF-8", program.display()))?;
    newest(&command::output("readelf", &["--version-info", "--wide", path])?)
        .with_context(|| format!("{path} names no version of glibc"))
}

fn newest(text: &str) -> Option<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '_'));
    let versions = words.filter_map(|word| word.strip_prefix("GLIBC_"));
    versions
        .filter(|version| !numbers(version).is_empty())
        .max_by_key(|version| numbers(version))
        .map(str::to_owned)
}

/// `2.34` as numbers; empty if it is none.
fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map(str::parse).collect::<Result<_, _>>().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        let text = "0x0010: Name: GLIBC_2.9  Flags: none\n  Name: GLIBC_2.34\n Name: GLIBC_PRIVATE\n Name: GLIBC_2.2.5";
        assert_eq!(newest(text).as_deref(), Some("2.34"));
        assert_eq!(newest("Name: GCC_3.0"), None);
    }
}
