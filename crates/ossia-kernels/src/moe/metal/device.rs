//! The experts on a Metal device.

use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::super::generic::{GenericExperts, Projection, Weights};
use super::{
    CombineArgs, GROUP_ROWS, GROUPED_THREADS, GroupedArgs, Mxfp4Args, ROUTER_TOKENS, RouterArgs,
    SORT_THREADS, SortSlotsArgs, THREADS, TILE_ROWS, TILE_SLOTS,
};
use crate::Result;
use crate::gpu::Grid;
use crate::metal::MetalKernels;

/// Experts that the router's kernel takes.
const MAX_EXPERTS: usize = 128;
/// Most tokens for which a visited expert is read once per four of its tokens, past which simdgroup matrices take over.
const MAX_GEMV_TOKENS: usize = 16;

/// MXFP4 experts; activations are not rounded.
#[derive(Clone, Debug)]
pub(in super::super) struct MetalExperts {
    gate_up: Packed,
    down: Packed,
    num_experts: usize,
    experts_per_token: usize,
    swiglu_limit: f32,
    kernels: Arc<MetalKernels>,
}

/// The tensors of an MXFP4 projection.
#[derive(Clone, Debug)]
struct Packed {
    blocks: Tensor,
    scales: Tensor,
    bias: Tensor,
    rows: usize,
    cols: usize,
}

impl Packed {
    fn of(projection: &Projection) -> Option<Self> {
        let Weights::Mxfp4(weights) = &projection.weights else { return None };
        let (blocks, scales) = (weights.blocks.clone(), weights.scales.clone());
        let bias = projection.bias.clone();
        Some(Self { blocks, scales, bias, rows: weights.rows, cols: weights.cols })
    }
}

impl MetalExperts {
    /// The kernels' form of `experts`, if it can be had.
    pub(in super::super) fn new(experts: &GenericExperts, kernels: &Arc<MetalKernels>) -> Option<Self> {
        let (gate_up, down) = (Packed::of(&experts.gate_up)?, Packed::of(&experts.down)?);
        (experts.num_experts <= MAX_EXPERTS).then(|| Self {
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
        let (experts, shares) = self.route(&router_logits.contiguous()?)?;
        let x = x.contiguous()?;
        let outputs = match x.dims()[0] {
            0..=MAX_GEMV_TOKENS => self.project_few(&x, &experts)?,
            _ => self.project_many(&x, &experts)?,
        };
        self.combine(&outputs, &shares)
    }

    /// Both projections of every slot, `[num_slots, hidden]`.
    fn project_few(&self, x: &Tensor, experts: &Tensor) -> Result<Tensor> {
        let (gate_up, down) = (&self.gate_up, &self.down);
        let activated = self.kernels.output((experts.dims()[0], down.cols), DType::F32)?;
        self.project("mxfp4_gate_up_f32", gate_up, [x, experts, &activated], self.experts_per_token)?;
        let outputs = self.kernels.output((experts.dims()[0], down.rows), DType::F32)?;
        self.project("mxfp4_down_f32", down, [&activated, experts, &outputs], 1)?;
        Ok(outputs)
    }

    /// The same of slots sorted by expert.
    fn project_many(&self, x: &Tensor, experts: &Tensor) -> Result<Tensor> {
        let (kernels, num_slots) = (&self.kernels, experts.dims()[0]);
        let starts = kernels.output(self.num_experts + 1, DType::U32)?;
        let sorted = kernels.output(num_slots, DType::U32)?;
        let args = SortSlotsArgs { num_slots: num_slots as u32, num_experts: self.num_experts as u32 };
        let grid = Grid::new([1, 1, 1], SORT_THREADS);
        // SAFETY: there is a start for each expert and the end, and a place for each slot.
        unsafe { kernels.launch("sort_slots_u32", &[experts], &[&starts, &sorted], args, grid)? };
        let (gate_up, down) = (&self.gate_up, &self.down);
        let activated = kernels.output((num_slots, down.cols), DType::F32)?;
        let slots = [&starts, &sorted];
        self.project_tiles(
            "mxfp4_gate_up_grouped_f32",
            gate_up,
            [x, &activated],
            slots,
            self.experts_per_token,
        )?;
        let outputs = kernels.output((num_slots, down.rows), DType::F32)?;
        self.project_tiles("mxfp4_down_grouped_f32", down, [&activated, &outputs], slots, 1)?;
        Ok(outputs)
    }

    /// One projection of `x`, a row of which serves `slots_per_x` slots, into `out`, by tiles of sorted slots.
    fn project_tiles(
        &self,
        kernel: &str,
        weights: &Packed,
        [x, out]: [&Tensor; 2],
        [starts, sorted]: [&Tensor; 2],
        slots_per_x: usize,
    ) -> Result<()> {
        let num_slots = sorted.dims()[0];
        let args = GroupedArgs {
            num_experts: self.num_experts as u32,
            slots_per_x: slots_per_x as u32,
            rows: weights.rows as u32,
            cols: weights.cols as u32,
            limit: self.swiglu_limit,
        };
        // Each expert may end with a tile that is not full.
        let tiles = num_slots / TILE_SLOTS + self.num_experts.min(num_slots);
        let inputs = [&weights.blocks, &weights.scales, &weights.bias, x, starts, sorted];
        let grid = Grid::new([weights.rows.div_ceil(TILE_ROWS), tiles, 1], GROUPED_THREADS);
        // SAFETY: buffers hold every slot; the router writes experts below `num_experts` only.
        unsafe { self.kernels.launch(kernel, &inputs, &[out], args, grid) }
    }

    /// Experts u32 and their weights f32, `[n * top_k]` each.
    fn route(&self, router_logits: &Tensor) -> Result<(Tensor, Tensor)> {
        let num_tokens = router_logits.dims()[0];
        let num_slots = num_tokens * self.experts_per_token;
        let experts = self.kernels.output(num_slots, DType::U32)?;
        let shares = self.kernels.output(num_slots, DType::F32)?;
        let args = RouterArgs {
            num_tokens: num_tokens as u32,
            num_experts: self.num_experts as u32,
            top_k: self.experts_per_token as u32,
        };
        let grid = Grid::new([num_tokens.div_ceil(ROUTER_TOKENS), 1, 1], 32 * ROUTER_TOKENS as u32);
        // SAFETY: both outputs have a place for each choice of each token.
        unsafe {
            self.kernels.launch("router_top_k_f32", &[router_logits], &[&experts, &shares], args, grid)?;
        }
        Ok((experts, shares))
    }

    /// One projection of `x`, a row of which serves `slots_per_x` slots, into `out`, a row for each slot.
    fn project(
        &self,
        kernel: &str,
        weights: &Packed,
        [x, experts, out]: [&Tensor; 3],
        slots_per_x: usize,
    ) -> Result<()> {
        let num_slots = experts.dims()[0];
        let args = Mxfp4Args {
            num_slots: num_slots as u32,
            slots_per_x: slots_per_x as u32,
            rows: weights.rows as u32,
            cols: weights.cols as u32,
            limit: self.swiglu_limit,
        };
        let inputs = [&weights.blocks, &weights.scales, &weights.bias, x, experts];
        let grid = Grid::new([weights.rows.div_ceil(GROUP_ROWS), num_slots, 1], THREADS);
        // SAFETY: buffers hold every slot; the router writes experts below `num_experts` only.
        unsafe { self.kernels.launch(kernel, &inputs, &[out], args, grid) }
    }

    /// Weighted sum of each token's slots.
    fn combine(&self, outputs: &Tensor, shares: &Tensor) -> Result<Tensor> {
        let (num_slots, hidden) = outputs.dims2()?;
        let num_tokens = num_slots / self.experts_per_token;
        let y = self.kernels.output((num_tokens, hidden), DType::F32)?;
        let args = CombineArgs { top_k: self.experts_per_token as u32, hidden: hidden as u32 };
        let grid = Grid::new([hidden.div_ceil(THREADS as usize), num_tokens, 1], THREADS);
        // SAFETY: `outputs` has a row for each slot, `y` one for each token.
        unsafe { self.kernels.launch("moe_combine_f32", &[outputs, shares], &[&y], args, grid)? };
        Ok(y)
    }
}
