//! What attention sums up for a row, and how two such sums become one.

use std::f32::consts::LOG2_E;

use super::vector::{Vector, exp2_nonpositive};

/// The layout of a row's sums: `dims` weighted values, the largest logit, the sum of the powers of two relative to it,
/// and room up to a whole cache line.
pub(super) struct Sums;

/// Values of a cache line, which every vector divides.
const LINE: usize = 16;

/// The values of a head with room up to whole vectors.
pub(super) fn padded(head_dim: usize) -> usize {
    head_dim.next_multiple_of(LINE)
}

impl Sums {
    /// Values that a row's sums take.
    pub(super) const fn len(dims: usize) -> usize {
        dims + LINE
    }

    /// The sums of no key.
    #[inline(always)]
    pub(super) fn of_nothing(sums: &mut [f32]) {
        let (values, rest) = sums.split_at_mut(sums.len() - LINE);
        values.fill(0.0);
        rest[0] = f32::MIN / 2.0;
        rest[1] = 0.0;
    }

    /// The sums of a sink, which has weight but no value.
    #[inline(always)]
    pub(super) fn of_sink(sums: &mut [f32], sink: f32) {
        let (values, rest) = sums.split_at_mut(sums.len() - LINE);
        values.fill(0.0);
        rest[0] = sink * LOG2_E;
        rest[1] = 1.0;
    }

    /// The largest logit and the sum of powers.
    #[inline(always)]
    pub(super) fn max_and_sum(sums: &mut [f32]) -> [&mut f32; 2] {
        let at = sums.len() - LINE;
        let [max, sum, ..] = &mut sums[at..] else { unreachable!("a line holds two") };
        [max, sum]
    }

    /// Adds the sums of later keys to `total`.
    ///
    /// # Safety
    /// The processor has the instructions of `V`.
    #[inline(always)]
    pub(super) unsafe fn merge<V: Vector>(total: &mut [f32], later: &[f32]) {
        assert!(total.len() == later.len() && total.len().is_multiple_of(LINE));
        let dims = total.len() - LINE;
        let max = total[dims].max(later[dims]);
        // SAFETY: the condition is the caller's; both hold `dims` values, whole vectors.
        unsafe {
            // No closures: they would not be compiled for the instructions of `V`.
            let shrink = exp2_nonpositive(V::splat(total[dims] - max));
            let shrink_later = exp2_nonpositive(V::splat(later[dims] - max));
            for dim in (0..dims).step_by(V::LANES) {
                let at = total.as_mut_ptr().add(dim);
                let later = V::load(later.as_ptr().add(dim)).mul_add(shrink_later, V::splat(0.0));
                V::load(at).mul_add(shrink, later).store(at);
            }
            total[dims + 1] = total[dims + 1] * shrink.first() + later[dims + 1] * shrink_later.first();
        }
        total[dims] = max;
    }

    /// What attention gives: the values divided by the sum.
    pub(super) fn divide(sums: &[f32], out: &mut [f32]) {
        let sum = sums[sums.len() - LINE + 1];
        out.iter_mut().zip(sums).for_each(|(out, value)| *out = value / sum);
    }
}
