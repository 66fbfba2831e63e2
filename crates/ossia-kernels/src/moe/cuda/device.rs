//! The experts on a CUDA device.

use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::super::generic::{GenericExperts, Projection, Weights};
use super::{
    BLOCK_ROWS, CombineArgs, DownArgs, GateUpArgs, GroupedArgs, ROUTER_TOKENS, RouterArgs, SORT_THREADS,
    SortSlotsArgs, THREADS, TILE_ROWS, TILE_SLOTS,
};
use crate::cuda::Kernels;
use crate::gpu::Grid;
use crate::{ComputeType, Result};

/// Most tokens for which a visited expert is read once per four of its tokens, past which the tensor cores take over.
const MAX_GEMV_TOKENS: usize = 32;
/// Experts that the router's kernel takes.
const MAX_EXPERTS: usize = 128;

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

/// The choices of a batch, `[n * experts_per_token]` each.
struct Routed {
    /// u32.
    experts: Tensor,
    /// Weight of each in the sum, f32.
    shares: Tensor,
    num_slots: usize,
}

impl Packed {
    fn of(projection: &Projection) -> Option<Self> {
        let Weights::Mxfp4(weights) = &projection.weights else { return None };
        let (blocks, scales) = (weights.blocks.clone(), weights.scales.clone());
        Some(Self { blocks, scales, bias: projection.bias.clone(), cols: weights.cols })
    }
}

impl CudaExperts {
    /// The kernels' form of `experts`, if it can be had.
    pub(in super::super) fn new(experts: &GenericExperts, kernels: &Arc<Kernels>) -> Option<Self> {
        let fits = experts.compute == ComputeType::Bf16 && experts.num_experts <= MAX_EXPERTS;
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
        let (num_tokens, hidden) = x.dims2()?;
        let routed = self.route(&router_logits.contiguous()?)?;
        let x = x.contiguous()?;
        let activated = self.kernels.output((routed.num_slots, self.down.cols), DType::F32)?;
        let outputs = self.kernels.output((routed.num_slots, hidden), DType::F32)?;
        match num_tokens {
            0..=MAX_GEMV_TOKENS => self.project_few(&x, &routed, &activated, &outputs)?,
            _ => self.project_many(&x, &routed, &activated, &outputs)?,
        }
        self.combine(&routed, &outputs)
    }

    fn route(&self, router_logits: &Tensor) -> Result<Routed> {
        let num_tokens = router_logits.dims()[0];
        let num_slots = num_tokens * self.experts_per_token;
        let experts = self.kernels.output(num_slots, DType::U32)?;
        let shares = self.kernels.output(num_slots, DType::F32)?;
        let args = RouterArgs {
            logits: self.kernels.address(router_logits)?,
            experts: self.kernels.address(&experts)?,
            weights: self.kernels.address(&shares)?,
            num_tokens: num_tokens as u32,
            num_experts: self.num_experts as u32,
            top_k: self.experts_per_token as u32,
        };
        let grid = Grid::new([num_tokens.div_ceil(ROUTER_TOKENS), 1, 1], 32 * ROUTER_TOKENS as u32);
        // SAFETY: both outputs have a place for each choice of each token.
        unsafe { self.kernels.launch("router_top_k_f32", args, grid)? };
        Ok(Routed { experts, shares, num_slots })
    }

    fn project_few(&self, x: &Tensor, routed: &Routed, activated: &Tensor, outputs: &Tensor) -> Result<()> {
        let kernels = &*self.kernels;
        let (hidden, inter) = (self.gate_up.cols, self.down.cols);
        let gate_up = GateUpArgs {
            blocks: kernels.address(&self.gate_up.blocks)?,
            scales: kernels.address(&self.gate_up.scales)?,
            bias: kernels.address(&self.gate_up.bias)?,
            x: kernels.address(x)?,
            experts: kernels.address(&routed.experts)?,
            activated: kernels.address(activated)?,
            num_slots: routed.num_slots as u32,
            top_k: self.experts_per_token as u32,
            hidden: hidden as u32,
            inter: inter as u32,
            limit: self.swiglu_limit,
        };
        let down = DownArgs {
            blocks: kernels.address(&self.down.blocks)?,
            scales: kernels.address(&self.down.scales)?,
            bias: kernels.address(&self.down.bias)?,
            activated: gate_up.activated,
            experts: gate_up.experts,
            outputs: kernels.address(outputs)?,
            num_slots: routed.num_slots as u32,
            hidden: hidden as u32,
            inter: inter as u32,
        };
        let grid = |rows: usize| Grid::new([rows.div_ceil(BLOCK_ROWS), routed.num_slots, 1], THREADS);
        // SAFETY: buffers hold every slot; the router writes experts below `num_experts` only.
        unsafe {
            kernels.launch("mxfp4_gate_up_f32", gate_up, grid(2 * inter))?;
            kernels.launch("mxfp4_down_f32", down, grid(hidden))
        }
    }

    fn project_many(&self, x: &Tensor, routed: &Routed, activated: &Tensor, outputs: &Tensor) -> Result<()> {
        let kernels = &*self.kernels;
        let (hidden, inter) = (self.gate_up.cols, self.down.cols);
        let starts = kernels.output(self.num_experts + 1, DType::U32)?;
        let sorted = kernels.output(routed.num_slots, DType::U32)?;
        let sort = SortSlotsArgs {
            experts: kernels.address(&routed.experts)?,
            starts: kernels.address(&starts)?,
            sorted: kernels.address(&sorted)?,
            num_slots: routed.num_slots as u32,
            num_experts: self.num_experts as u32,
        };
        let gate_up = GroupedArgs {
            blocks: kernels.address(&self.gate_up.blocks)?,
            scales: kernels.address(&self.gate_up.scales)?,
            bias: kernels.address(&self.gate_up.bias)?,
            x: kernels.address(x)?,
            starts: sort.starts,
            sorted: sort.sorted,
            out: kernels.address(activated)?,
            num_experts: self.num_experts as u32,
            slots_per_x: self.experts_per_token as u32,
            rows: 2 * inter as u32,
            cols: hidden as u32,
            limit: self.swiglu_limit,
        };
        let down = GroupedArgs {
            blocks: kernels.address(&self.down.blocks)?,
            scales: kernels.address(&self.down.scales)?,
            bias: kernels.address(&self.down.bias)?,
            x: gate_up.out,
            out: kernels.address(outputs)?,
            slots_per_x: 1,
            rows: hidden as u32,
            cols: inter as u32,
            ..gate_up
        };
        // Each expert may end with a tile that is not full.
        let tiles = routed.num_slots / TILE_SLOTS + self.num_experts.min(routed.num_slots);
        let grid = |rows: usize| Grid::new([rows.div_ceil(TILE_ROWS), tiles, 1], THREADS);
        // SAFETY: buffers hold every slot; the router writes experts below `num_experts` only.
        unsafe {
            kernels.launch("sort_slots_u32", sort, Grid::new([1, 1, 1], SORT_THREADS))?;
            kernels.launch("mxfp4_gate_up_grouped_f32", gate_up, grid(2 * inter))?;
            kernels.launch("mxfp4_down_grouped_f32", down, grid(hidden))
        }
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
        let grid = Grid::new([hidden.div_ceil(THREADS as usize), num_tokens, 1], THREADS);
        // SAFETY: `outputs` has a row for each slot, `y` one for each token.
        unsafe { self.kernels.launch("moe_combine_f32", args, grid)? };
        Ok(y)
    }
}
