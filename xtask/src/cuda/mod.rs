//! Building for NVIDIA GPUs on a machine without one: the toolkit from Python wheels, archives to link against in
//! place of the driver's libraries, and the checks that need neither.

mod dry_run;
mod lazy;

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

pub(crate) use self::dry_run::run as dry_run;

use crate::{command, sources};

/// The compiler and what it needs to compile kernels. Newer PTX than 13.0's is refused by drivers of the 580 series.
const WHEELS: &[&str] = &[
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-cccl==13.0.85",
];

/// What cudarc's bindings are made for, in its spelling.
const CUDA_VERSION: &str = "13000";

/// Where the toolkit lies when nothing else is said.
pub(crate) fn default_home() -> PathBuf {
    command::root().join("target/cuda-home")
}

/// Lays the toolkit out in `home`: `bin/nvcc`, `include`, `nvvm` and `lib64` with archives to link against.
pub(crate) fn lay_out(home: &Path) -> Result<()> {
    let site = home.join("site");
    fs::create_dir_all(&site).with_context(|| format!("cannot make {}", site.display()))?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--root-user-action=ignore"]);
    command::run(pip.args(["--no-deps", "--target"]).arg(&site).args(WHEELS))?;
    let wheels = site.join("nvidia/cu13");
    for dir in ["bin", "include", "nvvm"] {
        link(&wheels.join(dir), &home.join(dir))?;
    }
    for dir in ["bin", "nvvm/bin"] {
        make_executable(&wheels.join(dir))?;
    }
    let lib = home.join("lib64");
    fs::create_dir_all(&lib)?;
    for archive in ["libcudart_static.a", "libcudadevrt.a"] {
        link(&wheels.join("lib").join(archive), &lib.join(archive))?;
    }
    // candle-kernels asks for cudart as such; the static one needs no library at run time.
    link(&wheels.join("lib/libcudart_static.a"), &lib.join("libcudart.a"))?;
    lazy::write_archives(&sources::of("cudarc", "ossia/cuda")?, &lib)?;
    eprintln!("CUDA toolkit in {}", home.display());
    Ok(())
}

/// Lays the toolkit out unless it is there, with an archive of each library.
pub(crate) fn lay_out_once(home: &Path) -> Result<()> {
    match lazy::are_written(&home.join("lib64")) {
        true => Ok(()),
        false => lay_out(home),
    }
}

/// Runs cargo with the toolkit in `home`, laid out first if it is not there yet.
pub(crate) fn cargo(home: &Path, args: &[String]) -> Result<()> {
    lay_out_once(home)?;
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(home.join("bin")).chain(std::env::split_paths(&path)))?;
    let env: [(&str, OsString); 6] = [
        ("PATH", path),
        ("CUDA_HOME", home.into()),
        ("CUDA_COMPUTE_CAP", "80".into()),
        ("CUDARC_CUDA_VERSION", CUDA_VERSION.into()),
        ("NVCC", stand_in("nvcc-lite").into()),
        ("REAL_NVCC", home.join("bin/nvcc").into()),
    ];
    command::cargo_with_env(&args, &env.each_ref().map(|(name, value)| (*name, value.as_os_str())))
}

/// The environment in which the CUDA side is checked without a driver or candle's kernels. Our own kernels are compiled for
/// every architecture if the toolkit in `home` is there.
pub(crate) fn check_env(home: &Path) -> [(&'static str, OsString); 4] {
    let nvcc = home.join("bin/nvcc");
    let real = if nvcc.exists() { nvcc.into_os_string() } else { OsString::new() };
    [
        ("CUDA_COMPUTE_CAP", "80".into()),
        ("CUDARC_CUDA_VERSION", CUDA_VERSION.into()),
        ("NVCC", stand_in("nvcc-null").into()),
        ("REAL_NVCC", real),
    ]
}

fn stand_in(name: &str) -> PathBuf {
    command::root().join("xtask/nvcc").join(name)
}

/// Makes `to` a symbolic link to `from`, in place of one that was there.
fn link(from: &Path, to: &Path) -> Result<()> {
    if to.symlink_metadata().is_ok() {
        fs::remove_file(to).with_context(|| format!("cannot replace {}", to.display()))?;
    }
    symlink(from, to).with_context(|| format!("cannot link {} to {}", to.display(), from.display()))
}

/// Wheels lose the permission to execute.
fn make_executable(dir: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    for entry in fs::read_dir(dir).with_context(|| format!("no {}", dir.display()))? {
        let path = entry?.path();
        if path.is_file() {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
    }
    Ok(())
}
