//! A vector of f32 lanes, per instruction set, and the exponential on it.
//!
//! Every operation works lane by lane, so a lane's bits never depend on its neighbours. The sets with fused
//! multiply-add (AVX2, AVX-512, NEON) give the same bits as each other.

#[cfg(target_arch = "x86_64")]
mod x86;
#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

/// Lanes of f32. All methods need a processor with the implementing type's instructions.
pub(super) trait Vector: Copy {
    /// Number of lanes.
    const LANES: usize;
    /// How many vectors of rows the register file can carry beside four rows of accumulators.
    const MAX_VECTORS: usize;

    /// All lanes `x`.
    unsafe fn splat(x: f32) -> Self;
    /// [`Self::LANES`] values from `from`, of any alignment.
    unsafe fn load(from: *const f32) -> Self;
    /// Writes [`Self::LANES`] values to `to`, of any alignment.
    unsafe fn store(self, to: *mut f32);
    /// `self + other`.
    unsafe fn add(self, other: Self) -> Self;
    /// `self - other`.
    unsafe fn sub(self, other: Self) -> Self;
    /// `self * other`.
    unsafe fn mul(self, other: Self) -> Self;
    /// The larger one.
    unsafe fn max(self, other: Self) -> Self;
    /// `self * factor + addend`, in one rounding where the processor can.
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// `2^self` for whole numbers from -126 to 127.
    unsafe fn pow2(self) -> Self;
    /// `self` where `left >= right`, else `other`.
    unsafe fn where_ge(self, left: Self, right: Self, other: Self) -> Self;
}

/// `e^x` for `x <= 0`, 0 below -87 (also for minus infinity). Relative error about 1e-7.
///
/// # Safety
/// As for [`Vector`].
#[inline(always)]
pub(super) unsafe fn exp_nonpositive<V: Vector>(x: V) -> V {
    // e^x = 2^n e^r with n whole and |r| <= ln(2) / 2, and e^r by its Taylor polynomial.
    const COEFFICIENTS: [f32; 7] = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
    // Adding 1.5 * 2^23 rounds to a whole number.
    const ROUND: f32 = 12_582_912.0;
    // ln(2) in two parts: the first has few bits, so that its multiples are exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // SAFETY: by the condition above.
    unsafe {
        let n = x.mul_add(V::splat(std::f32::consts::LOG2_E), V::splat(ROUND)).sub(V::splat(ROUND));
        let r = n.mul_add(V::splat(-LN_2_HIGH), x);
        let r = n.mul_add(V::splat(-LN_2_LOW), r);
        let mut e = V::splat(1.0 / 5040.0);
        for coefficient in COEFFICIENTS {
            e = e.mul_add(r, V::splat(coefficient));
        }
        let zero = V::splat(0.0);
        e.mul(n.pow2()).where_ge(x, V::splat(-87.0), zero)
    }
}

/// Plain Rust, for any processor.
#[derive(Clone, Copy)]
pub(super) struct Portable([f32; 8]);

impl Portable {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|lane| f(self.0[lane], other.0[lane])))
    }
}

impl Vector for Portable {
    const LANES: usize = 8;
    const MAX_VECTORS: usize = 1;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self([x; 8])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller has 8 readable values at `from`.
        Self(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller has room for 8 values at `to`.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        // Without an instruction for it, a fused multiply-add is a slow library call.
        const FUSED: bool = cfg!(any(target_feature = "fma", target_arch = "aarch64"));
        Self(std::array::from_fn(|lane| {
            let (a, b, c) = (self.0[lane], factor.0[lane], addend.0[lane]);
            if FUSED { a.mul_add(b, c) } else { a * b + c }
        }))
    }

    #[inline(always)]
    unsafe fn pow2(self) -> Self {
        Self(self.0.map(|n| f32::from_bits((((n as i32).wrapping_add(127)) << 23) as u32)))
    }

    #[inline(always)]
    unsafe fn where_ge(self, left: Self, right: Self, other: Self) -> Self {
        Self(std::array::from_fn(
            |lane| {
                if left.0[lane] >= right.0[lane] { self.0[lane] } else { other.0[lane] }
            },
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_exp<V: Vector>() {
        let mut worst = 0f64;
        for step in 0..87_000 {
            let x = -(step as f32) / 1000.0;
            let mut lanes = [0f32; 16];
            // SAFETY: the callers have asked the processor; 16 lanes are the most there are.
            unsafe { exp_nonpositive(V::splat(x)).store(lanes.as_mut_ptr()) };
            let expected = f64::from(x).exp();
            worst = worst.max((f64::from(lanes[0]) - expected).abs() / expected);
        }
        assert!(worst < 3e-7, "{worst}");
        for (x, expected) in [(0.0, 1.0), (-88.0, 0.0), (f32::NEG_INFINITY, 0.0), (-1e30, 0.0)] {
            let mut lanes = [9f32; 16];
            // SAFETY: as above.
            unsafe { exp_nonpositive(V::splat(x)).store(lanes.as_mut_ptr()) };
            assert_eq!(lanes[0], expected);
        }
    }

    #[test]
    fn exponential_is_accurate() {
        check_exp::<Portable>();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                check_exp::<Avx2>();
            }
            if is_x86_feature_detected!("avx512f") {
                check_exp::<Avx512>();
            }
        }
    }
}
