//! The experts' activation: a clamped SwiGLU with one added to the linear half.

use crate::Isa;

/// Slope of the sigmoid.
pub const SWIGLU_ALPHA: f32 = 1.702;

/// Activates interleaved gate and up values, bias added: `out[i]` from elements `2 * i` and `2 * i + 1`.
pub(super) fn swiglu_rows(isa: Isa, gate_up: &[f32], bias: &[f32], limit: f32, out: &mut [f32]) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a path is chosen only where its instructions were detected.
        Isa::Amx | Isa::Avx512Vnni | Isa::Avx512 => unsafe { rows_avx512(gate_up, bias, limit, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { rows_avx2(gate_up, bias, limit, out) },
        _ => rows(gate_up, bias, limit, out),
    }
}

/// The same loop, compiled for wider registers. No element meets another, so its bits stay the same.
///
/// # Safety
/// AVX-512 F, BW, DQ, VL.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn rows_avx512(gate_up: &[f32], bias: &[f32], limit: f32, out: &mut [f32]) {
    rows(gate_up, bias, limit, out);
}

/// As [`rows_avx512`].
///
/// # Safety
/// AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn rows_avx2(gate_up: &[f32], bias: &[f32], limit: f32, out: &mut [f32]) {
    rows(gate_up, bias, limit, out);
}

#[inline(always)]
fn rows(gate_up: &[f32], bias: &[f32], limit: f32, out: &mut [f32]) {
    let pairs = gate_up.chunks_exact(2).zip(bias.chunks_exact(2));
    for (out, (v, b)) in out.iter_mut().zip(pairs) {
        *out = swiglu(v[0] + b[0], v[1] + b[1], limit);
    }
}

/// `(up + 1) * gate * sigmoid(1.702 * gate)`, gate clamped above and up on both sides. NaN stays NaN.
#[inline(always)]
fn swiglu(gate: f32, up: f32, limit: f32) -> f32 {
    let gate = if gate > limit { limit } else { gate };
    let up = if up > limit { limit } else { up };
    let up = if up < -limit { -limit } else { up };
    (up + 1.0) * (gate / (1.0 + exp(-SWIGLU_ALPHA * gate)))
}

/// `e^x` within 3 units in the last place, saturating at both ends of the normal numbers; a plain
/// polynomial without branches, which the compiler vectorises.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer
    let x = if x > 88.0 { 88.0 } else { x };
    let x = if x < -87.0 { -87.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    let r = (x - n * 0.693_359_4) + n * 2.121_944_4e-4; // ln 2 in two parts
    let p = 1.0 / 5040.0;
    let p = p * r + 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * (r * r) + r + 1.0;
    f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_agrees_with_f64() {
        for i in -87_000..88_000 {
            let x = i as f32 / 1000.0;
            let (found, expected) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((found / expected - 1.0).abs() < 4e-7, "exp({x}) = {found}, should be {expected}");
        }
    }

    #[test]
    fn clamps_at_the_limit() {
        let at_limit = swiglu(7.0, 7.0, 7.0);
        assert_eq!(swiglu(100.0, 100.0, 7.0), at_limit);
        assert_eq!(swiglu(f32::INFINITY, f32::INFINITY, 7.0), at_limit);
        assert_eq!(swiglu(1.0, -7.0, 7.0), swiglu(1.0, -50.0, 7.0));
        assert!((at_limit - 8.0 * 7.0 / (1.0 + (-1.702f32 * 7.0).exp())).abs() < 1e-5);
        assert!(swiglu(-1000.0, 1.0, 7.0).abs() < 1e-30, "gate has no lower bound");
        assert!(swiglu(f32::NAN, 1.0, 7.0).is_nan() && swiglu(1.0, f32::NAN, 7.0).is_nan());
    }

    #[test]
    fn every_path_and_position_gives_the_same_bits() {
        let values: Vec<f32> = (0..70).map(|i| (i as f32 - 35.0) * 0.37).collect();
        let bias = vec![0.25; 70];
        let alone: Vec<f32> = values.chunks(2).map(|v| swiglu(v[0] + 0.25, v[1] + 0.25, 7.0)).collect();
        for isa in [Isa::Portable, Isa::Avx2, Isa::Avx512].into_iter().filter(|i| i.is_available()) {
            let mut out = vec![0.0; 35];
            swiglu_rows(isa, &values, &bias, 7.0, &mut out);
            assert_eq!(out, alone, "{isa:?}");
        }
    }
}
