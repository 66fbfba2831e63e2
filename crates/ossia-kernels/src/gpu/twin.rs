//! Runs a kernel's source on the CPU: compiled as C++ over `shim.h` when a test asks for it, and kept for the next.

#![allow(clippy::unwrap_used)]

use std::ffi::{c_int, c_void};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use libloading::{Library, Symbol};

use crate::gpu::Grid;

/// Undefined behaviour, unaligned vectors among it, stops the test.
const FLAGS: &[&str] = &[
    "-std=c++17",
    "-O2",
    "-fno-strict-aliasing",
    "-ffp-contract=off",
    "-U_FORTIFY_SOURCE",
    "-fsanitize=undefined",
    "-fsanitize-undefined-trap-on-error",
    "-shared",
    "-fPIC",
    // Metal's marks on parameters mean nothing here.
    "-Wno-attributes",
];

/// What every source may include.
const HEADERS: &[&str] = &[
    "attention/cache.h",
    "attention/paged_attention.h",
    "gpu/fibers.h",
    "linear/mma.h",
    "cuda/kernel.h",
    "cuda/shim.h",
    "draw/draw.h",
    "metal/prelude.h",
    "metal/shim.h",
    "moe/mxfp4.h",
    "moe/mxfp4_metal.h",
];

/// Entry point of a kernel's twin: its arguments, the grid, the threads of a block.
type Entry = unsafe extern "C" fn(*const c_void, u32, u32, u32, u32) -> c_int;

/// The kernels of one source file.
pub(crate) struct Twin(Library);

/// The shim runs one launch at a time, and tests may share a process.
static LAUNCH: Mutex<()> = Mutex::new(());

impl Twin {
    /// Compiles `source`, a path below `src`. Needs a C++ compiler named `c++`.
    pub(crate) fn of(source: &str) -> Self {
        let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut hasher = DefaultHasher::new();
        for file in HEADERS.iter().chain([&source]) {
            std::fs::read(src.join(file)).unwrap().hash(&mut hasher);
        }
        FLAGS.hash(&mut hasher);
        let name = Path::new(source).file_stem().unwrap().to_string_lossy();
        let dir = std::env::temp_dir().join("ossia-kernel-twins");
        let library = dir.join(format!("{name}-{:016x}.so", hasher.finish()));
        if !library.exists() {
            std::fs::create_dir_all(&dir).unwrap();
            compile(&src.join(source), &library);
        }
        // SAFETY: our own code, which does nothing when it is loaded.
        Self(unsafe { Library::new(library) }.unwrap())
    }

    /// Runs `kernel` of the file over a grid.
    pub(crate) fn launch<A>(&self, kernel: &str, args: &A, grid: Grid) {
        self.run(kernel, std::ptr::from_ref(args).cast(), grid);
    }

    /// Runs a Metal `kernel` of the file over a grid: `buffers` in the order of its parameters, then `args`.
    pub(crate) fn launch_metal<A>(&self, kernel: &str, buffers: &[u64], args: &A, grid: Grid) {
        let mut parameters = buffers.to_vec();
        parameters.push(std::ptr::from_ref(args) as u64);
        // The twin reads an array of addresses, which is what it takes for its arguments.
        self.run(kernel, parameters.as_ptr().cast(), grid);
    }

    fn run(&self, kernel: &str, args: *const c_void, grid: Grid) {
        let name = format!("{kernel}_twin");
        let [x, y, z] = grid.blocks;
        let _alone = LAUNCH.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the entry point of a kernel takes its arguments' struct; that Rust's struct is laid out like the one
        // in the source is what the test shows.
        let failed = unsafe {
            let entry: Symbol<Entry> = self.0.get(name.as_bytes()).unwrap();
            entry(args, x, y, z, grid.threads)
        };
        assert_eq!(failed, 0, "{kernel}: the shim reported an error above");
    }
}

/// Under a name of its own first: tests run side by side, in processes or in threads.
fn compile(source: &Path, library: &Path) {
    let own = format!("{}-{:?}.tmp", std::process::id(), std::thread::current().id());
    let temporary: PathBuf = library.with_extension(own);
    let output =
        Command::new("c++").args(FLAGS).args(["-x", "c++"]).arg(source).arg("-o").arg(&temporary).output();
    let output = output.expect("the tests of GPU kernels need a C++ compiler named c++");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::rename(temporary, library).unwrap();
}

/// Elements before and after an output that no kernel may touch.
const GUARD: usize = 64;

/// A bit pattern that no kernel writes: a NaN of its own.
const POISON: u32 = 0x7fc5_a5a5;

/// Memory that a kernel must fill, all of it and nothing beside it.
pub(crate) struct Output(Vec<u32>);

impl Output {
    /// `len` poisoned elements of four bytes.
    pub(crate) fn new(len: usize) -> Self {
        Self(vec![POISON; len + 2 * GUARD])
    }

    /// Address of the first element.
    pub(crate) fn address(&mut self) -> u64 {
        self.0[GUARD..].as_mut_ptr() as u64
    }

    fn bits(&self) -> &[u32] {
        let (inner, after) = self.0[GUARD..].split_at(self.0.len() - 2 * GUARD);
        let untouched = self.0[..GUARD].iter().chain(after).all(|&bits| bits == POISON);
        assert!(untouched, "the kernel wrote beside its output");
        inner
    }

    /// What the kernel wrote.
    pub(crate) fn f32s(&self) -> Vec<f32> {
        self.u32s().into_iter().map(f32::from_bits).collect()
    }

    /// What the kernel wrote, as words.
    pub(crate) fn u32s(&self) -> Vec<u32> {
        let bits = self.bits();
        let missed = bits.iter().position(|&bits| bits == POISON);
        assert_eq!(missed, None, "of {} elements the kernel did not write this", bits.len());
        bits.to_vec()
    }

    /// The memory of a kernel that leaves parts of it alone.
    pub(crate) fn check_guards(&self) {
        self.bits();
    }
}

/// Address of an input.
pub(crate) fn input<T>(values: &[T]) -> u64 {
    values.as_ptr() as u64
}

/// Values to 1e-5 of the largest expected one.
pub(crate) fn assert_close(found: &[f32], expected: &[f32], context: &str) {
    assert_eq!(found.len(), expected.len(), "{context}");
    let scale = expected.iter().fold(0f32, |max, x| max.max(x.abs()));
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let close = (found - expected).abs() <= 1e-5 * scale;
        assert!(close, "{context}: element {at} is {found}, should be {expected}");
    }
}

mod shim_tests {
    use super::*;

    const SOURCE: &str = "cuda/shim_test.cu";

    #[repr(C)]
    struct Args {
        out: u64,
        mistake: u32,
    }

    fn run(mistake: u32) -> (i32, Vec<u32>) {
        let twin = Twin::of(SOURCE);
        let mut out = vec![0u32; 2 * 96];
        let args = Args { out: out.as_mut_ptr() as u64, mistake };
        let _alone = LAUNCH.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: as in `launch`.
        let failed = unsafe {
            let entry: Symbol<Entry> = twin.0.get(b"reverse_warps_then_block_twin").unwrap();
            entry(std::ptr::from_ref(&args).cast(), 2, 1, 1, 96)
        };
        (failed, out)
    }

    #[test]
    fn barriers_and_shuffles_do_what_cuda_says() {
        let (failed, out) = run(0);
        assert_eq!(failed, 0);
        for (block, out) in out.chunks(96).enumerate() {
            for (thread, &value) in out.iter().enumerate() {
                // Reversed over the block, then over the lanes of each warp.
                let from = 95 - thread;
                let lane_reversed = from / 32 * 32 + 31 - from % 32;
                assert_eq!(value, (block * 1000 + lane_reversed) as u32);
            }
        }
    }

    #[test]
    fn what_would_hang_or_race_on_a_gpu_is_reported() {
        assert_ne!(run(1).0, 0, "a thread that never comes to the barrier");
        assert_ne!(run(2).0, 0, "a lane that does not take part in a shuffle");
        let (failed, out) = run(3);
        assert_eq!(failed, 0);
        assert!(out.contains(&u32::MAX), "a missing barrier shows as what nobody wrote");
    }
}
