//! The licences and notices of everything that is compiled in, which most of them ask to be shipped with the program.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};

use super::sbom::Component;

/// How the names of such files begin.
const NAMES: [&str; 5] = ["LICENSE", "LICENCE", "COPYING", "NOTICE", "UNLICENSE"];

/// Each text once, under the names of all crates that have it; crates without one are listed with what they declare.
pub(super) fn collect(components: &[Component]) -> Result<String> {
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut bare = Vec::new();
    for component in components {
        let name = format!("{} {} ({})", component.name, component.version, component.license);
        let found = texts_in(&component.dir)?;
        if found.is_empty() {
            bare.push(name.clone());
        }
        for text in found {
            texts.entry(text).or_default().push(name.clone());
        }
    }
    let mut blocks: Vec<(Vec<String>, String)> =
        texts.into_iter().map(|(text, names)| (names, text)).collect();
    blocks.sort();
    let rule = "=".repeat(80);
    let mut out = format!("Without a text of their own:\n\n{}\n", bare.join("\n"));
    for (names, text) in blocks {
        out += &format!("\n{rule}\n{}\n{rule}\n\n{text}\n", names.join("\n"));
    }
    Ok(out)
}

fn texts_in(dir: &Path) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
        if path.is_file() && NAMES.iter().any(|start| name.starts_with(start)) {
            let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            texts.push(String::from_utf8_lossy(&bytes).replace("\r\n", "\n").trim().to_owned());
        }
    }
    texts.sort();
    texts.dedup();
    Ok(texts)
}
