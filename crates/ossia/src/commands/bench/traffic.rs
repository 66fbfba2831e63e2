//! What a step must read and compute, from the model's shape: the denominators of every fraction of a ceiling.

use ossia_model::{DenseWeights, GptOss, LayerType};

/// Bytes per weight of bf16.
const BF16_BYTES: f64 = 2.0;
/// Bytes per weight of 8 bits with a scale of 16 for each 32.
const INT8_BYTES: f64 = 34.0 / 32.0;
/// The same of 10 bits.
const INT10_BYTES: f64 = 42.0 / 32.0;

/// Sizes of a model that decide how fast a step can be.
pub(super) struct Traffic {
    /// Bytes of attention, routers and lm_head, read once in each step.
    dense_bytes: f64,
    /// Bytes of one expert of one layer.
    expert_bytes: f64,
    num_layers: f64,
    num_experts: f64,
    experts_per_token: f64,
    sliding_window: f64,
    /// Bytes of a token's keys and values over the layers of one group.
    kv_bytes: f64,
    /// Multiplications and additions per token, lm_head and attention over the context apart.
    token_flops: f64,
    /// The same for each token of the context that the layers of one group attend to.
    context_flops: f64,
}

impl Traffic {
    /// The sizes of `model`. Its experts take what is left of
    /// the checkpoint after all that it has in bf16.
    pub(super) fn of(model: &GptOss) -> Self {
        let (attention_bytes, lm_head_bytes) = match model.dense_weights() {
            DenseWeights::AsStored => (BF16_BYTES, BF16_BYTES),
            DenseWeights::Int8LmHead => (BF16_BYTES, INT8_BYTES),
            DenseWeights::Int8 => (INT8_BYTES, INT8_BYTES),
            DenseWeights::Int10 => (INT10_BYTES, INT8_BYTES),
        };
        let config = model.config();
        let [hidden, inner] = [config.hidden_size, config.intermediate_size].map(|size| size as f64);
        let [layers, experts, vocab] =
            [config.num_hidden_layers, config.num_local_experts, config.vocab_size].map(|size| size as f64);
        let [q, kv] = [config.q_size(), config.kv_size()].map(|size| size as f64);
        let (attention, router) = (hidden * (2.0 * q + 2.0 * kv), hidden * experts);
        let layer = attention + router;
        // Each rank has the routers and the embedding, and together they have an lm_head.
        let num_ranks = model.num_ranks() as f64;
        let lm_heads = if config.tie_word_embeddings && num_ranks == 1.0 { 0.0 } else { 1.0 };
        let embeddings = vocab * hidden * (num_ranks + lm_heads);
        let dense = layers * (attention + num_ranks * router) + embeddings;
        let expert_bytes = model.weight_bytes() as f64 - BF16_BYTES * dense;
        let experts_per_token = config.experts_per_token as f64;
        Self {
            dense_bytes: layers * (attention_bytes * attention + BF16_BYTES * router)
                + lm_head_bytes * vocab * hidden,
            expert_bytes: expert_bytes / (layers * experts),
            num_layers: layers,
            num_experts: experts,
            experts_per_token,
            sliding_window: config.sliding_window as f64,
            kv_bytes: model.kv_bytes_per_block(1) as f64,
            token_flops: 2.0 * layers * (layer + experts_per_token * 3.0 * hidden * inner),
            context_flops: 4.0 * q * config.num_layers_of(LayerType::Full) as f64,
        }
    }

    /// Bytes that a decode step of `batch` sequences at `depth` reads. The experts that random tokens
    /// choose are counted once each, on average.
    pub(super) fn decode_bytes(&self, batch: usize, depth: usize) -> f64 {
        let untouched = (1.0 - self.experts_per_token / self.num_experts).powf(batch as f64);
        let experts = self.num_layers * self.num_experts * (1.0 - untouched);
        let seen = depth as f64 + (depth as f64).min(self.sliding_window);
        self.dense_bytes + experts * self.expert_bytes + batch as f64 * seen * self.kv_bytes
    }

    /// Floating-point operations of a prefill of `len` tokens after `depth` others, without lm_head.
    pub(super) fn prefill_flops(&self, len: usize, depth: usize) -> f64 {
        let [len, depth] = [len as f64, depth as f64];
        let full = depth + len / 2.0;
        len * (self.token_flops + self.context_flops * (full + full.min(self.sliding_window)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use ossia_model::{GptOssConfig, ModelOptions};

    use super::*;

    /// Two layers of hidden 64 and 8 experts of which 2 are chosen; the bytes of each part are known.
    fn model(dense_weights: DenseWeights) -> GptOss {
        let config = r#"{"model_type": "gpt_oss", "vocab_size": 256, "hidden_size": 64, "intermediate_size": 96,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
            "num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": 32,
            "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "swiglu_limit": 7.0, "rope_theta": 150000,
            "attention_bias": true, "hidden_act": "silu", "tie_word_embeddings": false, "eos_token_id": 2,
            "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0,
                "truncate": false, "original_max_position_embeddings": 4096},
            "layer_types": ["sliding_attention", "full_attention"]}"#;
        GptOss::dummy(
            GptOssConfig::from_json(config).unwrap(),
            1,
            &ModelOptions { dense_weights, ..ModelOptions::default() },
        )
        .unwrap()
    }

    #[test]
    fn one_token_reads_its_experts_and_everything_else_once() {
        let traffic = Traffic::of(&model(DenseWeights::AsStored));
        let mxfp4 = 3.0 * 64.0 * 96.0 * 17.0 / 32.0;
        // What is left after the large matrices holds the biases and norms too.
        assert!((traffic.expert_bytes / mxfp4 - 1.0).abs() < 0.1, "{} for {mxfp4}", traffic.expert_bytes);
        let dense = 2.0 * (2.0 * (64.0 * 192.0 + 64.0 * 8.0) + 256.0 * 64.0);
        assert_eq!(traffic.decode_bytes(1, 0), dense + 2.0 * 2.0 * traffic.expert_bytes);
        // The routers stay as they are.
        let int8 = INT8_BYTES * (2.0 * 64.0 * 192.0 + 256.0 * 64.0) + 2.0 * 2.0 * 64.0 * 8.0;
        assert_eq!(Traffic::of(&model(DenseWeights::Int8)).dense_bytes, int8);
        let two_bits = 2.0 / 8.0 * 2.0 * 64.0 * 192.0;
        assert_eq!(Traffic::of(&model(DenseWeights::Int10)).dense_bytes, int8 + two_bits);
    }

    #[test]
    fn many_tokens_read_every_expert_once_and_the_window_bounds_half_of_the_cache() {
        let traffic = Traffic::of(&model(DenseWeights::AsStored));
        let step = |batch, depth| traffic.decode_bytes(batch, depth);
        let all_experts = 2.0 * 8.0 * traffic.expert_bytes;
        assert!((step(1000, 0) - traffic.dense_bytes - all_experts).abs() < 1.0);
        // bf16 keys and values of one layer: 2 * 2 * 16 * 2 bytes per token.
        assert_eq!(step(1, 32) - step(1, 0), 64.0 * 128.0);
        assert_eq!(step(1, 132) - step(1, 32), 100.0 * 128.0);
    }
}
