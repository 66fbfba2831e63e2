//! Buffers that ops borrow and give back: fresh memory costs a page fault per 4 KiB, which at prefill
//! sizes is a quarter of the time of an op.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// Buffers that a thread keeps for its next op; more are returned to the allocator.
const MAX_KEPT: usize = 64;

/// Pages of a buffer that only goes to users of at least a quarter of it (1 MiB).
const LARGE: usize = 1 << 8;

/// Values of a page.
const PAGE_LEN: usize = 1024;

thread_local! {
    static KEPT: RefCell<Vec<Vec<Page>>> = const { RefCell::new(Vec::new()) };
}

/// Values on a page of their own.
#[derive(Clone, Copy)]
#[repr(C, align(4096))]
struct Page([f32; PAGE_LEN]);

/// A borrowed buffer of f32 that starts on a page, so that which addresses look alike to the processor (it compares
/// their low 12 bits to tell whether a load must wait for a store) is the same in each run. Its contents are whatever
/// the last user left.
pub(crate) struct Scratch {
    pages: Vec<Page>,
    len: usize,
}

impl Scratch {
    /// A buffer of `len` values: the smallest kept one that is large enough, or a fresh one.
    pub(crate) fn new(len: usize) -> Self {
        let num_pages = len.div_ceil(PAGE_LEN);
        let fits = num_pages..=(4 * num_pages).max(LARGE);
        let pages = KEPT.with_borrow_mut(|kept| {
            let fitting = (0..kept.len()).filter(|&idx| fits.contains(&kept[idx].len()));
            let smallest = fitting.min_by_key(|&idx| kept[idx].len());
            smallest.map(|idx| kept.swap_remove(idx))
        });
        let pages = pages.unwrap_or_else(|| vec![Page([0.0; PAGE_LEN]); num_pages]);
        Self { pages, len }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let pages = std::mem::take(&mut self.pages);
        // A thread that is ending keeps nothing.
        let _ = KEPT.try_with(|kept| {
            let mut kept = kept.borrow_mut();
            if kept.len() < MAX_KEPT {
                kept.push(pages);
            }
        });
    }
}

impl Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: `pages` hold at least `len` initialised f32 without gaps.
        unsafe { std::slice::from_raw_parts(self.pages.as_ptr().cast(), self.len) }
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as for `deref`, borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.pages.as_mut_ptr().cast(), self.len) }
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
            assert_eq!(a.as_ptr() as usize % 4096, 0);
            a.fill(1.0);
            b.fill(2.0);
            assert!(a.iter().all(|v| *v == 1.0));
        }
    }
}
