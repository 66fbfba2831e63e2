//! A vector of f32 lanes, per instruction set, and the exponential on it.
//!
//! Every operation works lane by lane, so a lane's bits never depend on its neighbours. The sets with fused
//! multiply-add (AVX2, AVX-512, NEON) give the same bits as each other.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
pub(super) use neon::Neon;
#[cfg(target_arch = "x86_64")]
pub(super) use {
    avx2::Avx2,
    avx512::{Avx512, Bf16Pairs},
};

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
    /// The larger one.
    unsafe fn max(self, other: Self) -> Self;
    /// `self * factor + addend`, in one rounding where the processor can.
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// `self * 2^power` for whole powers from -126 to 127.
    unsafe fn scale_by_pow2(self, power: Self) -> Self;
    /// `self` where `left >= right`, else `other`.
    unsafe fn where_ge(self, left: Self, right: Self, other: Self) -> Self;
    /// The first lane.
    unsafe fn first(self) -> f32;
    /// The largest lane.
    unsafe fn largest(self) -> f32;
    /// The sum of all lanes: the lower half plus the upper one, and so on down to one lane.
    unsafe fn sum_by_halves(self) -> f32;
}

/// `2^x` for `x <= 0`, 0 below -126 (also for minus infinity). Relative error about 1e-7.
///
/// # Safety
/// As for [`Vector`].
#[inline(always)]
pub(super) unsafe fn exp2_nonpositive<V: Vector>(x: V) -> V {
    // 2^x = 2^n 2^r with n whole and |r| <= 1/2, and 2^r by its Taylor polynomial: ln(2)^k / k!.
    const COEFFICIENTS: [f32; 6] =
        [1.333_355_8e-3, 9.618_129e-3, 5.550_411e-2, 2.402_265e-1, std::f32::consts::LN_2, 1.0];
    // Adding 1.5 * 2^23 rounds to a whole number.
    const ROUND: f32 = 12_582_912.0;
    // SAFETY: by the condition above.
    unsafe {
        let n = x.add(V::splat(ROUND)).sub(V::splat(ROUND));
        let r = x.sub(n);
        let mut e = V::splat(1.540_353e-4);
        for coefficient in COEFFICIENTS {
            e = e.mul_add(r, V::splat(coefficient));
        }
        e.scale_by_pow2(n).where_ge(x, V::splat(-126.0), V::splat(0.0))
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
    unsafe fn scale_by_pow2(self, power: Self) -> Self {
        self.zip(power, |x, n| x * f32::from_bits((((n as i32).wrapping_add(127)) << 23) as u32))
    }

    #[inline(always)]
    unsafe fn first(self) -> f32 {
        self.0[0]
    }

    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        self.0.into_iter().fold(f32::NEG_INFINITY, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    unsafe fn sum_by_halves(self) -> f32 {
        let [a, b, c, d, e, f, g, h] = self.0;
        ((a + e) + (c + g)) + ((b + f) + (d + h))
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

    fn check_exp2<V: Vector>() {
        let mut worst = 0f64;
        for step in 0..126_000 {
            let x = -(step as f32) / 1000.0;
            // SAFETY: the callers have asked the processor.
            let found = unsafe { exp2_nonpositive(V::splat(x)).first() };
            let expected = f64::from(x).exp2();
            worst = worst.max((f64::from(found) - expected).abs() / expected);
        }
        assert!(worst < 3e-7, "{worst}");
        for (x, expected) in [(0.0, 1.0), (-127.0, 0.0), (f32::NEG_INFINITY, 0.0), (-1e30, 0.0)] {
            // SAFETY: as above.
            assert_eq!(unsafe { exp2_nonpositive(V::splat(x)).first() }, expected);
        }
    }

    fn check_lanes<V: Vector>() {
        let values: Vec<f32> = (0..16 * 16).map(|i| ((i * 7919) % 1009) as f32 / 7.0 - 70.0).collect();
        let mut half = V::LANES / 2;
        let mut sums = values[..V::LANES].to_vec();
        while half > 0 {
            for lane in 0..half {
                sums[lane] += sums[lane + half];
            }
            half /= 2;
        }
        // SAFETY: the callers have asked the processor; 16 lanes are the most there are.
        unsafe {
            let lanes = V::load(values.as_ptr());
            assert_eq!(lanes.first(), values[0]);
            let largest = values[..V::LANES].iter().copied().fold(f32::MIN, f32::max);
            assert_eq!(lanes.largest(), largest);
            assert_eq!(lanes.sum_by_halves(), sums[0]);
        }
    }

    #[test]
    fn powers_are_accurate_and_lanes_are_in_order() {
        check_exp2::<Portable>();
        check_lanes::<Portable>();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                check_exp2::<Avx2>();
                check_lanes::<Avx2>();
            }
            if is_x86_feature_detected!("avx512f") {
                check_exp2::<Avx512>();
                check_lanes::<Avx512>();
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            check_exp2::<Neon>();
            check_lanes::<Neon>();
        }
    }
}
