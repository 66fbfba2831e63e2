//! Work of a device that is recorded once and replayed: a pass that launches the same kernels over the same memory as one before
//! costs the host a single call. On CUDA a recording is a graph; elsewhere nothing is recorded.

#[cfg(feature = "cuda")]
use std::collections::HashMap;

#[cfg(feature = "cuda")]
use candle_core::DType;
use candle_core::Tensor;

use crate::Result;
use crate::backend::Backend;
#[cfg(feature = "cuda")]
use crate::backend::Form;
#[cfg(feature = "cuda")]
use crate::cuda::{Graph, Kernels};

/// What was recorded, by what tells apart passes that launch something else.
#[derive(Debug, Default)]
pub struct Recordings {
    #[cfg(feature = "cuda")]
    entries: HashMap<Vec<u64>, Entry>,
    /// Where every recording leaves its result, f32.
    #[cfg(feature = "cuda")]
    result: Option<Tensor>,
    /// Whether a pass did something that cannot be recorded; the next ones would too.
    #[cfg(feature = "cuda")]
    is_off: bool,
}

#[cfg(feature = "cuda")]
#[derive(Debug)]
enum Entry {
    /// Ran once, with a result of this shape.
    Seen(Vec<usize>),
    /// The launches, and their result's place.
    Recorded(Graph, Tensor),
}

impl Recordings {
    /// Runs `work`, or what it launched the last time with this `key`: the key must tell apart what launches other kernels,
    /// other grids or uses other addresses. The result, f32, is good until the next call.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn run<E: From<crate::KernelError> + std::fmt::Display>(
        &mut self,
        backend: &Backend,
        key: Vec<u64>,
        work: impl Fn() -> Result<Tensor, E>,
    ) -> Result<Tensor, E> {
        #[cfg(feature = "cuda")]
        if let Form::Cuda(kernels) = backend.form() {
            return self.run_on_cuda(kernels, key, work);
        }
        let _ = (backend, key);
        work()
    }
}

#[cfg(feature = "cuda")]
impl Recordings {
    /// Recordings kept; memory is what they cost.
    const MAX_LEN: usize = 128;

    fn run_on_cuda<E: From<crate::KernelError> + std::fmt::Display>(
        &mut self,
        kernels: &Kernels,
        key: Vec<u64>,
        work: impl Fn() -> Result<Tensor, E>,
    ) -> Result<Tensor, E> {
        if self.is_off {
            return work();
        }
        if let Some(Entry::Recorded(graph, result)) = self.entries.get(&key) {
            graph.launch()?;
            return Ok(result.clone());
        }
        if self.entries.len() >= Self::MAX_LEN {
            self.entries.clear();
        }
        let Some(Entry::Seen(shape)) = self.entries.remove(&key) else {
            let result = work()?;
            // Everything is compiled and loaded now, so that the next run can be recorded.
            self.entries.insert(key, Entry::Seen(result.dims().to_vec()));
            return Ok(result);
        };
        let result = self.place_of_result(kernels, &shape)?;
        match kernels.record(|| Ok::<(), E>(kernels.copy(&work()?, &result)?)) {
            Ok(graph) => {
                graph.launch()?;
                self.entries.insert(key, Entry::Recorded(graph, result.clone()));
                Ok(result)
            }
            Err(error) => {
                tracing::warn!("passes cannot be recorded and are launched kernel by kernel: {error}");
                self.is_off = true;
                work()
            }
        }
    }

    /// Memory for a result of `shape`. If there is not enough, what was recorded before is forgotten with its place.
    fn place_of_result(&mut self, kernels: &Kernels, shape: &[usize]) -> Result<Tensor> {
        let len: usize = shape.iter().product();
        let memory = match self.result.take().filter(|memory| memory.elem_count() >= len) {
            Some(memory) => memory,
            None => {
                self.entries.clear();
                kernels.output(len.next_power_of_two(), DType::F32)?
            }
        };
        Ok(self.result.insert(memory).narrow(0, 0, len)?.reshape(shape)?)
    }
}
