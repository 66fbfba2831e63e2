//! What the C library and the system are told about our memory.

/// Has the C library keep freed memory for the next allocation, where it is glibc. By itself it gives a tensor of some
/// megabytes back to the system each time, and each pass then pays a page fault per 4 KiB for the next: 5 to 7% of a
/// prefill on one machine. What is kept is what passes needed at most.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// The most that glibc takes.
        const MAP_FROM: i32 = 32 << 20;
        const TRIM_FROM: i32 = 1 << 30;
        // SAFETY: these set numbers that later allocations read; a refusal changes nothing.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, MAP_FROM);
            libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_FROM);
        }
    }
}

/// Asks memory for a cache line, wherever `line` points, to come as far as the second level.
#[inline(always)]
pub(crate) fn prefetch(line: *const u8) {
    // SAFETY: the instruction is part of every such processor, and asking for memory reads none.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(line.cast());
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        std::arch::asm!("prfm pldl2keep, [{}]", in(reg) line, options(readonly, nostack, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = line;
}

/// Asks the system for huge pages of 2 MiB behind `values`, where it has them. To be called before the values are written:
/// what has its pages keeps them. Whoever reads megabytes a KiB here and there else waits for the addresses of pages.
pub fn ask_for_huge_pages<T>(values: &mut [T]) {
    #[cfg(target_os = "linux")]
    {
        const HUGE: usize = 2 << 20;
        let bytes = values.as_mut_ptr().cast::<u8>();
        let before = bytes.align_offset(HUGE);
        let len = size_of_val(values).saturating_sub(before) / HUGE * HUGE;
        if len > 0 {
            // SAFETY: the pages lie within the values, none of which this changes; a refusal costs speed only.
            unsafe { libc::madvise(bytes.wrapping_add(before).cast(), len, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = values;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_as_they_are() {
        for len in [0, 1, 5 << 20] {
            let mut values = vec![0u8; len];
            ask_for_huge_pages(&mut values);
            assert!(values.iter().all(|value| *value == 0));
            values.fill(7);
            ask_for_huge_pages(&mut values);
            assert!(values.iter().all(|value| *value == 7));
        }
    }
}
