//! Random-weight checkpoints on disk, the same weights that `--load-format dummy` makes in memory.

use std::path::Path;

use anyhow::{Context, Result};
use ossia_model::GptOssConfig;

/// Writes a checkpoint of `hf_config`'s shape into `out`.
pub(crate) fn write(hf_config: &Path, seed: u64, out: &Path) -> Result<()> {
    let config = GptOssConfig::from_file(hf_config)?;
    ossia_model::write_checkpoint(out, &config, seed)
        .with_context(|| format!("cannot write {}", out.display()))
}
