//! Buffers that ops borrow and give back: fresh memory costs a page fault per 4 KiB, which at prefill
//! sizes is a quarter of the time of an op.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// Buffers that a thread keeps for its next op; more are returned to the allocator.
const MAX_KEPT: usize = 64;

/// Lines of a buffer that only goes to users of at least a quarter of it (1 MiB).
const LARGE: usize = 1 << 14;

thread_local! {
    static KEPT: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// 16 values on a cache line of their own.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// A borrowed buffer of f32 that starts on a cache line. Its contents are whatever the last user left.
pub(crate) struct Scratch {
    lines: Vec<Line>,
    len: usize,
}

impl Scratch {
    /// A buffer of `len` values: the smallest kept one that is large enough, or a fresh one.
    pub(crate) fn new(len: usize) -> Self {
        let num_lines = len.div_ceil(16);
        let fits = num_lines..=(4 * num_lines).max(LARGE);
        let lines = KEPT.with_borrow_mut(|kept| {
            let fitting = (0..kept.len()).filter(|&idx| fits.contains(&kept[idx].len()));
            let smallest = fitting.min_by_key(|&idx| kept[idx].len());
            smallest.map(|idx| kept.swap_remove(idx))
        });
        let lines = lines.unwrap_or_else(|| vec![Line([0.0; 16]); num_lines]);
        Self { lines, len }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        // A thread that is ending keeps nothing.
        let _ = KEPT.try_with(|kept| {
            let mut kept = kept.borrow_mut();
            if kept.len() < MAX_KEPT {
                kept.push(lines);
            }
        });
    }
}

impl Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: `lines` hold at least `len` initialised f32 without gaps.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as for `deref`, borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_buffers_at_a_time_are_two() {
        for len in [1, 16, 17, 1000] {
            let (mut a, mut b) = (Scratch::new(len), Scratch::new(len));
            assert_eq!((a.len(), b.len()), (len, len));
            assert_eq!(a.as_ptr() as usize % 64, 0);
            a.fill(1.0);
            b.fill(2.0);
            assert!(a.iter().all(|v| *v == 1.0));
        }
    }
}
