//! Metal kernels: sources beside the ops they serve, `prelude.h` and `shim.h` that all of them share, and the library that
//! is compiled from them on the device.

mod kernels;

pub(crate) use kernels::MetalKernels;
