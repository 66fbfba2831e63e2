//! Which instruction set the matrix products use.

use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
use super::bf16_pairs::{Bf16Pairs, bf16_pairs};
use crate::{KernelError, Result};

/// Instruction sets with a path of their own, best last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Plain Rust, any processor.
    Portable,
    /// aarch64, whose every processor has it.
    Neon,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ and VL.
    Avx512,
    /// [`Isa::Avx512`] and VNNI, its products of small integers.
    Avx512Vnni,
    /// [`Isa::Avx512Vnni`] and AMX tiles with bf16 products, permitted by the operating system.
    Amx,
}

impl Isa {
    /// The best set that this processor and operating system offer. Looked up once per process.
    pub fn detect() -> Self {
        static DETECTED: OnceLock<Isa> = OnceLock::new();
        *DETECTED.get_or_init(detect)
    }

    /// Whether this processor can run the set.
    pub fn is_available(self) -> bool {
        match self {
            Self::Neon => Self::detect() == Self::Neon,
            _ => self <= Self::detect(),
        }
    }

    /// Name for logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Neon => "NEON",
            Self::Avx2 => "AVX2",
            Self::Avx512 => "AVX-512",
            Self::Avx512Vnni => "AVX-512 VNNI",
            Self::Amx => "AMX",
        }
    }

    /// Name of [`Self::detect`] with what else products take beside it, for logs.
    pub fn in_full() -> &'static str {
        match Self::detect() {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni if bf16_pairs() == Bf16Pairs::Fast => "AVX-512 VNNI and BF16",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 if has_avx_vnni() => "AVX2 and AVX-VNNI",
            isa => isa.name(),
        }
    }

    /// Itself, or an error where it cannot run.
    pub(crate) fn checked(self) -> Result<Self> {
        if self.is_available() {
            return Ok(self);
        }
        Err(KernelError::IsaUnavailable { isa: self.name() })
    }
}

/// Whether products of 16-bit integers are summed by one instruction of 256 bits.
#[cfg(target_arch = "x86_64")]
pub(crate) fn has_avx_vnni() -> bool {
    is_x86_feature_detected!("avxvnni")
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Isa {
    if cfg!(target_arch = "aarch64") { Isa::Neon } else { Isa::Portable }
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Isa {
    let avx2 = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c");
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    let vnni = is_x86_feature_detected!("avx512vnni");
    match (avx2, avx512, vnni) {
        (true, true, true) if super::amx::is_usable() => Isa::Amx,
        (true, true, true) => Isa::Avx512Vnni,
        (true, true, false) => Isa::Avx512,
        (true, false, _) => Isa::Avx2,
        _ => Isa::Portable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_detected_set_and_those_below_are_available() {
        assert!(Isa::detect().is_available());
        assert!(Isa::Portable.checked().is_ok());
        assert!(Isa::in_full().starts_with(Isa::detect().name()));
    }
}
