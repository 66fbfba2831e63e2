//! gpt-oss's own vocabulary, o200k_harmony, for runs without a checkpoint's tokenizer.json.

use anyhow::{Context, Result};
use ossia_harmony::Tokenizer;

/// Ranks before the special tokens.
const NUM_RANKS: u32 = 199_998;

/// The tokenizer, from the ranks inside the tiktoken-rs crate; nothing is read from disk or network.
pub(crate) fn o200k_harmony() -> Result<Tokenizer> {
    let ranks = tiktoken_rs::o200k_harmony_singleton();
    let token = |rank| {
        let bytes = ranks.decode_bytes(&[rank]).ok();
        bytes.with_context(|| format!("the vocabulary has no rank {rank}"))
    };
    let tokens = (0..NUM_RANKS).map(token).collect::<Result<_>>()?;
    Ok(Tokenizer::from_ranked_tokens(tokens)?)
}
