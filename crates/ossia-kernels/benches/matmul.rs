//! Speed of the matrix products at gpt-oss-20b's shapes, beside what memory and the arithmetic units
//! reach in the same run. Every figure is the best of many repetitions, because a busy neighbour only ever
//! takes away.
//!
//! `cargo bench -p ossia-kernels --bench matmul -- [linear|moe] [f32|bf16] [isa] [threads=N] [rows=N] [cached] [even] [int8] [unpacked]`
//!
//! `even` gives each expert as many tokens as the next; without, chance does. `int8` rounds the dense matrices to 8 bits, `unpacked` takes experts
//! in bf16. `cached` takes small matrices that stay in the second-level cache: the arithmetic alone.

#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use ossia_kernels::{
    ComputeType, ExpertWeights, Isa, Linear, Matrix, MoeExperts, MoeWeights, WeightBytes, measure_read_speed,
    num_threads, set_num_threads,
};

const BUDGET: Duration = Duration::from_millis(400);

/// Rows of activations: those of `rows=`, else a choice from decode to prefill.
fn batch_sizes() -> Vec<usize> {
    let chosen = std::env::args().find_map(|a| Some(a.strip_prefix("rows=")?.parse().unwrap()));
    chosen.map_or(vec![1, 4, 16, 64, 512], |n| vec![n])
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let wants = |word: &str, group: &[&str]| {
        args.iter().any(|a| a == word) || !args.iter().any(|a| group.contains(&a.as_str()))
    };
    if let Some(threads) = args.iter().find_map(|a| a.strip_prefix("threads=")) {
        set_num_threads(threads.parse().unwrap());
    } else {
        set_num_threads(num_threads());
    }
    let ceiling = Ceilings { read: measure_read_speed(1 << 30, num_threads(), 5), tiles: tile_ceiling() };
    println!("{} threads, best path {}", num_threads(), Isa::in_full());
    println!("memory read: {:.1} GB/s", ceiling.read / 1e9);
    if let Some(tiles) = ceiling.tiles {
        println!("AMX products of bf16 tiles in registers: {:.0} GFLOP/s", tiles / 1e9);
    }
    let isas = [
        ("portable", Isa::Portable),
        ("neon", Isa::Neon),
        ("avx2", Isa::Avx2),
        ("avx512", Isa::Avx512),
        ("vnni", Isa::Avx512Vnni),
        ("amx", Isa::Amx),
    ];
    let names: Vec<&str> = isas.iter().map(|i| i.0).collect();
    for (name, isa) in isas.into_iter().rev().filter(|i| i.1.is_available()) {
        let chosen = args.iter().any(|a| names.contains(&a.as_str()));
        if (chosen && !wants(name, &names)) || (!chosen && isa != Isa::detect()) {
            continue;
        }
        for (word, compute) in [("bf16", ComputeType::Bf16), ("f32", ComputeType::F32)] {
            if !wants(word, &["bf16", "f32"]) {
                continue;
            }
            println!("\n{} path, {word} activations", isa.name());
            if wants("linear", &["linear", "moe"]) {
                linears(isa, compute, ceiling);
            }
            if wants("moe", &["linear", "moe"]) {
                experts(isa, compute, ceiling);
            }
        }
    }
}

fn is_int8() -> bool {
    std::env::args().any(|a| a == "int8")
}

fn is_unpacked() -> bool {
    std::env::args().any(|a| a == "unpacked")
}

fn is_even() -> bool {
    std::env::args().any(|a| a == "even")
}

fn is_cached() -> bool {
    std::env::args().any(|a| a == "cached")
}

fn linears(isa: Isa, compute: ComputeType, ceiling: Ceilings) {
    let shapes: &[(&str, usize, usize)] = match is_cached() {
        true => &[("cached", 256, 2880)],
        false => &[("qkv", 5120, 2880), ("o", 2880, 4096), ("lm_head (1/4)", 50272, 2880)],
    };
    for &(name, rows, cols) in shapes {
        // Enough copies that none is found in a cache.
        let copies = if is_cached() { 1 } else { (400_000_000 / (2 * rows * cols)).max(2) };
        let mut size_bytes = 0;
        let layers: Vec<Linear> = (0..copies)
            .map(|seed| {
                let bytes = WeightBytes::owned(random_bf16(rows * cols, seed as u64));
                let weight = Matrix::new(bytes, DType::BF16, rows, cols).unwrap();
                let weight = if is_int8() { weight.to_int8() } else { weight };
                size_bytes = weight.size_bytes();
                Linear::new(Arc::new(weight), Some(vec![0.5; rows]), compute).unwrap().on(isa).unwrap()
            })
            .collect();
        for n in batch_sizes() {
            let x = Tensor::from_vec(random_f32(n * cols), (n, cols), &Device::Cpu).unwrap();
            let time = best(|i| {
                black_box(layers[i % copies].forward(&x).unwrap());
            });
            report(name, n, size_bytes, 2 * rows * cols * n, time, ceiling);
        }
    }
}

fn experts(isa: Isa, compute: ComputeType, ceiling: Ceilings) {
    let (num_experts, hidden, top_k) = if is_cached() { (1, 736, 1) } else { (32, 2880, 4) };
    let experts = |rows: usize, seed: u64| {
        let count = num_experts * rows * hidden;
        if is_unpacked() {
            let bytes = WeightBytes::owned(random_bf16(count, seed));
            return ExpertWeights::bf16(bytes, num_experts, rows, hidden).unwrap();
        }
        let blocks = WeightBytes::owned(random_bytes(count / 2, seed));
        let scales = random_bytes(count / 32, seed + 9).iter().map(|b| 118 + b % 6).collect();
        ExpertWeights::mxfp4(blocks, WeightBytes::owned(scales), num_experts, rows, hidden).unwrap()
    };
    let weights = MoeWeights {
        gate_up: experts(2 * hidden, 1),
        gate_up_bias: vec![0.1; num_experts * 2 * hidden],
        down: experts(hidden, 2),
        down_bias: vec![0.1; num_experts * hidden],
        experts_per_token: top_k,
        swiglu_limit: 7.0,
    };
    let moe = MoeExperts::new(weights, compute).unwrap().on(isa).unwrap();
    for n in batch_sizes() {
        let x = Tensor::from_vec(random_f32(n * hidden), (n, hidden), &Device::Cpu).unwrap();
        let logits: Vec<_> = (0..32)
            .map(|seed| {
                let logits = random_bytes(n * num_experts, 77 + seed);
                let mut logits: Vec<f32> = logits.iter().map(|b| f32::from(*b)).collect();
                if is_even() {
                    for (t, logits) in logits.chunks_mut(num_experts).enumerate() {
                        (0..top_k).for_each(|k| logits[(t * top_k + k) % num_experts] += 1000.0);
                    }
                }
                let touched = touched_experts(&logits, num_experts, top_k);
                (Tensor::from_vec(logits, (n, num_experts), &Device::Cpu).unwrap(), touched)
            })
            .collect();
        let touched = logits.iter().map(|l| l.1).sum::<usize>() / logits.len();
        let time = best(|i| {
            black_box(moe.forward(&x, &logits[i % logits.len()].0).unwrap());
        });
        let weights = touched * 3 * hidden * hidden;
        let bytes = if is_unpacked() { 2 * weights } else { weights / 32 * 17 };
        report("experts", n, bytes, 2 * 3 * hidden * hidden * n * top_k, time, ceiling);
    }
}

fn touched_experts(logits: &[f32], num_experts: usize, top_k: usize) -> usize {
    let mut touched = vec![false; num_experts];
    for logits in logits.chunks(num_experts) {
        let mut order: Vec<usize> = (0..num_experts).collect();
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        order[..top_k].iter().for_each(|e| touched[*e] = true);
    }
    touched.iter().filter(|t| **t).count()
}

fn report(name: &str, n: usize, bytes: usize, flops: usize, time: f64, ceiling: Ceilings) {
    let (bandwidth, rate) = (bytes as f64 / time, flops as f64 / time);
    let of_tiles =
        ceiling.tiles.map_or(String::new(), |tiles| format!(" ({:3.0}% of AMX)", 100.0 * rate / tiles));
    println!(
        "{name:14} {n:4} rows: {:9.3} ms {:6.1} GB/s ({:3.0}% of read) {:8.1} GFLOP/s{of_tiles}",
        time * 1e3,
        bandwidth / 1e9,
        100.0 * bandwidth / ceiling.read,
        rate / 1e9,
    );
}

/// Shortest time of `run` in seconds, over at least five runs and [`BUDGET`]: time on the clock, or with
/// one thread time on the processor, which neighbours do not lengthen.
fn best(mut run: impl FnMut(usize)) -> f64 {
    let (start, mut best) = (Instant::now(), f64::MAX);
    for i in 0.. {
        if i >= 5 && start.elapsed() > BUDGET {
            break;
        }
        let (clock, processor) = (Instant::now(), processor_time());
        run(i);
        let on_clock = clock.elapsed().as_secs_f64();
        let on_processor = processor_time() - processor;
        best = best.min(if num_threads() == 1 && on_processor > 0.0 { on_processor } else { on_clock });
    }
    best
}

/// What the machine reaches in this run, all threads together.
#[derive(Clone, Copy)]
struct Ceilings {
    /// Bytes per second.
    read: f64,
    /// Operations per second of AMX, where it is.
    tiles: Option<f64>,
}

/// Operations per second of a plain loop of tile products on all threads.
fn tile_ceiling() -> Option<f64> {
    #[cfg(target_arch = "x86_64")]
    const PRODUCTS: usize = 40_000;
    #[cfg(target_arch = "x86_64")]
    if Isa::detect() == Isa::Amx {
        let time = best(|_| {
            std::thread::scope(|scope| {
                for _ in 1..num_threads() {
                    // SAFETY: AMX was detected and permitted.
                    scope.spawn(|| unsafe { tile_products(PRODUCTS) });
                }
                // SAFETY: as above.
                unsafe { tile_products(PRODUCTS) };
            });
        });
        let flops = 2 * 16 * 16 * 32 * PRODUCTS * num_threads();
        return Some(flops as f64 / time);
    }
    None
}

/// # Safety
/// AMX must be usable by this process.
#[cfg(target_arch = "x86_64")]
unsafe fn tile_products(count: usize) {
    use std::arch::asm;
    #[repr(align(64))]
    struct Aligned([u8; 1024]);
    let mut config = Aligned([0; 1024]);
    config.0[0] = 1;
    for tile in 0..8 {
        config.0[16 + 2 * tile] = 64;
        config.0[48 + tile] = 16;
    }
    let ones = Aligned(std::array::from_fn(|i| [0x80, 0x3f][i % 2]));
    // SAFETY: the configuration is 64 bytes of palette 1, the operands are 1024 bytes; the tiles are
    // released before this returns, and nothing else on this thread uses them.
    unsafe {
        asm!("ldtilecfg [{}]", in(reg) &config);
        asm!(
            "tileloadd tmm4, [{0} + {1}*1]", "tileloadd tmm5, [{0} + {1}*1]",
            "tileloadd tmm6, [{0} + {1}*1]", "tileloadd tmm7, [{0} + {1}*1]",
            in(reg) &ones, in(reg) 64usize,
        );
        asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3");
        for _ in 0..count / 4 {
            asm!(
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
            );
        }
        asm!("tilerelease");
    }
}

/// Seconds that this thread has spent on a processor, where that can be told.
fn processor_time() -> f64 {
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the call fills the struct that it is given.
        unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
        time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
    }
    #[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
    0.0
}

fn random_bytes(count: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(count + 8);
    while bytes.len() < count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(count);
    bytes
}

/// Normal bf16 numbers around one.
fn random_bf16(count: usize, seed: u64) -> Vec<u8> {
    let mut bytes = random_bytes(2 * count, seed + 100);
    for high in bytes.iter_mut().skip(1).step_by(2) {
        *high = *high & 0x80 | 0x3c;
    }
    bytes
}

fn random_f32(count: usize) -> Vec<f32> {
    random_bytes(count, 5).iter().map(|b| (f32::from(*b) - 127.5) / 64.0).collect()
}
