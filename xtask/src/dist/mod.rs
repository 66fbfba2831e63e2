//! `cargo xtask dist`: what is handed out. One archive with the program, what it is made of, the licences that this asks
//! to be shipped, the configuration, the units and the documentation; two runs of one commit give the same bytes.

mod build;
mod licences;
mod sbom;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;
use sha2::{Digest, Sha256};

use crate::command;

/// What is taken from the repository as it is.
const FILES: [&str; 6] = ["LICENSE", "README.md", "CHANGELOG.md", "config", "deploy", "docs"];

#[derive(Debug, Args)]
pub(crate) struct DistArgs {
    /// A program that was built already [default: it is built, optimised]
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Oldest glibc that the program must run with, such as 2.28; cargo-zigbuild and zig link it
    #[arg(long, value_name = "VERSION", conflicts_with = "program")]
    glibc: Option<String>,
    /// Where the archive goes
    #[arg(long, value_name = "DIR", default_value = "dist")]
    out: PathBuf,
}

/// Builds and packs.
#[allow(clippy::print_stdout)]
pub(crate) fn run(args: &DistArgs) -> Result<()> {
    let epoch = build::epoch()?;
    let program = match &args.program {
        Some(program) => program.clone(),
        None => build::build(args.glibc.as_deref(), &epoch)?,
    };
    let out = command::root().join(&args.out);
    let name =
        format!("ossia-{}-{}-{}", env!("CARGO_PKG_VERSION"), std::env::consts::OS, std::env::consts::ARCH);
    let dir = out.join(&name);
    fill(&dir, &program, args.glibc.as_deref())?;
    let archive = out.join(format!("{name}.tar.gz"));
    pack(&out, &name, &archive, &epoch)?;
    let hash = sha256(&archive)?;
    std::fs::write(out.join(format!("{name}.tar.gz.sha256")), format!("{hash}  {name}.tar.gz\n"))?;
    println!("{hash}  {}", archive.display());
    Ok(())
}

/// Lays the directory out anew.
fn fill(dir: &Path, program: &Path, glibc: Option<&str>) -> Result<()> {
    if dir.exists() {
        std::fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let target = dir.join("ossia");
    std::fs::copy(program, &target).with_context(|| format!("cannot copy {}", program.display()))?;
    for name in FILES {
        command::run(Command::new("cp").args(["-R", name]).arg(dir))?;
    }
    let components = sbom::components()?;
    std::fs::write(dir.join("sbom.cdx.json"), sbom::document(&components, &sha256(&target)?)?)?;
    std::fs::write(dir.join("THIRD-PARTY-LICENSES"), licences::collect(&components)?)?;
    std::fs::write(dir.join("BUILD-INFO"), build::info(&target, glibc)?)?;
    let sums = sums(dir)?;
    std::fs::write(dir.join("SHA256SUMS"), sums).context("cannot write SHA256SUMS")
}

/// A line per file, as sha256sum writes it.
fn sums(dir: &Path) -> Result<String> {
    let mut paths = Vec::new();
    walk(dir, &mut paths)?;
    paths.sort();
    let line =
        |path: &PathBuf| anyhow::Ok(format!("{}  {}\n", sha256(path)?, path.strip_prefix(dir)?.display()));
    paths.iter().map(line).collect()
}

fn walk(dir: &Path, paths: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry?.path();
        match path.is_dir() {
            true => walk(&path, paths)?,
            false => paths.push(path),
        }
    }
    Ok(())
}

/// An archive whose bytes depend on the files only: sorted, owned by nobody in particular, of the commit's time.
fn pack(out: &Path, name: &str, archive: &Path, epoch: &str) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mode=u+rw,go+r-w,a+X"]);
    tar.arg(format!("--mtime=@{epoch}")).arg("--directory").arg(out);
    tar.args(["--use-compress-program=gzip -9 -n", "--create", "--file"]).arg(archive).arg(name);
    command::run(&mut tar).context("GNU tar packs the archive")
}

fn sha256(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(!bytes.is_empty(), "{} is empty", path.display());
    Ok(Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect())
}
