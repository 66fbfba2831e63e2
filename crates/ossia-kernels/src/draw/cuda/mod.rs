//! Drawing on CUDA: `draw.cu`.

#[cfg(feature = "cuda")]
mod device;
#[cfg(test)]
mod tests;

#[cfg(feature = "cuda")]
pub(super) use device::draw;

use super::{Draw, Drawn};

/// As in the kernel's file.
#[repr(C)]
#[derive(Clone, Copy)]
struct DrawArgs {
    logits: u64,
    uniforms: u64,
    rows: u64,
    scales: u64,
    starts: u64,
    forbidden: u64,
    part_max: u64,
    part_argmax: u64,
    part_sum: u64,
    tokens: u64,
    vocab: u32,
    num_parts: u32,
}

/// Logits of a part, and most parts of a row.
const PART_LEN: usize = 2048;
#[cfg(feature = "cuda")]
const MAX_PARTS: usize = 128;
const THREADS: u32 = 256;
/// Below this temperature the quotients leave f32's range.
const MIN_TEMPERATURE: f32 = 1e-5;

/// Whether a row of so many logits is few enough parts.
#[cfg(feature = "cuda")]
pub(super) fn takes(vocab_size: usize) -> bool {
    vocab_size <= MAX_PARTS * PART_LEN
}

/// What the kernels read, as words.
struct Words {
    words: Vec<u32>,
    /// Where each array begins, in words.
    rows: usize,
    scales: usize,
    starts: usize,
    forbidden: usize,
}

impl Words {
    /// The uniform numbers come first, as the only ones of eight bytes.
    fn new(draws: &[(u32, &Draw)]) -> Self {
        let mut words = Vec::new();
        for (_, draw) in draws {
            let bits = draw.uniform.to_bits();
            words.extend([bits as u32, (bits >> 32) as u32]);
        }
        let rows = words.len();
        words.extend(draws.iter().map(|&(row, _)| row));
        let scales = words.len();
        words.extend(draws.iter().map(|(_, draw)| scale(draw.temperature).to_bits()));
        let starts = words.len();
        let mut start = 0;
        words.push(0);
        for (_, draw) in draws {
            start += draw.forbidden.len() as u32;
            words.push(start);
        }
        let forbidden = words.len();
        words.extend(draws.iter().flat_map(|(_, draw)| &draw.forbidden));
        Self { words, rows, scales, starts, forbidden }
    }

    fn has_forbidden(&self) -> bool {
        self.words.len() > self.forbidden
    }
}

/// What multiplies the logits; 0 stands for the most probable token.
fn scale(temperature: f32) -> f32 {
    if temperature < MIN_TEMPERATURE { 0.0 } else { 1.0 / temperature }
}

/// What the kernel's answer means.
fn drawn(token: u32) -> Drawn {
    match token {
        u32::MAX => Drawn::NotFinite,
        0xffff_fffe => Drawn::NothingAllowed,
        token => Drawn::Token(token),
    }
}
