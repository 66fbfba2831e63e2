//! What a pass reads from the host: small arrays that lie at the same place of a device pass after pass, where recorded work
//! finds them.

use candle_core::{Tensor, WithDType};

use crate::Result;
use crate::backend::Backend;
#[cfg(feature = "cuda")]
use crate::backend::Form;

/// Memory for one array of numbers, whose place changes only when the array outgrows it.
#[derive(Debug, Default)]
pub struct DeviceInput {
    #[cfg(feature = "cuda")]
    memory: Option<Tensor>,
}

/// Token ids of a batch, on the host and where the embedding is.
#[derive(Debug)]
pub struct TokenIds<'a> {
    pub(crate) ids: &'a [u32],
    /// `[n]` u32, where ids are read on a device.
    pub(crate) on_device: Option<Tensor>,
}

impl TokenIds<'_> {
    /// The ids on the device, `[n]` u32; `None` where they are read on the host.
    pub fn on_device(&self) -> Option<&Tensor> {
        self.on_device.as_ref()
    }
}

impl DeviceInput {
    /// Least elements for which memory is taken.
    #[cfg(feature = "cuda")]
    const MIN_LEN: usize = 1024;

    /// `values` on the device of `backend`, `[values.len()]`, until this is placed again. Where nothing is recorded they take
    /// fresh memory.
    ///
    /// # Errors
    /// [`crate::KernelError::Candle`] if the device refuses the memory.
    pub fn place<T: WithDType>(&mut self, backend: &Backend, values: &[T]) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if let Form::Cuda(kernels) = backend.form() {
            let fits = |memory: &Tensor| memory.dtype() == T::DTYPE && memory.elem_count() >= values.len();
            let memory = match self.memory.take().filter(fits) {
                Some(memory) => memory,
                None => kernels.output(values.len().next_power_of_two().max(Self::MIN_LEN), T::DTYPE)?,
            };
            kernels.write(&memory, values)?;
            return Ok(self.memory.insert(memory).narrow(0, 0, values.len())?);
        }
        Ok(Tensor::from_slice(values, values.len(), backend.device())?)
    }
}
