//! CUDA kernels: sources beside the ops they serve, `kernel.h` and `shim.h` that all of them share, the module that is
//! loaded onto a device, and the CPU twins with which the tests run them.

#[cfg(feature = "cuda")]
mod module;
#[cfg(test)]
pub(crate) mod twin;

#[cfg(feature = "cuda")]
pub(crate) use module::Kernels;

/// Blocks of threads of a launch.
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
