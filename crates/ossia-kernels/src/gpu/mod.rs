//! What CUDA and Metal kernels share: the grid of a launch, and the CPU twins with which tests run their sources.

#[cfg(test)]
pub(crate) mod twin;

/// Blocks of threads of a launch; Metal calls them threadgroups.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    /// Blocks in x, y and z.
    pub(crate) blocks: [u32; 3],
    /// Threads of a block: whole warps.
    pub(crate) threads: u32,
}

impl Grid {
    /// A grid of `blocks` of `threads` threads.
    pub(crate) fn new(blocks: [usize; 3], threads: u32) -> Self {
        // Device limits lie far below: a size past u32 would be refused by the driver.
        Self { blocks: blocks.map(|count| u32::try_from(count).unwrap_or(u32::MAX)), threads }
    }
}
