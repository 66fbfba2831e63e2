//! Compiles the CUDA kernels when the feature asks for them, each source into a fatbin: machine code per architecture,
//! and PTX that the driver compiles for later ones.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Sources below `src`, each with the kernels of one op.
const SOURCES: &[&str] = &[
    "attention/decode_attention.cu",
    "attention/paged_attention.cu",
    "attention/rope_and_cache.cu",
    "attention/tiled_attention.cu",
    "draw/draw.cu",
    "draw/draw_filtered.cu",
    "embedding/embedding.cu",
    "linear/bf16_activations.cu",
    "linear/bf16_mma.cu",
    "linear/int8_mma.cu",
    "linear/exact_gemv.cu",
    "moe/combine.cu",
    "moe/mxfp4_grouped.cu",
    "moe/mxfp4_mma.cu",
    "moe/route.cu",
    "rms_norm/rms_norm.cu",
];

/// What they include.
const HEADERS: &[&str] = &[
    "attention/cache.h",
    "attention/paged_attention.h",
    "cuda/kernel.h",
    "cuda/shim.h",
    "draw/draw.h",
    "gpu/fibers.h",
    "linear/mma.h",
    "moe/mxfp4.h",
];

/// Architectures with machine code of their own when OSSIA_CUDA_ARCHS does not say.
const ARCHS: &str = "80,86,89,90a,120a";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    for variable in ["NVCC", "REAL_NVCC", "CUDA_HOME", "OSSIA_CUDA_ARCHS"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return Ok(());
    }
    let src = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("src");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    for file in HEADERS.iter().chain(SOURCES) {
        println!("cargo:rerun-if-changed={}", src.join(file).display());
    }
    let mut list = String::from("static FATBINS: &[(&str, &[u8])] = &[\n");
    for source in SOURCES {
        let stem = Path::new(source).with_extension("");
        let stem = stem.file_name().unwrap_or_default().to_string_lossy();
        let fatbin = out.join(format!("{stem}.fatbin"));
        compile(&src.join(source), &fatbin)?;
        list += &format!("    ({stem:?}, include_bytes!({fatbin:?})),\n");
    }
    Ok(fs::write(out.join("fatbins.rs"), list + "];\n")?)
}

fn compile(source: &Path, fatbin: &Path) -> Result<(), Box<dyn Error>> {
    let nvcc = env::var_os("NVCC")
        .map(PathBuf::from)
        .or_else(|| env::var_os("CUDA_HOME").map(|home| PathBuf::from(home).join("bin/nvcc")));
    let archs = env::var("OSSIA_CUDA_ARCHS").unwrap_or_else(|_| ARCHS.to_owned());
    let mut command = Command::new(nvcc.unwrap_or_else(|| "nvcc".into()));
    command.args(["-std=c++17", "-O3", "--fatbin", "-Xfatbin=-compress-all", "--threads=0"]);
    for arch in archs.split(',') {
        command.arg(format!("-gencode=arch=compute_{arch},code=sm_{arch}"));
    }
    command.arg("-gencode=arch=compute_80,code=compute_80").arg(source).arg("-o").arg(fatbin);
    let status = command.status().map_err(|error| format!("cannot start {command:?}: {error}"))?;
    if !status.success() {
        return Err(format!("{command:?} ended with {status}").into());
    }
    Ok(())
}
