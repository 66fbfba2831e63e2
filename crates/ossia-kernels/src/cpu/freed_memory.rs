//! What the C library does with memory that was given back to it.

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
