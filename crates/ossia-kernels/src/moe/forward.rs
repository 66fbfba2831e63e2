//! The forward pass: route, gather by expert, gate_up with SwiGLU, down, combine.

use super::cpu::CpuExperts;
use super::router::Routes;
use super::swiglu::swiglu_rows;
use crate::cpu::{Scratch, SharedSlice, for_each_task, threads_for};
use crate::matmul::{PackedActivations, multiply};
use crate::weight::ExpertWeights;

impl CpuExperts {
    /// `x` `[num_tokens, hidden]` and `router_logits` `[num_tokens, num_experts]` to `[num_tokens, hidden]`.
    pub(super) fn forward_slice(&self, x: &[f32], router_logits: &[f32]) -> Vec<f32> {
        let w = &self.weights;
        let routes = Routes::new(router_logits, w.gate_up.num_experts(), w.experts_per_token);
        let activated = self.gate_up(&routes, x);
        let outputs = self.down(&routes, &activated);
        self.combine(&routes, &outputs)
    }

    /// SwiGLU of the first projection for each slot, `[num_slots, intermediate]`.
    fn gate_up(&self, routes: &Routes, x: &[f32]) -> Scratch {
        let w = &self.weights;
        let inter = w.down.cols();
        let mut activated = Scratch::new(routes.num_slots() * inter);
        let shared = SharedSlice::new(&mut activated);
        let packed = self.pack(&w.gate_up, routes, x, |slot| routes.token(slot));
        self.project(&w.gate_up, routes, &packed, |expert, slot, first_row, gate_up| {
            let bias = &w.gate_up_bias[expert * 2 * inter + first_row..][..gate_up.len()];
            let at = slot * inter + first_row / 2;
            // SAFETY: each slot and each pair of rows is given once.
            let activated = unsafe { shared.range(at..at + gate_up.len() / 2) };
            swiglu_rows(self.matmul.isa, gate_up, bias, w.swiglu_limit, activated);
        });
        activated
    }

    /// The second projection with its bias for each slot, `[num_slots, hidden]`.
    fn down(&self, routes: &Routes, activated: &[f32]) -> Scratch {
        let w = &self.weights;
        let hidden = w.down.rows();
        let mut outputs = Scratch::new(routes.num_slots() * hidden);
        let shared = SharedSlice::new(&mut outputs);
        let packed = self.pack(&w.down, routes, activated, |slot| slot);
        self.project(&w.down, routes, &packed, |expert, slot, first_row, down| {
            let bias = &w.down_bias[expert * hidden + first_row..];
            let at = slot * hidden + first_row;
            // SAFETY: each slot and each row is given once.
            let out = unsafe { shared.range(at..at + down.len()) };
            for ((out, v), b) in out.iter_mut().zip(down).zip(bias) {
                *out = v + b;
            }
        });
        outputs
    }

    /// Packs for each visited expert the rows of `x` that its slots name.
    fn pack(
        &self,
        weights: &ExpertWeights,
        routes: &Routes,
        x: &[f32],
        row_of_slot: impl Fn(usize) -> usize + Sync,
    ) -> Vec<Option<PackedActivations>> {
        let visits = routes.visits();
        let mut packed: Vec<_> = visits.iter().map(|_| None).collect();
        let shared = SharedSlice::new(&mut packed);
        let threads = threads_for(routes.num_slots() * weights.cols());
        for_each_task(visits.len(), threads, |idx| {
            let visit = &visits[idx];
            let rows = visit.slots.clone().map(&row_of_slot);
            let view = weights.expert(visit.expert);
            // SAFETY: each task has its own element.
            let element = unsafe { shared.range(idx..idx + 1) };
            element[0] = Some(self.matmul.pack(view, x, rows));
        });
        packed
    }

    /// Products of each visited expert with its slots: `done(expert, slot, first_row, values)` is given
    /// every slot and every row once, in pieces of even length that start at even rows.
    fn project(
        &self,
        weights: &ExpertWeights,
        routes: &Routes,
        packed: &[Option<PackedActivations>],
        done: impl Fn(usize, usize, usize, &[f32]) + Sync,
    ) {
        let visits = routes.visits();
        let num_rows = visits.len() * weights.rows();
        let tokens_per_visit = routes.num_slots() / visits.len().max(1);
        let step = self.matmul.rows_per_task(weights.expert(0), num_rows, tokens_per_visit);
        let tasks_per_visit = weights.rows().div_ceil(step);
        let cost = visits.iter().map(|v| v.slots.len().div_ceil(8)).sum::<usize>();
        let threads = threads_for(cost * weights.rows() * weights.cols());
        for_each_task(visits.len() * tasks_per_visit, threads, |task| {
            let (idx, part) = (task / tasks_per_visit, task % tasks_per_visit);
            let (visit, Some(x)) = (&visits[idx], &packed[idx]) else {
                return;
            };
            let first = part * step;
            let rows = first..(first + step).min(weights.rows());
            let mut out = Scratch::new(visit.slots.len() * rows.len());
            multiply(weights.expert(visit.expert), rows.clone(), x, &mut out);
            for (slot, values) in visit.slots.clone().zip(out.chunks_exact(rows.len())) {
                done(visit.expert, slot, rows.start, values);
            }
        });
    }

    /// Weighted sum of each token's slots, in the token's own order of experts.
    fn combine(&self, routes: &Routes, outputs: &[f32]) -> Vec<f32> {
        const TOKENS_PER_TASK: usize = 8;
        let (hidden, num_tokens) = (self.weights.hidden_size(), routes.num_tokens());
        let mut y = vec![0f32; num_tokens * hidden];
        let shared = SharedSlice::new(&mut y);
        let threads = threads_for(outputs.len());
        for_each_task(num_tokens.div_ceil(TOKENS_PER_TASK), threads, |task| {
            let first = task * TOKENS_PER_TASK;
            for token in first..(first + TOKENS_PER_TASK).min(num_tokens) {
                // SAFETY: each token has its own row.
                let y = unsafe { shared.range(token * hidden..(token + 1) * hidden) };
                for (nth, (slot, weight)) in routes.of_token(token).enumerate() {
                    let out = &outputs[slot * hidden..(slot + 1) * hidden];
                    // Fresh pages are written before they are read: a page that was read first is mapped twice, the
                    // second time with an interrupt to all cores.
                    match nth {
                        0 => y.iter_mut().zip(out).for_each(|(y, v)| *y = weight * v),
                        _ => y.iter_mut().zip(out).for_each(|(y, v)| *y += weight * v),
                    }
                }
            }
        });
        y
    }
}
