//! RMSNorm on Metal: `rms_norm.metal`.

/// As in the kernel's file.
#[repr(C)]
#[derive(Clone, Copy)]
struct RmsNormArgs {
    width: u32,
    has_residual: u32,
    eps: f32,
}

const THREADS: u32 = 256;

#[cfg(feature = "metal")]
mod device {
    use candle_core::{DType, Tensor};

    use super::{RmsNormArgs, THREADS};
    use crate::Result;
    use crate::gpu::Grid;
    use crate::metal::MetalKernels;

    /// `weight * x / sqrt(mean(x^2) + eps)` per row: `x` `[n, width]`, `weight` `[width]`, both f32.
    pub(in super::super) fn rms_norm(
        kernels: &MetalKernels,
        x: &Tensor,
        weight: &Tensor,
        eps: f32,
    ) -> Result<Tensor> {
        let x = x.contiguous()?;
        let out = kernels.output(x.dims2()?, DType::F32)?;
        launch(kernels, [&x, &x, weight], [&out, &out], eps, 0)?;
        Ok(out)
    }

    /// The sum of `x` and `residual`, of the same shape, and its norm.
    pub(in super::super) fn rms_norm_sum(
        kernels: &MetalKernels,
        x: &Tensor,
        residual: &Tensor,
        weight: &Tensor,
        eps: f32,
    ) -> Result<(Tensor, Tensor)> {
        let (x, residual) = (x.contiguous()?, residual.contiguous()?);
        let sum = kernels.output(x.dims2()?, DType::F32)?;
        let out = kernels.output(x.dims2()?, DType::F32)?;
        launch(kernels, [&x, &residual, weight], [&sum, &out], eps, 1)?;
        Ok((sum, out))
    }

    fn launch(
        kernels: &MetalKernels,
        inputs: [&Tensor; 3],
        outputs: [&Tensor; 2],
        eps: f32,
        has_residual: u32,
    ) -> Result<()> {
        let (rows, width) = inputs[0].dims2()?;
        let args = RmsNormArgs { width: width as u32, has_residual, eps };
        let grid = Grid::new([rows, 1, 1], THREADS);
        // SAFETY: all tensors but the weight have the rows of the grid; what is not used is bound and left alone.
        unsafe { kernels.launch("rms_norm_f32", &inputs, &outputs, args, grid) }
    }
}

#[cfg(feature = "metal")]
pub(super) use device::{rms_norm, rms_norm_sum};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Random;
    use crate::gpu::Grid;
    use crate::gpu::twin::{Output, Twin, assert_close, input};

    #[test]
    fn the_twin_agrees_with_the_definition() {
        let random = &mut Random::fresh();
        for width in [1, 31, 256, 700, 2880] {
            let rows = 3;
            let (x, residual) = (random.f32s(rows * width), random.f32s(rows * width));
            let weight = random.f32s(width);
            let total: Vec<f32> = x.iter().zip(&residual).map(|(x, r)| x + r).collect();
            for has_residual in [0, 1] {
                let (mut sum, mut out) = (Output::new(rows * width), Output::new(rows * width));
                let args = RmsNormArgs { width: width as u32, has_residual, eps: 1e-5 };
                Twin::of("rms_norm/rms_norm.metal").launch_metal(
                    "rms_norm_f32",
                    &[input(&x), input(&residual), input(&weight), sum.address(), out.address()],
                    &args,
                    Grid::new([rows, 1, 1], THREADS),
                );
                let v = if has_residual == 1 { &total } else { &x };
                assert_close(
                    &out.f32s(),
                    &super::super::expected(v, &weight, 1e-5),
                    &format!("width {width}"),
                );
                if has_residual == 1 {
                    assert_eq!(sum.f32s(), total);
                }
            }
        }
    }
}
