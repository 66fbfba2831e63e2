//! Drawing on CUDA: `draw.cu`, and `draw_filtered.cu` for rows that have filters.

#[cfg(feature = "cuda")]
mod device;
#[cfg(test)]
mod tests;

#[cfg(feature = "cuda")]
pub(super) use device::draw;

use super::{Draw, Drawn, Filters};
use crate::gpu::Grid;

/// As in the kernel's file.
#[repr(C)]
#[derive(Clone, Copy)]
struct DrawArgs {
    logits: u64,
    uniforms: u64,
    redraws: u64,
    rows: u64,
    scales: u64,
    top_ks: u64,
    top_ps: u64,
    min_logits: u64,
    starts: u64,
    forbidden: u64,
    masked: u64,
    masks: u64,
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
/// Of the kernel for rows that have filters.
const FILTER_THREADS: u32 = 1024;
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
    redraws: usize,
    rows: usize,
    scales: usize,
    top_ks: usize,
    top_ps: usize,
    min_logits: usize,
    starts: usize,
    forbidden: usize,
    masked: usize,
    masks: usize,
}

impl Words {
    /// What is of eight bytes comes first.
    fn new(draws: &[(u32, &Draw)], vocab: usize) -> Self {
        let mut words = Vec::new();
        let halves = |bits: u64| [bits as u32, (bits >> 32) as u32];
        push(&mut words, draws.iter().flat_map(|(_, draw)| halves(draw.uniform.to_bits())));
        let filters = || draws.iter().map(|(_, draw)| filters(draw));
        let redraws = |filters: Option<&Filters>| filters.map_or(0, |filters| filters.redraws.state());
        let redraws = push(&mut words, filters().flat_map(|filters| halves(redraws(filters))));
        let rows = push(&mut words, draws.iter().map(|&(row, _)| row));
        let scales = push(&mut words, draws.iter().map(|(_, draw)| scale(draw.temperature).to_bits()));
        let top_ks = push(&mut words, filters().map(|filters| filters.map_or(0, |filters| filters.top_k)));
        let top_p = |filters: Option<&Filters>| filters.map_or(1.0, |filters| filters.top_p);
        let top_ps = push(&mut words, filters().map(|filters| top_p(filters).to_bits()));
        let min_logits = push(&mut words, draws.iter().map(|(_, draw)| min_logit(draw).to_bits()));
        let ends = draws.iter().scan(0, |end, (_, draw)| {
            *end += draw.forbidden.len() as u32;
            Some(*end)
        });
        let starts = push(&mut words, std::iter::once(0).chain(ends));
        let forbidden = push(&mut words, draws.iter().flat_map(|(_, draw)| draw.forbidden.iter().copied()));
        let rows_and_masks =
            || draws.iter().enumerate().filter_map(|(row, (_, draw))| Some((row, draw.allowed.as_ref()?)));
        let masked = push(&mut words, rows_and_masks().map(|(row, _)| row as u32));
        let mask_len = vocab.div_ceil(32);
        let masks = words.len();
        for (_, mask) in rows_and_masks() {
            let end = words.len() + mask_len;
            words.extend_from_slice(&mask[..mask.len().min(mask_len)]);
            words.resize(end, 0);
        }
        Self { words, redraws, rows, scales, top_ks, top_ps, min_logits, starts, forbidden, masked, masks }
    }

    /// The kernels' arguments, if the words begin at `base`.
    fn args(&self, base: u64, on_device: &OnDevice) -> DrawArgs {
        let at = |word: usize| base + 4 * word as u64;
        DrawArgs {
            logits: on_device.logits,
            uniforms: at(0),
            redraws: at(self.redraws),
            rows: at(self.rows),
            scales: at(self.scales),
            top_ks: at(self.top_ks),
            top_ps: at(self.top_ps),
            min_logits: at(self.min_logits),
            starts: at(self.starts),
            forbidden: at(self.forbidden),
            masked: at(self.masked),
            masks: at(self.masks),
            part_max: on_device.part_max,
            part_argmax: on_device.part_argmax,
            part_sum: on_device.part_sum,
            tokens: on_device.tokens,
            vocab: on_device.vocab as u32,
            num_parts: on_device.vocab.div_ceil(PART_LEN) as u32,
        }
    }
}

/// Addresses of what the words are not, and the width of a row.
struct OnDevice {
    logits: u64,
    part_max: u64,
    part_argmax: u64,
    part_sum: u64,
    tokens: u64,
    vocab: usize,
}

/// The kernels of some draws in their order, with the grid of each.
fn launches(draws: &[(u32, &Draw)], vocab: usize) -> Vec<(&'static str, Grid)> {
    let (count, num_parts) = (draws.len(), vocab.div_ceil(PART_LEN));
    let each = |threads| Grid::new([count, 1, 1], threads);
    let mut launches = Vec::new();
    if draws.iter().any(|(_, draw)| !draw.forbidden.is_empty()) {
        launches.push(("draw_forbid_f32", each(THREADS)));
    }
    let num_masks = draws.iter().filter(|(_, draw)| draw.allowed.is_some()).count();
    if num_masks > 0 {
        launches.push(("draw_mask_f32", Grid::new([num_parts, num_masks, 1], THREADS)));
    }
    launches.push(("draw_parts_f32", Grid::new([num_parts, count, 1], THREADS)));
    launches.push(("draw_token_f32", each(THREADS)));
    if draws.iter().any(|(_, draw)| filters(draw).is_some()) {
        launches.push(("draw_filtered_f32", each(FILTER_THREADS)));
    }
    launches
}

/// Adds values, and says where they begin.
fn push(words: &mut Vec<u32>, values: impl Iterator<Item = u32>) -> usize {
    let start = words.len();
    words.extend(values);
    start
}

/// What filters a row: nothing where the most probable token is taken.
fn filters(draw: &Draw) -> Option<&Filters> {
    draw.filters.as_ref().filter(|_| scale(draw.temperature) > 0.0)
}

/// How far below the largest logit the last one may lie that min_p keeps, as a number of at most 0.
fn min_logit(draw: &Draw) -> f32 {
    match filters(draw) {
        Some(filters) if filters.min_p > 0.0 => draw.temperature * filters.min_p.ln(),
        _ => f32::NEG_INFINITY,
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
