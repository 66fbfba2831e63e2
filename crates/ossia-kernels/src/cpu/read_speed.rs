//! How fast memory can be read: the ceiling of every step that streams weights.

use std::hint::black_box;
use std::time::Instant;

use super::for_each_task;

/// Bytes that one task reads at a time.
const CHUNK_BYTES: usize = 1 << 20;
/// Places that a task reads at the same time: one keeps too few prefetchers busy (two Ice Lake cores: 1 stream 14.1
/// GB/s, 4 streams 22.3, 8 streams 24.3, 16 streams 20.4).
const NUM_STREAMS: usize = 8;
/// Words of a cache line.
const LINE_WORDS: usize = 8;

type Line = [u64; LINE_WORDS];

/// Bytes per second that a plain loop on `threads` threads reads from memory: the best of `passes` passes over
/// `size_bytes`, which should be many times the last-level cache.
pub fn measure_read_speed(size_bytes: usize, threads: usize, passes: usize) -> f64 {
    const WORD: usize = size_of::<u64>();
    // Pages that were never written are all the same page of zeros, and would be read from the cache.
    let words: Vec<u64> = (0..(size_bytes / WORD).max(1) as u64).collect();
    let chunks: Vec<&[u64]> = words.chunks(CHUNK_BYTES / WORD).collect();
    let best_s = (0..passes.max(1))
        .map(|_| {
            let started = Instant::now();
            for_each_task(chunks.len(), threads, |idx| {
                black_box(sum(chunks[idx]));
            });
            started.elapsed().as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min);
    (words.len() * WORD) as f64 / best_s
}

/// The wrapping sum, read as [`NUM_STREAMS`] streams side by side.
fn sum(words: &[u64]) -> u64 {
    let (lines, rest) = words.as_chunks::<LINE_WORDS>();
    let stream_len = lines.len() / NUM_STREAMS;
    let streams: [&[Line]; NUM_STREAMS] =
        std::array::from_fn(|stream| &lines[stream * stream_len..(stream + 1) * stream_len]);
    let mut lanes = [[0u64; LINE_WORDS]; NUM_STREAMS];
    for at in 0..stream_len {
        for (lanes, stream) in lanes.iter_mut().zip(streams) {
            for (lane, word) in lanes.iter_mut().zip(stream[at]) {
                *lane = lane.wrapping_add(word);
            }
        }
    }
    let rest = lines[stream_len * NUM_STREAMS..].iter().flatten().chain(rest);
    lanes.iter().flatten().chain(rest).fold(0, |sum, word| sum.wrapping_add(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_once() {
        for len in [0, 1, 7, 8, 63, 64, 65, 1000] {
            let words: Vec<u64> = (0..len).map(|i| i * i).collect();
            assert_eq!(sum(&words), words.iter().sum::<u64>(), "{len} words");
        }
        assert!(measure_read_speed(3 * CHUNK_BYTES + 8, 2, 2).is_finite());
    }
}
