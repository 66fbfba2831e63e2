//! Dense linear layer: `y = x @ weight^T + bias`.

mod cpu;
#[cfg(any(test, feature = "cuda"))]
mod cuda;
pub(crate) mod generic;
#[cfg(any(test, feature = "metal"))]
mod metal;

use std::sync::Arc;

use candle_core::Tensor;

use self::cpu::CpuLinear;
use self::generic::GenericLinear;
use crate::backend::{Backend, Form};
use crate::cpu::check_activation;
use crate::weight::Matrix;
use crate::{ComputeType, Isa, KernelError, Result};

/// `y = x @ weight^T + bias` over f32 activations.
#[derive(Clone, Debug)]
pub struct Linear {
    layer: Layer,
    in_features: usize,
}

#[derive(Clone, Debug)]
enum Layer {
    Cpu(CpuLinear),
    Generic(GenericLinear),
    #[cfg(feature = "cuda")]
    Cuda(cuda::CudaLinear),
    #[cfg(feature = "cuda")]
    CudaExact(cuda::ExactLinear),
    #[cfg(feature = "metal")]
    Metal(metal::MetalLinear),
}

impl Linear {
    /// A layer of `weight` `[out_features, in_features]` and `bias` `[out_features]` on the CPU, on the best path of
    /// this processor.
    ///
    /// # Errors
    /// [`KernelError::Shape`] if the bias has another length than the weight has rows.
    pub fn new(weight: Arc<Matrix>, bias: Option<Vec<f32>>, compute: ComputeType) -> Result<Self> {
        Self::on_backend(&Backend::cpu(), weight, bias, compute)
    }

    pub(crate) fn on_backend(
        backend: &Backend,
        weight: Arc<Matrix>,
        bias: Option<Vec<f32>>,
        compute: ComputeType,
    ) -> Result<Self> {
        if let Some(bias) = bias.as_ref().filter(|b| b.len() != weight.rows()) {
            return Err(KernelError::Shape {
                op: "linear",
                what: "bias",
                expected: format!("[{}]", weight.rows()),
                found: vec![bias.len()],
            });
        }
        let in_features = weight.cols();
        let layer = match backend.form() {
            Form::Cpu => Layer::Cpu(CpuLinear::new(weight, bias, compute)),
            Form::Generic => Layer::Generic(GenericLinear::new(backend, &weight, bias.as_deref(), compute)?),
            #[cfg(feature = "cuda")]
            Form::Cuda(kernels) => match compute {
                ComputeType::F32 if cuda::ExactLinear::fits(&weight) => {
                    Layer::CudaExact(cuda::ExactLinear::new(backend, kernels, &weight, bias.as_deref())?)
                }
                ComputeType::Bf16 if cuda::CudaLinear::fits(&weight) => {
                    Layer::Cuda(cuda::CudaLinear::new(backend, kernels, &weight, bias.as_deref())?)
                }
                _ => Layer::Generic(GenericLinear::new(backend, &weight, bias.as_deref(), compute)?),
            },
            #[cfg(feature = "metal")]
            Form::Metal(kernels) => match metal::fits(&weight) {
                true => {
                    let (weight, bias) =
                        (backend.matrix(&weight)?, backend.optional_vector(bias.as_deref())?);
                    Layer::Metal(metal::MetalLinear::new(weight, bias, compute, kernels)?)
                }
                false => Layer::Generic(GenericLinear::new(backend, &weight, bias.as_deref(), compute)?),
            },
        };
        Ok(Self { layer, in_features })
    }

    /// The same layer on another path of the CPU, for tests and measurements; elsewhere there is one path.
    ///
    /// # Errors
    /// [`KernelError::IsaUnavailable`] if this processor lacks it.
    pub fn on(mut self, isa: Isa) -> Result<Self> {
        if let Layer::Cpu(layer) = self.layer {
            self.layer = Layer::Cpu(layer.on(isa)?);
        }
        Ok(self)
    }

    /// `x` `[n, in_features]` f32 to `[n, out_features]` f32.
    ///
    /// # Errors
    /// [`KernelError::Shape`] or [`KernelError::ActivationDType`] if `x` is anything else.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        check_activation("linear", "x", x, self.in_features)?;
        match &self.layer {
            Layer::Cpu(layer) => layer.forward(x),
            Layer::Generic(layer) => layer.forward(x),
            #[cfg(feature = "cuda")]
            Layer::Cuda(layer) => layer.forward(x),
            #[cfg(feature = "cuda")]
            Layer::CudaExact(layer) => layer.forward(x),
            #[cfg(feature = "metal")]
            Layer::Metal(layer) => layer.forward(x),
        }
    }
}

/// Layers that share their input, in one launch where the device has one for them: `x` `[n, in_features]` f32 to an output of
/// each.
///
/// # Errors
/// As [`Linear::forward`].
pub fn forward_all<const N: usize>(layers: [&Linear; N], x: &Tensor) -> Result<[Tensor; N]> {
    #[cfg(feature = "cuda")]
    if let Some(on_cuda) = cuda_layers(layers) {
        check_activation("linear", "x", x, layers[0].in_features)?;
        return cuda::CudaLinear::forward_all(on_cuda, x);
    }
    let outputs = layers.iter().map(|layer| layer.forward(x)).collect::<Result<Vec<_>>>()?;
    // One output was made for each layer.
    outputs.try_into().map_err(|_| candle_core::Error::Msg("an output per layer".to_owned()).into())
}

/// The layers if one launch takes them all.
#[cfg(feature = "cuda")]
fn cuda_layers<const N: usize>(layers: [&Linear; N]) -> Option<[&cuda::CudaLinear; N]> {
    let on_cuda = layers.iter().filter_map(|layer| match &layer.layer {
        Layer::Cuda(on_cuda) => Some(on_cuda),
        _ => None,
    });
    let on_cuda: [&cuda::CudaLinear; N] = on_cuda.collect::<Vec<_>>().try_into().ok()?;
    on_cuda.iter().all(|layer| layer.is_like(on_cuda[0])).then_some(on_cuda)
}

/// What the tests of GPU kernels share.
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod test_support {
    use std::sync::Arc;

    use candle_core::{DType, Device, Tensor};
    use half::bf16;

    use super::Linear;
    use crate::{ComputeType, Matrix, WeightBytes};

    /// The CPU kernel's product, exact in its inputs.
    pub(super) fn on_cpu(
        weight: &[bf16],
        bias: Option<Vec<f32>>,
        x: &[f32],
        [rows, cols]: [usize; 2],
    ) -> Vec<f32> {
        on_cpu_of(Arc::new(matrix(weight, [rows, cols])), bias, x)
    }

    /// The same of any matrix.
    pub(super) fn on_cpu_of(weight: Arc<Matrix>, bias: Option<Vec<f32>>, x: &[f32]) -> Vec<f32> {
        let cols = weight.cols();
        let layer = Linear::new(weight, bias, ComputeType::F32).unwrap();
        let x = Tensor::from_slice(x, (x.len() / cols, cols), &Device::Cpu).unwrap();
        layer.forward(&x).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    /// A matrix in bf16.
    pub(super) fn matrix(weight: &[bf16], [rows, cols]: [usize; 2]) -> Matrix {
        let bytes = WeightBytes::owned(weight.iter().flat_map(|w| w.to_le_bytes()).collect());
        Matrix::new(bytes, DType::BF16, rows, cols).unwrap()
    }
}
