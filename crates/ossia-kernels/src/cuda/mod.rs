//! CUDA kernels: sources beside the ops they serve, `kernel.h` and `shim.h` that all of them share, and the module that is
//! loaded onto a device.

mod graph;
mod module;

pub(crate) use graph::Graph;
pub(crate) use module::Kernels;
