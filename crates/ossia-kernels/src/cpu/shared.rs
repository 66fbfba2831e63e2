//! A slice that several threads fill, each its own ranges.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

/// A vector of `len` values, as `fill` writes them: nothing is zeroed first.
///
/// # Safety
/// `fill` writes every value.
pub(crate) unsafe fn filled(len: usize, fill: impl FnOnce(&SharedSlice<MaybeUninit<f32>>)) -> Vec<f32> {
    let mut values = Vec::with_capacity(len);
    fill(&SharedSlice::new(&mut values.spare_capacity_mut()[..len]));
    // SAFETY: the capacity is there, and the values are by the condition above.
    unsafe { values.set_len(len) };
    values
}

/// A mutable slice handed out in ranges that the users keep apart.
pub(crate) struct SharedSlice<'a, T> {
    first: *mut T,
    len: usize,
    lifetime: PhantomData<&'a mut [T]>,
}

// SAFETY: it is a mutable slice, and those may be sent; `range` asks its callers not to overlap.
unsafe impl<T: Send> Sync for SharedSlice<'_, T> {}

impl<'a, T> SharedSlice<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { first: slice.as_mut_ptr(), len: slice.len(), lifetime: PhantomData }
    }

    /// The elements of `range`.
    ///
    /// # Safety
    /// No two ranges that live at the same time overlap.
    ///
    /// # Panics
    /// If the range does not lie within the slice.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn range(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: within the slice, which is borrowed mutably for 'a; the caller keeps ranges apart.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(range.start), range.len()) }
    }
}
