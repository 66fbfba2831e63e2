//! The demo checkpoint inside the program, so that the first command needs no download.

use std::path::Path;

use anyhow::{Context, Result};

const FILES: [(&str, &[u8]); 4] = [
    ("config.json", include_bytes!("../../../models/demo/config.json")),
    ("generation_config.json", include_bytes!("../../../models/demo/generation_config.json")),
    ("tokenizer.json", include_bytes!("../../../models/demo/tokenizer.json")),
    ("model.safetensors", include_bytes!("../../../models/demo/model.safetensors")),
];

/// Writes the demo checkpoint into `dir`.
pub(crate) fn write_to(dir: &Path) -> Result<()> {
    for (name, data) in FILES {
        let path = dir.join(name);
        std::fs::write(&path, data).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
