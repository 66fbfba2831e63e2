//! AMX: permission, tile configuration and the instructions that the products use.
//!
//! The instructions are inline assembly because their intrinsics are not stable. A tile register lives
//! from [`TileConfig::load`] to the drop of the guard it returns, on one thread; the compiler knows
//! nothing of them and never touches them.

use std::arch::asm;
use std::marker::PhantomData;

/// Rows of a full tile.
pub(crate) const TILE_ROWS: usize = 16;
/// Bytes in a row of a full tile.
pub(crate) const TILE_ROW_BYTES: usize = 64;
/// Bytes of a full tile.
pub(crate) const TILE_BYTES: usize = TILE_ROWS * TILE_ROW_BYTES;

/// Whether tiles exist and the kernel lets this process use them. Asks for the permission on Linux.
pub(super) fn is_usable() -> bool {
    const AMX_BF16_TILE_INT8: u32 = 1 << 22 | 1 << 24 | 1 << 25;
    let leaf = std::arch::x86_64::__cpuid_count(7, 0);
    leaf.edx & AMX_BF16_TILE_INT8 == AMX_BF16_TILE_INT8 && request_permission()
}

#[cfg(target_os = "linux")]
fn request_permission() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: arch_prctl with this code takes an integer, touches no memory of ours and only lets the
    // process use a larger register state.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn request_permission() -> bool {
    false
}

/// Shapes of the eight tile registers, as `ldtilecfg` reads them.
#[repr(C, align(64))]
pub(crate) struct TileConfig {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl TileConfig {
    /// Rows of each tile and bytes of each row.
    pub(crate) fn new(shapes: [(usize, usize); 8]) -> Self {
        let mut config =
            Self { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        for (tile, (rows, row_bytes)) in shapes.into_iter().enumerate() {
            config.rows[tile] = rows as u8;
            config.row_bytes[tile] = row_bytes as u16;
        }
        config
    }

    /// All eight tiles with 16 rows of 64 bytes, except those named, whose rows have `row_bytes` bytes.
    pub(crate) fn with_narrow(tiles: &[usize], row_bytes: usize) -> Self {
        let row_bytes = |tile| if tiles.contains(&tile) { row_bytes } else { TILE_ROW_BYTES };
        Self::new(std::array::from_fn(|tile| (TILE_ROWS, row_bytes(tile))))
    }

    /// Configures the tiles of this thread until the guard is dropped.
    ///
    /// # Safety
    /// The AMX path was detected, and the shapes are at most 16 rows of 64 bytes.
    pub(crate) unsafe fn load(&self) -> Tiles {
        // SAFETY: the caller has AMX; `self` is 64 readable bytes in the layout of palette 1.
        unsafe { asm!("ldtilecfg [{}]", in(reg) self, options(nostack, preserves_flags, readonly)) };
        Tiles(PhantomData)
    }
}

/// Configured tiles; dropping it releases them, so that context switches stay cheap. Not `Send`.
pub(crate) struct Tiles(PhantomData<*const ()>);

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: a `Tiles` exists only after `ldtilecfg` ran on this thread.
        unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) };
    }
}

/// `tmmN = 0`. Needs `unsafe`: tiles must be configured on this thread.
macro_rules! tile_zero {
    ($tile:literal) => {
        core::arch::asm!(concat!("tilezero tmm", $tile), options(nostack, preserves_flags, nomem))
    };
}

/// `tmmN = rows at base, base + stride, ...`. Needs `unsafe`: configured tiles, readable rows.
macro_rules! tile_load {
    ($tile:literal, $base:expr, $stride:expr) => {
        core::arch::asm!(
            concat!("tileloadd tmm", $tile, ", [{base} + {stride}*1]"),
            base = in(reg) $base,
            stride = in(reg) $stride,
            options(nostack, preserves_flags, readonly)
        )
    };
}

/// `rows at base, base + stride, ... = tmmN`. Needs `unsafe`: configured tiles, writable rows.
macro_rules! tile_store {
    ($tile:literal, $base:expr, $stride:expr) => {
        core::arch::asm!(
            concat!("tilestored [{base} + {stride}*1], tmm", $tile),
            base = in(reg) $base,
            stride = in(reg) $stride,
            options(nostack, preserves_flags)
        )
    };
}

/// `tmmC += tmmA (rows x bf16 pairs) * tmmB (pairs x columns)`. Needs `unsafe`: configured tiles.
macro_rules! tile_dot {
    ($c:literal, $a:literal, $b:literal) => {
        core::arch::asm!(
            concat!("tdpbf16ps tmm", $c, ", tmm", $a, ", tmm", $b),
            options(nostack, preserves_flags, nomem)
        )
    };
}

/// `tmmC += tmmA (rows x signed bytes) * tmmB (bytes in fours x columns, signed)`. Needs `unsafe`: configured tiles.
macro_rules! tile_dot_i8 {
    ($c:literal, $a:literal, $b:literal) => {
        core::arch::asm!(
            concat!("tdpbssd tmm", $c, ", tmm", $a, ", tmm", $b),
            options(nostack, preserves_flags, nomem)
        )
    };
}

/// As [`tile_dot_i8`] with unsigned bytes in `tmmA`.
macro_rules! tile_dot_u8 {
    ($c:literal, $a:literal, $b:literal) => {
        core::arch::asm!(
            concat!("tdpbusd tmm", $c, ", tmm", $a, ", tmm", $b),
            options(nostack, preserves_flags, nomem)
        )
    };
}

pub(crate) use {tile_dot, tile_dot_i8, tile_dot_u8, tile_load, tile_store, tile_zero};
