//! The experts on a CUDA device.

use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::super::generic::{GenericExperts, Projection, Weights};
use super::{
    CHOOSE_THREADS, COMBINE_THREADS, CombineArgs, MAX_EXPERTS, MAX_ROUTED_AT_ONCE, MAX_SCALE, Mxfp4Args,
    Projections, ROUTE_THREADS, RouteArgs, TILE_WORDS,
};
use crate::cuda::Kernels;
use crate::gpu::Grid;
use crate::weight::ExpertWeights;
use crate::{ComputeType, MoeWeights, Result};

/// MXFP4 experts whose activations are rounded to bf16.
#[derive(Clone, Debug)]
pub(in super::super) struct CudaExperts {
    gate_up: Packed,
    down: Packed,
    num_experts: usize,
    experts_per_token: usize,
    swiglu_limit: f32,
    kernels: Arc<Kernels>,
}

/// The tensors of an MXFP4 projection.
#[derive(Clone, Debug)]
struct Packed {
    blocks: Tensor,
    scales: Tensor,
    bias: Tensor,
    cols: usize,
}

/// The choices of a batch and its activations, as the projections take them.
struct Routed {
    /// Weight of each slot in its token's sum, f32 `[num_slots]`.
    shares: Tensor,
    /// u32 `[num_slots]`.
    sorted: Tensor,
    /// u32 `[num_tiles, TILE_WORDS]`.
    tiles: Tensor,
    /// bf16 `[n, hidden]`.
    x: Tensor,
    num_slots: usize,
    num_tiles: usize,
    projections: Projections,
}

impl Packed {
    fn of(projection: &Projection) -> Option<Self> {
        let Weights::Mxfp4(weights) = &projection.weights else { return None };
        let (blocks, scales) = (weights.blocks.clone(), weights.scales.clone());
        Some(Self { blocks, scales, bias: projection.bias.clone(), cols: weights.cols })
    }
}

impl CudaExperts {
    /// The kernels' form of `experts`, made of `weights`, if it can be had.
    pub(in super::super) fn new(
        experts: &GenericExperts,
        weights: &MoeWeights,
        kernels: &Arc<Kernels>,
    ) -> Option<Self> {
        let small_scales = |weights: &ExpertWeights| weights.largest_scale().is_some_and(|e| e <= MAX_SCALE);
        let fits = experts.compute == ComputeType::Bf16
            && experts.num_experts <= MAX_EXPERTS
            && small_scales(&weights.gate_up)
            && small_scales(&weights.down);
        let (gate_up, down) = (Packed::of(&experts.gate_up)?, Packed::of(&experts.down)?);
        fits.then(|| Self {
            gate_up,
            down,
            num_experts: experts.num_experts,
            experts_per_token: experts.experts_per_token,
            swiglu_limit: experts.swiglu_limit as f32,
            kernels: kernels.clone(),
        })
    }

    /// `x` `[n, hidden]` and `router_logits` `[n, num_experts]` to `[n, hidden]`, all f32.
    pub(in super::super) fn forward(&self, x: &Tensor, router_logits: &Tensor) -> Result<Tensor> {
        let hidden = x.dims()[1];
        let routed = self.route(&x.contiguous()?, &router_logits.contiguous()?)?;
        let activated = self.kernels.output((routed.num_slots, self.down.cols), DType::BF16)?;
        let outputs = self.kernels.output((routed.num_slots, hidden), DType::F32)?;
        let Projections { gate_up, down, .. } = routed.projections;
        self.project(gate_up, &self.gate_up, 2 * self.down.cols, &routed.x, &routed, &activated)?;
        self.project(down, &self.down, hidden, &activated, &routed, &outputs)?;
        self.combine(&routed, &outputs)
    }

    fn route(&self, x: &Tensor, router_logits: &Tensor) -> Result<Routed> {
        let kernels = &*self.kernels;
        let (num_tokens, cols) = x.dims2()?;
        let num_slots = num_tokens * self.experts_per_token;
        let projections = Projections::of(num_slots, self.num_experts);
        let num_tiles = projections.num_tiles(num_slots, self.num_experts);
        let experts = kernels.output(num_slots, DType::U32)?;
        let routed = Routed {
            shares: kernels.output(num_slots, DType::F32)?,
            sorted: kernels.output(num_slots, DType::U32)?,
            tiles: kernels.output((num_tiles, TILE_WORDS), DType::U32)?,
            x: kernels.output((num_tokens, cols), DType::BF16)?,
            num_slots,
            num_tiles,
            projections,
        };
        let args = RouteArgs {
            logits: kernels.address(router_logits)?,
            x: kernels.address(x)?,
            experts: kernels.address(&experts)?,
            shares: kernels.address(&routed.shares)?,
            sorted: kernels.address(&routed.sorted)?,
            tiles: kernels.address(&routed.tiles)?,
            packed_x: kernels.address(&routed.x)?,
            num_tokens: num_tokens as u32,
            num_experts: self.num_experts as u32,
            top_k: self.experts_per_token as u32,
            cols: cols as u32,
            tile_slots: projections.tile_slots as u32,
            num_tiles: num_tiles as u32,
        };
        let grid = |blocks: usize, threads: u32| Grid::new([blocks, 1, 1], threads);
        // SAFETY: the outputs have a place for each choice of each token, each tile and each activation.
        unsafe {
            match num_tokens {
                0 => {}
                1..=MAX_ROUTED_AT_ONCE => {
                    kernels.launch("route_f32", args, grid(1 + num_tokens, ROUTE_THREADS))?;
                }
                _ => {
                    kernels.launch("choose_and_pack_f32", args, grid(num_tokens, CHOOSE_THREADS))?;
                    kernels.launch("sort_slots_u32", args, grid(1, ROUTE_THREADS))?;
                }
            }
        }
        Ok(routed)
    }

    /// `kernel` with the weights of `packed`, which have `rows` rows an expert, over rows of `x` for one slot or for all of a
    /// token's.
    fn project(
        &self,
        kernel: &'static str,
        packed: &Packed,
        rows: usize,
        x: &Tensor,
        routed: &Routed,
        out: &Tensor,
    ) -> Result<()> {
        let kernels = &*self.kernels;
        let args = Mxfp4Args {
            blocks: kernels.address(&packed.blocks)?,
            scales: kernels.address(&packed.scales)?,
            bias: kernels.address(&packed.bias)?,
            x: kernels.address(x)?,
            tiles: kernels.address(&routed.tiles)?,
            sorted: kernels.address(&routed.sorted)?,
            out: kernels.address(out)?,
            slots_per_x: (routed.num_slots / x.dims()[0].max(1)) as u32,
            rows: rows as u32,
            cols: packed.cols as u32,
            limit: self.swiglu_limit,
            num_tiles: routed.num_tiles as u32,
        };
        let grid = routed.projections.grid(rows, routed.num_tiles, kernels.multiprocessors());
        // SAFETY: `x` and `out` have a row for what each slot reads and writes; the router names experts there are only.
        unsafe { kernels.launch(kernel, args, grid) }
    }

    /// Weighted sum of each token's slots.
    fn combine(&self, routed: &Routed, outputs: &Tensor) -> Result<Tensor> {
        let (num_tokens, hidden) = (routed.num_slots / self.experts_per_token, self.gate_up.cols);
        let y = self.kernels.output((num_tokens, hidden), DType::F32)?;
        let args = CombineArgs {
            outputs: self.kernels.address(outputs)?,
            shares: self.kernels.address(&routed.shares)?,
            y: self.kernels.address(&y)?,
            top_k: self.experts_per_token as u32,
            hidden: hidden as u32,
        };
        let grid = Grid::new([hidden.div_ceil(COMBINE_THREADS as usize), num_tokens, 1], COMBINE_THREADS);
        // SAFETY: `outputs` has a row for each slot, `y` one for each token.
        unsafe { self.kernels.launch("moe_combine_f32", args, grid)? };
        Ok(y)
    }
}
