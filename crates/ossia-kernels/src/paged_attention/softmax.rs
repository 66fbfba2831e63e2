//! From the logits of some rows and a chunk of keys to powers of two, and what they add to the rows' sums.

use std::ops::Range;

use super::CHUNK_LEN;
use super::chunk::KEY_STEP;
use super::sums::Sums;
use super::vector::{Vector, exp2_nonpositive};

/// Minus infinity where a row does not see a key: the keys before `first` and after `last`, by row.
///
/// # Safety
/// The processor has the instructions of `V`; `keys` are whole vectors of a chunk.
#[inline(always)]
pub(super) unsafe fn mask<V: Vector>(
    logits: &mut [[f32; CHUNK_LEN]],
    first: &[f32],
    last: &[f32],
    keys: Range<usize>,
) {
    let hidden = f32::NEG_INFINITY;
    for ((logits, first), last) in logits.iter_mut().zip(first).zip(last) {
        // SAFETY: the condition is the caller's.
        unsafe {
            let (first, last) = (V::splat(*first), V::splat(*last));
            for key in keys.clone().step_by(V::LANES) {
                let at = logits.as_mut_ptr().add(key);
                let position = V::load(POSITIONS.as_ptr().add(key));
                let logit = V::load(at).where_ge(position, first, V::splat(hidden));
                logit.where_ge(last, position, V::splat(hidden)).store(at);
            }
        }
    }
}

/// Turns the logits of `R` rows into powers relative to the largest so far, and merges maxima and sums into the rows'
/// [`Sums`], whose values are to shrink by what is returned. A row that sees nothing of the chunk keeps its sums as they
/// are: they shrink by 1, and 0 is added.
///
/// # Safety
/// As for [`mask`]; there are `R` rows.
#[inline(always)]
pub(super) unsafe fn powers<V: Vector, const R: usize>(
    logits: &mut [[f32; CHUNK_LEN]],
    sums: &mut [f32],
    keys: Range<usize>,
) -> [f32; R] {
    let mut shrink = [0.0; R];
    let mut new_max = [0.0; R];
    let len = sums.len() / R;
    // SAFETY: the conditions are the caller's.
    unsafe {
        // Row after row for each step, so that rows do not wait for themselves.
        let mut largest = [V::splat(f32::MIN / 2.0); R];
        for (logits, largest) in logits.iter().zip(&mut largest) {
            for key in keys.clone().step_by(V::LANES) {
                *largest = largest.max(V::load(logits.as_ptr().add(key)));
            }
        }
        for (row, sums) in sums.chunks_exact_mut(len).enumerate() {
            let [max, _] = Sums::max_and_sum(sums);
            new_max[row] = largest[row].largest().max(*max);
            shrink[row] = exp2_nonpositive(V::splat(*max - new_max[row])).first();
            *max = new_max[row];
        }
        for (row, (logits, sums)) in logits.iter_mut().zip(sums.chunks_exact_mut(len)).enumerate() {
            let max = V::splat(new_max[row]);
            let mut parts = [V::splat(0.0); 2];
            for key in keys.clone().step_by(V::LANES) {
                let at = logits.as_mut_ptr().add(key);
                let power = exp2_nonpositive(V::load(at).sub(max));
                power.store(at);
                let part = &mut parts[key % KEY_STEP / V::LANES];
                *part = part.add(power);
            }
            let part = if V::LANES < KEY_STEP { parts[0].add(parts[1]) } else { parts[0] };
            let [_, sum] = Sums::max_and_sum(sums);
            *sum = *sum * shrink[row] + part.sum_by_halves();
        }
    }
    shrink
}

/// The positions of a chunk.
static POSITIONS: [f32; CHUNK_LEN] = {
    let mut positions = [0.0; CHUNK_LEN];
    let mut at = 0;
    while at < CHUNK_LEN {
        positions[at] = at as f32;
        at += 1;
    }
    positions
};
