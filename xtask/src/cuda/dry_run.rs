//! The CUDA host code on a machine without a GPU: linked with the lazy archives, given a driver that runs our kernels' CPU
//! twins (`ossia-kernels/src/cuda/fake_driver.cc`, and NVIDIA's NCCL in `fake_nccl.cc`), and held against the CPU kernels by the tests that a GPU runs too.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::{CUDA_VERSION, lazy, link, stand_in};
use crate::{command, sources};

/// What devices are opened and connected with.
const LIBRARIES: [&str; 4] = ["libcuda.so.1", "libcublas.so.13", "libcurand.so.10", "libnccl.so.2"];

/// Builds with our kernels' twins in place of machine code and runs the tests that need a CUDA device. They are built
/// without optimisation: what is computed is computed by the twins.
pub(crate) fn run() -> Result<()> {
    let home = command::root().join("target/cuda-dry-run");
    let (to_link, to_load) = (home.join("lib64"), home.join("driver"));
    fs::create_dir_all(&to_link)?;
    fs::create_dir_all(&to_load)?;
    lazy::write_archives(&sources::of("cudarc", "ossia/cuda")?, &to_link)?;
    // candle asks for it and calls nothing of it.
    command::run(Command::new("ar").arg("rcs").arg(to_link.join("libcudart.a")))?;
    driver(&to_load)?;
    let env: [(&str, OsString); 6] = [
        ("CUDA_HOME", home.clone().into()),
        ("CUDA_COMPUTE_CAP", "80".into()),
        ("CUDARC_CUDA_VERSION", CUDA_VERSION.into()),
        ("NVCC", stand_in("nvcc-twin").into()),
        ("OSSIA_CUDA_LIB_DIRS", to_load.into()),
        ("CARGO_TARGET_DIR", home.join("target").into()),
    ];
    let tests = ["test", "--workspace", "--features", "ossia/cuda", "--test", "cuda_device"];
    let unoptimised = ["--config", "profile.dev.package.candle-core.opt-level=0"];
    let ignored = ["--", "--ignored", "--test-threads=1"];
    command::cargo_with_env(&[&tests[..], &unoptimised, &ignored].concat(), &env)
}

/// One file under the names of all libraries.
fn driver(dir: &Path) -> Result<()> {
    let sources = ["fake_driver.cc", "fake_nccl.cc"]
        .map(|name| command::root().join("crates/ossia-kernels/src/cuda").join(name));
    let library = dir.join("libfake.so");
    let flags = ["-std=c++17", "-O1", "-fPIC", "-shared", "-Wall", "-Wextra"];
    command::run(Command::new("c++").args(flags).args(sources).arg("-o").arg(&library))?;
    LIBRARIES.iter().try_for_each(|name| link(&library, &dir.join(name)))
}
