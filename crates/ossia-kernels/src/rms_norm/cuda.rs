//! RMSNorm on CUDA: `rms_norm.cu`.

/// As in the kernel's file.
#[repr(C)]
#[derive(Clone, Copy)]
struct RmsNormArgs {
    x: u64,
    residual: u64,
    weight: u64,
    sum: u64,
    out: u64,
    width: u32,
    eps: f32,
}

const THREADS: u32 = 256;

#[cfg(feature = "cuda")]
mod device {
    use candle_core::{DType, Tensor};

    use super::{RmsNormArgs, THREADS};
    use crate::Result;
    use crate::cuda::Kernels;
    use crate::gpu::Grid;

    /// `weight * x / sqrt(mean(x^2) + eps)` per row: `x` `[n, width]`, `weight` `[width]`, both f32.
    pub(in super::super) fn rms_norm(
        kernels: &Kernels,
        x: &Tensor,
        weight: &Tensor,
        eps: f32,
    ) -> Result<Tensor> {
        let x = x.contiguous()?;
        let out = kernels.output(x.dims2()?, DType::F32)?;
        let args = RmsNormArgs {
            x: kernels.address(&x)?,
            residual: 0,
            weight: kernels.address(weight)?,
            sum: 0,
            out: kernels.address(&out)?,
            width: x.dims()[1] as u32,
            eps,
        };
        // SAFETY: both tensors have the rows of the grid.
        unsafe { kernels.launch("rms_norm_f32", args, Grid::new([x.dims()[0], 1, 1], THREADS))? };
        Ok(out)
    }

    /// The sum of `x` and `residual`, of the same shape, and its norm.
    pub(in super::super) fn rms_norm_sum(
        kernels: &Kernels,
        x: &Tensor,
        residual: &Tensor,
        weight: &Tensor,
        eps: f32,
    ) -> Result<(Tensor, Tensor)> {
        let (x, residual) = (x.contiguous()?, residual.contiguous()?);
        let (rows, width) = x.dims2()?;
        let sum = kernels.output((rows, width), DType::F32)?;
        let out = kernels.output((rows, width), DType::F32)?;
        let args = RmsNormArgs {
            x: kernels.address(&x)?,
            residual: kernels.address(&residual)?,
            weight: kernels.address(weight)?,
            sum: kernels.address(&sum)?,
            out: kernels.address(&out)?,
            width: width as u32,
            eps,
        };
        // SAFETY: all four tensors have the rows of the grid.
        unsafe { kernels.launch("rms_norm_f32", args, Grid::new([rows, 1, 1], THREADS))? };
        Ok((sum, out))
    }
}

#[cfg(feature = "cuda")]
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
        let twin = Twin::of("rms_norm/rms_norm.cu");
        for width in [1, 31, 256, 700, 2880, 4000] {
            let rows = 3;
            let (x, residual) = (random.f32s(rows * width), random.f32s(rows * width));
            let weight = random.f32s(width);
            let total: Vec<f32> = x.iter().zip(&residual).map(|(x, r)| x + r).collect();
            for with_residual in [false, true] {
                let (mut sum, mut out) = (Output::new(rows * width), Output::new(rows * width));
                let args = RmsNormArgs {
                    x: input(&x),
                    residual: if with_residual { input(&residual) } else { 0 },
                    weight: input(&weight),
                    sum: sum.address(),
                    out: out.address(),
                    width: width as u32,
                    eps: 1e-5,
                };
                twin.launch("rms_norm_f32", &args, Grid::new([rows, 1, 1], THREADS));
                let v = if with_residual { &total } else { &x };
                assert_close(
                    &out.f32s(),
                    &super::super::expected(v, &weight, 1e-5),
                    &format!("width {width}"),
                );
                if with_residual {
                    assert_eq!(sum.f32s(), total);
                }
            }
        }
    }
}
