//! Launches that are recorded in a CUDA graph and replayed as a whole.

use std::fmt;

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaGraph, sys};

use super::Kernels;
use crate::{KernelError, Result};

/// Launches that were recorded.
pub(crate) struct Graph(CudaGraph);

// SAFETY: a graph is used by one thread at a time, since launching it takes what owns it.
unsafe impl Send for Graph {}

impl Graph {
    /// Runs them on their stream.
    pub(crate) fn launch(&self) -> Result<()> {
        Ok(self.0.launch().w()?)
    }
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Graph")
    }
}

impl Kernels {
    /// Records what `work` launches, which does not run yet. Memory that it takes must be given back in it.
    pub(crate) fn record<E: From<KernelError>>(
        &self,
        work: impl FnOnce() -> Result<(), E>,
    ) -> Result<Graph, E> {
        let candle = |error: candle_core::Error| E::from(error.into());
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.stream.begin_capture(mode).w().map_err(candle)?;
        let worked = work();
        // A capture ends whatever became of the work.
        let graph = self.stream.end_capture(sys::CUgraphInstantiate_flags(0)).w().map_err(candle);
        match (worked, graph) {
            (Ok(()), Ok(Some(graph))) => Ok(Graph(graph)),
            (worked, graph) => {
                // What could not be given back within a capture that failed is no error of what comes after.
                let _ = self.stream.context().check_err();
                worked?;
                graph?;
                Err(candle(candle_core::Error::Msg("the driver recorded nothing".to_owned())))
            }
        }
    }
}
