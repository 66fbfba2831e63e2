//! The definition of attention with sinks and a window, in f64, one query at a time.

use super::PagedAttention;

/// `[n, heads * head_dim]` for the op's metadata over f32 caches.
pub(super) fn attend(op: &PagedAttention, q: &[f32], k: &[f32], v: &[f32]) -> Vec<f32> {
    let shape = op.shape;
    let head_dim = shape.head_dim;
    let mut out = Vec::with_capacity(q.len());
    for (seq, bounds) in op.metadata.cu_seqlens_q.windows(2).enumerate() {
        let context_len = op.metadata.context_lens[seq] as usize;
        let table = &op.metadata.block_tables[seq];
        for query in bounds[0] as usize..bounds[1] as usize {
            let position = context_len - (bounds[1] as usize - query);
            for head in 0..shape.num_heads {
                let kv_head = head / shape.group_size();
                let cached = |cache: &'_ [f32], position: usize| -> Vec<f64> {
                    let block_idx = position / shape.block_size - table.first_block_idx as usize;
                    let slot =
                        table.blocks[block_idx] as usize * shape.block_size + position % shape.block_size;
                    let at = (slot * shape.num_kv_heads + kv_head) * head_dim;
                    cache[at..at + head_dim].iter().map(|&x| f64::from(x)).collect()
                };
                let at = (query * shape.num_heads + head) * head_dim;
                let q = &q[at..at + head_dim];
                let visible = op.first_visible(position)..position + 1;
                let logits: Vec<f64> = visible
                    .clone()
                    .map(|p| {
                        let k = cached(k, p);
                        let dot: f64 = q.iter().zip(&k).map(|(&q, k)| f64::from(q) * k).sum();
                        dot * f64::from(op.layer.scale)
                    })
                    .collect();
                let sink = f64::from(op.layer.sinks[head]);
                let max = logits.iter().fold(sink, |max, &x| max.max(x));
                let sum = (sink - max).exp() + logits.iter().map(|x| (x - max).exp()).sum::<f64>();
                let mut mixed = vec![0f64; head_dim];
                for (p, logit) in visible.zip(&logits) {
                    let prob = (logit - max).exp() / sum;
                    for (mixed, v) in mixed.iter_mut().zip(cached(v, p)) {
                        *mixed += prob * v;
                    }
                }
                out.extend(mixed.iter().map(|&x| x as f32));
            }
        }
    }
    out
}
