//! The ranks of one process on CUDA devices, over NVIDIA's NCCL. Its work is in order with everything else on a device's stream.

use std::ffi::c_int;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::cuda_backend::cudarc::nccl::result::{self, NcclError, NcclStatus};
use candle_core::cuda_backend::cudarc::nccl::sys;
use candle_core::{DType, Tensor};

use crate::cuda::Kernels;
use crate::{KernelError, Result};

/// The communicators of all ranks: whichever gives up ends them all.
#[derive(Debug)]
pub(super) struct NcclRanks {
    comms: Vec<sys::ncclComm_t>,
    kernels: Vec<Arc<Kernels>>,
    given_up: AtomicBool,
}

// SAFETY: a communicator may be used by any thread, by one at a time: a rank's is used by that rank's thread. Aborting is what another
// thread may do meanwhile.
unsafe impl Send for NcclRanks {}
// SAFETY: as above.
unsafe impl Sync for NcclRanks {}

impl NcclRanks {
    /// One rank on each device.
    pub(super) fn connect(kernels: Vec<Arc<Kernels>>) -> Result<Self> {
        let ordinals: Vec<c_int> = kernels.iter().map(|kernels| kernels.ordinal() as c_int).collect();
        let mut comms: Vec<sys::ncclComm_t> = vec![std::ptr::null_mut(); ordinals.len()];
        // SAFETY: room for one communicator of each device.
        let connected =
            unsafe { result::comm_init_all(comms.as_mut_ptr(), ordinals.len() as c_int, ordinals.as_ptr()) };
        if let Err(NcclError(code)) = connected {
            let message =
                format!("NCCL does not connect CUDA devices {ordinals:?}: {code:?} (is libnccl.so.2 there?)");
            return Err(KernelError::Ranks { message });
        }
        Ok(Self { comms, kernels, given_up: AtomicBool::new(false) })
    }

    pub(super) fn all_reduce(&self, rank: usize, part: &Tensor) -> Result<Tensor> {
        let kernels = &self.kernels[rank];
        let sum = kernels.output(part.shape(), DType::F32)?;
        let (from, to) = (kernels.address(part)?, kernels.address(&sum)?);
        let comm = self.comm(rank)?;
        // SAFETY: both are tensors of so many f32 of the rank's device, used in the order of its stream.
        let sent = unsafe {
            result::all_reduce(
                from as *const _,
                to as *mut _,
                part.elem_count(),
                sys::ncclDataType_t::ncclFloat32,
                sys::ncclRedOp_t::ncclSum,
                comm,
                kernels.cu_stream().cast(),
            )
        };
        self.check(sent)?;
        Ok(sum)
    }

    /// Row by row, in one launch: so the rows come to lie where they belong, and nothing is copied afterwards.
    pub(super) fn all_gather(&self, rank: usize, part: &Tensor) -> Result<Tensor> {
        let kernels = &self.kernels[rank];
        let (rows, cols) = part.dims2()?;
        let row_bytes = (cols * DType::F32.size_in_bytes()) as u64;
        let all = kernels.output((rows, self.comms.len() * cols), DType::F32)?;
        let (from, to) = (kernels.address(part)?, kernels.address(&all)?);
        let comm = self.comm(rank)?;
        self.check(result::group_start())?;
        for row in 0..rows as u64 {
            let (from, to) = (from + row * row_bytes, to + row * row_bytes * self.comms.len() as u64);
            // SAFETY: a row of either tensor, of the rank's device, used in the order of its stream.
            let sent = unsafe {
                result::all_gather(
                    from as *const _,
                    to as *mut _,
                    cols,
                    sys::ncclDataType_t::ncclFloat32,
                    comm,
                    kernels.cu_stream().cast(),
                )
            };
            self.check(sent)?;
        }
        self.check(result::group_end())?;
        Ok(all)
    }

    /// Ends what is under way on all devices; no call is possible afterwards.
    pub(super) fn give_up(&self) {
        if !self.given_up.swap(true, Ordering::SeqCst) {
            for comm in &self.comms {
                // SAFETY: aborted once, and not used afterwards: whoever is inside a call gets an error.
                let _ = unsafe { result::comm_abort(*comm) };
            }
        }
    }

    fn comm(&self, rank: usize) -> Result<sys::ncclComm_t> {
        match self.given_up.load(Ordering::SeqCst) {
            true => Err(KernelError::GaveUp),
            false => Ok(self.comms[rank]),
        }
    }

    fn check(&self, answer: Result<NcclStatus, NcclError>) -> Result<()> {
        match answer {
            Ok(_) => Ok(()),
            Err(_) if self.given_up.load(Ordering::SeqCst) => Err(KernelError::GaveUp),
            Err(NcclError(code)) => Err(KernelError::Ranks { message: format!("NCCL: {code:?}") }),
        }
    }
}

impl Drop for NcclRanks {
    fn drop(&mut self) {
        if !*self.given_up.get_mut() {
            for comm in &self.comms {
                // SAFETY: nobody uses it any more.
                let _ = unsafe { result::comm_destroy(*comm) };
            }
        }
    }
}
