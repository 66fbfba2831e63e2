//! Names, types and shapes of all tensors of a checkpoint with MXFP4 experts.

use crate::{GptOssConfig, ModelError};

/// Values of an MXFP4 block that share a scale.
pub(crate) const MXFP4_BLOCK: usize = 32;

/// One tensor of a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TensorSpec {
    pub(super) name: String,
    /// `BF16` or `U8`.
    pub(super) dtype: &'static str,
    pub(super) shape: Vec<usize>,
    pub(super) fill: Fill,
}

/// How random weights of a tensor are spread, so that activations and logits stay of order one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fill {
    /// bf16, uniform of this mean and standard deviation.
    Bf16 { mean: f32, std: f32 },
    /// Any bytes: pairs of e2m1 values.
    Blocks,
    /// e8m0 scales one below, at or one above this exponent.
    Scales { exponent: u8 },
}

impl TensorSpec {
    /// Bytes of the tensor.
    pub(super) fn size_bytes(&self) -> usize {
        let unit = if self.dtype == "BF16" { 2 } else { 1 };
        self.shape.iter().product::<usize>() * unit
    }
}

/// All tensors, in the order of the model.
///
/// # Errors
/// [`ModelError::Config`] if MXFP4 cannot hold the experts' widths, or the sizes overflow.
pub(super) fn tensors(config: &GptOssConfig) -> Result<Vec<TensorSpec>, ModelError> {
    for (field, width) in
        [("hidden_size", config.hidden_size), ("intermediate_size", config.intermediate_size)]
    {
        if !width.is_multiple_of(MXFP4_BLOCK) {
            let message = format!("is {width}, and MXFP4 needs a multiple of {MXFP4_BLOCK}");
            return Err(ModelError::Config { field: field.to_owned(), message });
        }
    }
    let mut specs = Specs(Vec::new());
    let hidden = config.hidden_size;
    specs.normal("model.embed_tokens.weight", &[config.vocab_size, hidden], 0.0, 1.0);
    for layer_idx in 0..config.num_hidden_layers {
        specs.layer(config, &format!("model.layers.{layer_idx}"));
    }
    specs.normal("model.norm.weight", &[hidden], 1.0, 0.05);
    if !config.tie_word_embeddings {
        // Logits of standard deviation 3: the best token stands out, as in a trained model.
        specs.normal("lm_head.weight", &[config.vocab_size, hidden], 0.0, 3.0 / (hidden as f32).sqrt());
    }
    let total = specs.0.iter().try_fold(0usize, |total, spec| {
        let count = spec.shape.iter().try_fold(2usize, |count, &dim| count.checked_mul(dim))?;
        total.checked_add(count)
    });
    match total {
        Some(total) if total < 1 << 46 => Ok(specs.0),
        _ => Err(ModelError::Config {
            field: "hidden_size".to_owned(),
            message: "and others make more than 64 TiB".to_owned(),
        }),
    }
}

struct Specs(Vec<TensorSpec>);

impl Specs {
    fn push(&mut self, name: String, dtype: &'static str, shape: &[usize], fill: Fill) {
        self.0.push(TensorSpec { name, dtype, shape: shape.to_vec(), fill });
    }

    fn normal(&mut self, name: &str, shape: &[usize], mean: f32, std: f32) {
        self.push(name.to_owned(), "BF16", shape, Fill::Bf16 { mean, std });
    }

    fn layer(&mut self, config: &GptOssConfig, prefix: &str) {
        let (hidden, q_size, kv_size) = (config.hidden_size, config.q_size(), config.kv_size());
        // Both branches of a layer add to the residual stream; this keeps it at order one over all layers.
        let branch = 1.0 / (2.0 * config.num_hidden_layers as f32).sqrt();
        self.normal(&format!("{prefix}.input_layernorm.weight"), &[hidden], 1.0, 0.05);
        let projections = [
            ("q", q_size, hidden, 1.0),
            ("k", kv_size, hidden, 1.0),
            ("v", kv_size, hidden, 1.0),
            ("o", hidden, q_size, branch),
        ];
        for (name, rows, cols, scale) in projections {
            let std = scale / (cols as f32).sqrt();
            self.normal(&format!("{prefix}.self_attn.{name}_proj.weight"), &[rows, cols], 0.0, std);
            self.normal(&format!("{prefix}.self_attn.{name}_proj.bias"), &[rows], 0.0, 0.02);
        }
        self.normal(&format!("{prefix}.self_attn.sinks"), &[config.num_attention_heads], 0.0, 1.0);
        self.normal(&format!("{prefix}.post_attention_layernorm.weight"), &[hidden], 1.0, 0.05);
        let experts = config.num_local_experts;
        self.normal(
            &format!("{prefix}.mlp.router.weight"),
            &[experts, hidden],
            0.0,
            1.0 / (hidden as f32).sqrt(),
        );
        self.normal(&format!("{prefix}.mlp.router.bias"), &[experts], 0.0, 0.02);
        let inter = config.intermediate_size;
        self.experts(&format!("{prefix}.mlp.experts.gate_up_proj"), experts, 2 * inter, hidden, 1.0);
        self.experts(&format!("{prefix}.mlp.experts.down_proj"), experts, hidden, inter, branch);
    }

    fn experts(&mut self, prefix: &str, experts: usize, rows: usize, cols: usize, scale: f32) {
        let blocks = cols / MXFP4_BLOCK;
        // The 16 values of e2m1 have a root mean square of 2.926.
        let wanted = scale / (cols as f32).sqrt() / 2.926;
        let exponent = (wanted.log2().round() + 127.0) as u8;
        let shape = [experts, rows, blocks, MXFP4_BLOCK / 2];
        self.push(format!("{prefix}_blocks"), "U8", &shape, Fill::Blocks);
        self.push(format!("{prefix}_scales"), "U8", &shape[..3], Fill::Scales { exponent });
        self.normal(&format!("{prefix}_bias"), &[experts, rows], 0.0, 0.02);
    }
}
