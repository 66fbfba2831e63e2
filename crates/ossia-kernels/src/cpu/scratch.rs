//! Buffers that ops borrow and give back: fresh memory costs a page fault per 4 KiB and zeros that nobody reads, which at
//! prefill sizes is a quarter of the time of an op.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

/// Small buffers that a thread keeps for its next op, where they are in its cache; more are returned to the allocator.
const MAX_OWN: usize = 64;

/// Large buffers that the process keeps, for whichever thread comes: one packs activations, another one gives them back.
/// As many as two projections have that visit a few hundred experts.
const MAX_SHARED: usize = 512;

/// Pages of a large buffer (64 KiB).
const LARGE: usize = 1 << 4;

/// Pages up to which a buffer serves any user (1 MiB); a larger one serves those of at least a quarter of it.
const SERVES_ALL: usize = 1 << 8;

/// Values of a page.
const PAGE_LEN: usize = 1024;

thread_local! {
    static OWN: RefCell<Vec<Vec<Page>>> = const { RefCell::new(Vec::new()) };
}

static SHARED: Mutex<Vec<Vec<Page>>> = Mutex::new(Vec::new());

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
        let kept = match num_pages {
            LARGE.. => take(&mut SHARED.lock().unwrap_or_else(PoisonError::into_inner), num_pages),
            _ => OWN.with_borrow_mut(|own| take(own, num_pages)),
        };
        Self { pages: kept.unwrap_or_else(|| vec![Page([0.0; PAGE_LEN]); num_pages]), len }
    }
}

/// The smallest of the buffers that is large enough.
fn take(kept: &mut Vec<Vec<Page>>, num_pages: usize) -> Option<Vec<Page>> {
    let fits = num_pages..=(4 * num_pages).max(SERVES_ALL);
    let fitting = (0..kept.len()).filter(|&idx| fits.contains(&kept[idx].len()));
    let smallest = fitting.min_by_key(|&idx| kept[idx].len())?;
    Some(kept.swap_remove(smallest))
}

/// Keeps a buffer, of at most `max`.
fn keep(kept: &mut Vec<Vec<Page>>, pages: Vec<Page>, max: usize) {
    if kept.len() < max {
        kept.push(pages);
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let pages = std::mem::take(&mut self.pages);
        if pages.len() >= LARGE {
            return keep(&mut SHARED.lock().unwrap_or_else(PoisonError::into_inner), pages, MAX_SHARED);
        }
        // A thread that is ending keeps nothing.
        let _ = OWN.try_with(|own| keep(&mut own.borrow_mut(), pages, MAX_OWN));
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
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn two_buffers_at_a_time_are_two() {
        for len in [1, 16, 17, 1000, LARGE * PAGE_LEN + 1] {
            let (mut a, mut b) = (Scratch::new(len), Scratch::new(len));
            assert_eq!((a.len(), b.len()), (len, len));
            assert_eq!(a.as_ptr() as usize % 4096, 0);
            a.fill(1.0);
            b.fill(2.0);
            assert!(a.iter().all(|v| *v == 1.0));
        }
    }

    #[test]
    fn what_one_thread_gives_back_another_one_gets() {
        // No other test asks for as much.
        let len = 100 * SERVES_ALL * PAGE_LEN;
        std::thread::spawn(move || Scratch::new(len)[0] = 7.0).join().unwrap();
        // A fresh buffer begins with zero, even where an old one was.
        assert_eq!(Scratch::new(len)[0], 7.0);
    }
}
