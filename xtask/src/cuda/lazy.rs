//! Archives that stand in for NVIDIA's libraries when linking: each function looks for the real library at its first
//! call, so that one program starts with and without a driver. Where the library is missing, each function answers with
//! the library's own code for that.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::command;

/// A library and what its functions answer without it.
struct Library {
    /// Folder of its bindings in cudarc's sources.
    bindings: &'static str,
    /// Name for the linker.
    name: &'static str,
    /// File names to try, in this order.
    files: &'static [&'static str],
    /// Its code for "no device" or "not initialised".
    missing: u32,
}

const LIBRARIES: &[Library] = &[
    Library { bindings: "driver", name: "cuda", files: &["libcuda.so.1"], missing: 100 },
    Library {
        bindings: "cublas",
        name: "cublas",
        files: &["libcublas.so.13", "libcublas.so.12"],
        missing: 1,
    },
    Library {
        bindings: "cublaslt",
        name: "cublasLt",
        files: &["libcublasLt.so.13", "libcublasLt.so.12"],
        missing: 1,
    },
    Library { bindings: "curand", name: "curand", files: &["libcurand.so.10"], missing: 203 },
    Library { bindings: "nccl", name: "nccl", files: &["libnccl.so.2"], missing: 2 },
    Library { bindings: "nvrtc", name: "nvrtc", files: &["libnvrtc.so.13", "libnvrtc.so.12"], missing: 11 },
];

/// Writes one archive per library into `out`, with the functions that `cudarc`'s bindings name.
pub(super) fn write_archives(cudarc: &Path, out: &Path) -> Result<()> {
    ensure!(cfg!(target_arch = "x86_64"), "the archives' jumps are written for x86-64 only");
    for library in LIBRARIES {
        let path = cudarc.join("src").join(library.bindings).join("sys/mod.rs");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let functions = functions(&text);
        ensure!(!functions.is_empty(), "{} declares no functions", path.display());
        library.write_archive(&functions, out)?;
    }
    Ok(())
}

/// Whether all archives are in `dir`.
pub(super) fn are_written(dir: &Path) -> bool {
    LIBRARIES.iter().all(|library| library.archive(dir).exists())
}

/// Names of the functions in `extern "C"` blocks, each once.
fn functions(bindings: &str) -> Vec<&str> {
    let blocks = bindings.split("extern \"C\" {").skip(1);
    let mut names: Vec<&str> = blocks
        .filter_map(|block| {
            let declaration = block.trim_start().trim_start_matches("pub ").strip_prefix("fn ")?;
            declaration.split_once('(').map(|(name, _)| name)
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

impl Library {
    fn archive(&self, dir: &Path) -> PathBuf {
        dir.join(format!("lib{}.a", self.name))
    }

    fn write_archive(&self, functions: &[&str], out: &Path) -> Result<()> {
        let stem = format!("lazy_{}", self.name);
        fs::write(out.join(format!("{stem}.c")), self.resolver(functions))?;
        fs::write(out.join(format!("{stem}_jumps.S")), self.jumps(functions))?;
        let mut objects = Vec::new();
        for source in [format!("{stem}.c"), format!("{stem}_jumps.S")] {
            let object = out.join(format!("{source}.o"));
            command::run(
                Command::new("cc").args(["-O2", "-fPIC", "-c"]).arg(out.join(source)).arg("-o").arg(&object),
            )?;
            objects.push(object);
        }
        let archive = self.archive(out);
        if archive.exists() {
            fs::remove_file(&archive)?;
        }
        command::run(Command::new("ar").arg("rcs").arg(archive).args(objects))
    }

    /// C: finds function `index` of the library, or the function that answers in its place.
    fn resolver(&self, functions: &[&str]) -> String {
        let quoted = |names: &[&str]| names.iter().map(|name| format!("\"{name}\", ")).collect::<String>();
        RESOLVER
            .replace("@NAMES@", &quoted(functions))
            .replace("@COUNT@", &functions.len().to_string())
            .replace("@FILES@", &quoted(self.files))
            .replace("@LIBRARY@", self.name)
            .replace("@MISSING@", &self.missing.to_string())
    }

    /// Assembly: each function jumps to where its table entry points; an empty entry is filled first, with the
    /// arguments in registers kept.
    fn jumps(&self, functions: &[&str]) -> String {
        let name = self.name;
        let mut text = COMMON_JUMP.replace("@LIBRARY@", name);
        for (index, function) in functions.iter().enumerate() {
            let at = 8 * index;
            let _ = write!(
                text,
                ".globl {function}\n.type {function},@function\n{function}:\n  mov lazy_{name}_table+{at}(%rip),%r11\n  \
                 test %r11,%r11\n  jz 1f\n  jmp *%r11\n1: push ${index}\n  jmp lazy_{name}_find\n"
            );
        }
        text + ".section .note.GNU-stack,\"\",@progbits\n"
    }
}

const RESOLVER: &str = r#"#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static const char *const names[] = { @NAMES@ };
void *lazy_@LIBRARY@_table[@COUNT@] __attribute__((visibility("hidden")));
static int missing(void) { return @MISSING@; }
static void *library;
static pthread_once_t once = PTHREAD_ONCE_INIT;
/* The loader's own search first, then the folders of OSSIA_CUDA_LIB_DIRS. */
static void open_library(void) {
  static const char *const files[] = { @FILES@ };
  for (size_t i = 0; !library && i < sizeof files / sizeof *files; i++) {
    library = dlopen(files[i], RTLD_NOW | RTLD_LOCAL);
    for (const char *dir = getenv("OSSIA_CUDA_LIB_DIRS"); !library && dir && *dir;) {
      char path[4096];
      size_t len = strcspn(dir, ":");
      snprintf(path, sizeof path, "%.*s/%s", (int)len, dir, files[i]);
      library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
      dir += len + (dir[len] == ':');
    }
  }
}
__attribute__((visibility("hidden"))) void *lazy_@LIBRARY@_resolve(long index) {
  pthread_once(&once, open_library);
  void *function = library ? dlsym(library, names[index]) : 0;
  if (!function) function = (void *)missing;
  lazy_@LIBRARY@_table[index] = function;
  return function;
}
"#;

const COMMON_JUMP: &str = ".text
lazy_@LIBRARY@_find:
  push %rdi; push %rsi; push %rdx; push %rcx; push %r8; push %r9
  sub $128,%rsp
  movups %xmm0,0(%rsp); movups %xmm1,16(%rsp); movups %xmm2,32(%rsp); movups %xmm3,48(%rsp)
  movups %xmm4,64(%rsp); movups %xmm5,80(%rsp); movups %xmm6,96(%rsp); movups %xmm7,112(%rsp)
  mov 176(%rsp),%rdi
  call lazy_@LIBRARY@_resolve
  mov %rax,%r11
  movups 0(%rsp),%xmm0; movups 16(%rsp),%xmm1; movups 32(%rsp),%xmm2; movups 48(%rsp),%xmm3
  movups 64(%rsp),%xmm4; movups 80(%rsp),%xmm5; movups 96(%rsp),%xmm6; movups 112(%rsp),%xmm7
  add $128,%rsp
  pop %r9; pop %r8; pop %rcx; pop %rdx; pop %rsi; pop %rdi
  add $8,%rsp
  jmp *%r11
";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const BINDINGS: &str = "pub unsafe fn a() {\n extern \"C\" {\n fn cuB(x: u32) -> r;\n }\n cuB(x)\n}\n\
        extern \"C\" {\n pub fn cuA() -> r;\n}\nextern \"C\" { fn cuB(x: u32) -> r; }";

    #[test]
    fn functions_are_found_once() {
        assert_eq!(functions(BINDINGS), ["cuA", "cuB"]);
    }

    /// A program linked against an archive runs without the library and is answered its code; arguments survive the
    /// search when the library is there.
    #[test]
    fn a_program_runs_with_and_without_the_library() {
        let dir = std::env::temp_dir().join(format!("ossia-lazy-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let library = Library { bindings: "", name: "demo", files: &["libossia-lazy-demo.so"], missing: 42 };
        library.write_archive(&["demo_sum"], &dir).unwrap();
        let main = "int demo_sum(int a, double b, int c); #include <stdio.h>\n\
                    int main(void) { printf(\"%d %d\\n\", demo_sum(1, 2.5, 30), demo_sum(5, 0.0, 6)); }";
        fs::write(dir.join("main.c"), main.replace("; #include", ";\n#include")).unwrap();
        fs::write(
            dir.join("real.c"),
            "int demo_sum(int a, double b, int c) { return a + (int)(2 * b) + c; }",
        )
        .unwrap();
        let cc =
            |args: &[&str]| {
                command::run(Command::new("cc").arg("-o").arg(dir.join(args[0])).args(args[1..].iter().map(
                    |arg| {
                        if arg.contains('.') { dir.join(arg).into_os_string() } else { arg.into() }
                    },
                )))
            };
        cc(&["main", "main.c", "libdemo.a", "-ldl", "-lpthread"]).unwrap();
        let run = || {
            let output = Command::new(dir.join("main")).env("OSSIA_CUDA_LIB_DIRS", &dir).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(run(), "42 42\n");
        cc(&["libossia-lazy-demo.so", "-shared", "-fPIC", "real.c"]).unwrap();
        assert_eq!(run(), "36 11\n");
        fs::remove_dir_all(&dir).unwrap();
    }
}
