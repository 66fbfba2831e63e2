//! A checkpoint folder: safetensors files, mapped or read, and, if there are several, their index.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use ossia_kernels::{WeightBytes, map_file};
use rayon::prelude::*;
use serde_json::Value;

use super::{RawTensor, WeightAccess, WeightSource, huge_pages};
use crate::ModelError;

const SINGLE_FILE: &str = "model.safetensors";
const INDEX_FILE: &str = "model.safetensors.index.json";

/// Longest header accepted: the limit of the safetensors format.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Bytes that one task reads of a file.
const CHUNK_BYTES: usize = 8 << 20;

/// The tensors of a checkpoint.
pub(crate) struct Checkpoint {
    dir: PathBuf,
    files: Vec<OpenFile>,
    /// File and place of each tensor.
    tensors: HashMap<String, (usize, Entry)>,
    /// What the index says: file name of each tensor. Empty without an index.
    weight_map: HashMap<String, String>,
}

struct OpenFile {
    path: PathBuf,
    map: Arc<Mmap>,
}

/// One tensor of a header.
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    /// Bytes within the file.
    range: std::ops::Range<usize>,
}

impl Checkpoint {
    /// Maps or reads all files of the checkpoint in `dir` and checks their headers.
    ///
    /// # Errors
    /// [`ModelError::Io`], [`ModelError::Json`] or [`ModelError::Checkpoint`], naming the file.
    pub(crate) fn open(dir: &Path, access: WeightAccess) -> Result<Self, ModelError> {
        let weight_map = read_index(dir)?;
        let mut names: Vec<String> = weight_map.values().cloned().collect();
        names.sort();
        names.dedup();
        if names.is_empty() {
            names.push(SINGLE_FILE.to_owned());
        }
        let mut checkpoint = Self { dir: dir.into(), files: Vec::new(), tensors: HashMap::new(), weight_map };
        for name in names {
            checkpoint.add_file(dir.join(name), access)?;
        }
        Ok(checkpoint)
    }

    /// Name and bytes of each tensor.
    pub(super) fn sizes(&self) -> impl Iterator<Item = (&str, u64)> {
        self.tensors.iter().map(|(name, (_, entry))| (name.as_str(), entry.range.len() as u64))
    }

    fn add_file(&mut self, path: PathBuf, access: WeightAccess) -> Result<(), ModelError> {
        let map = match access {
            WeightAccess::Mapped => map_file(&path),
            WeightAccess::Read => read_file(&path),
        };
        let map = map.map_err(|source| ModelError::Io { path: path.clone(), source })?;
        let entries =
            parse_header(&map).map_err(|message| ModelError::Checkpoint { path: path.clone(), message })?;
        let idx = self.files.len();
        self.tensors.extend(entries.into_iter().map(|(name, entry)| (name, (idx, entry))));
        self.files.push(OpenFile { path, map });
        Ok(())
    }
}

impl WeightSource for Checkpoint {
    fn tensor(&self, name: &str) -> Result<Option<RawTensor>, ModelError> {
        let Some((file, entry)) = self.tensors.get(name) else { return Ok(None) };
        let OpenFile { path, map } = &self.files[*file];
        Ok(Some(RawTensor {
            dtype: entry.dtype.clone(),
            shape: entry.shape.clone(),
            bytes: WeightBytes::mapped(map.clone(), entry.range.clone()),
            path: path.clone(),
        }))
    }

    fn place_of(&self, name: &str) -> PathBuf {
        match (self.weight_map.get(name), self.files.as_slice()) {
            (Some(file), _) => self.dir.join(file),
            (None, [only]) => only.path.clone(),
            (None, _) => self.dir.join(INDEX_FILE),
        }
    }

    fn total_bytes(&self) -> u64 {
        self.tensors.values().map(|(_, entry)| entry.range.len() as u64).sum()
    }
}

/// The whole file in memory of its own.
fn read_file(path: &Path) -> io::Result<Arc<Mmap>> {
    let len = usize::try_from(std::fs::metadata(path)?.len()).map_err(io::Error::other)?;
    let mut bytes = huge_pages(len)?;
    bytes.par_chunks_mut(CHUNK_BYTES).enumerate().try_for_each(|(idx, chunk)| {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start((idx * CHUNK_BYTES) as u64))?;
        file.read_exact(chunk)
    })?;
    Ok(Arc::new(bytes.make_read_only()?))
}

/// Tensor name to file name; empty if the checkpoint is a single file.
fn read_index(dir: &Path) -> Result<HashMap<String, String>, ModelError> {
    let path = dir.join(INDEX_FILE);
    if !path.exists() {
        return Ok(HashMap::new());
    }
    let text =
        std::fs::read_to_string(&path).map_err(|source| ModelError::Io { path: path.clone(), source })?;
    let index: Value = serde_json::from_str(&text)
        .map_err(|error| ModelError::Json { path: path.clone(), message: error.to_string() })?;
    let refuse = |message: String| ModelError::Checkpoint { path: path.clone(), message };
    let weight_map = index["weight_map"].as_object().filter(|map| !map.is_empty());
    let weight_map = weight_map.ok_or_else(|| refuse("has no `weight_map`".to_owned()))?;
    let entry = |(name, file): (&String, &Value)| match file.as_str() {
        // A file beside the index, nothing else: a checkpoint must not reach out of its folder.
        Some(file) if !file.contains(['/', '\\']) && !file.starts_with('.') => {
            Ok((name.clone(), file.to_owned()))
        }
        _ => Err(refuse(format!("`weight_map` puts `{name}` into {file}, expected a file name"))),
    };
    weight_map.iter().map(entry).collect()
}

/// Reads the tensors' places from a whole file.
fn parse_header(file: &[u8]) -> Result<Vec<(String, Entry)>, String> {
    let Some((len, rest)) = file.split_first_chunk::<8>() else {
        return Err(format!("is {} bytes long, too short for a safetensors file", file.len()));
    };
    let header_len = u64::from_le_bytes(*len);
    if header_len > MAX_HEADER_BYTES {
        return Err(format!("is not a safetensors file: its header would be {header_len} bytes long"));
    }
    let Some(header) = rest.get(..header_len as usize) else {
        return Err(format!("is truncated: expected a header of {header_len} bytes, found {}", rest.len()));
    };
    let header: Value =
        serde_json::from_slice(header).map_err(|error| format!("has a damaged header: {error}"))?;
    let header = header.as_object().ok_or("has a header that is not an object")?;
    let tensors = header.iter().filter(|(name, _)| *name != "__metadata__");
    tensors
        .map(|(name, entry)| {
            Ok((name.clone(), parse_entry(name, entry, 8 + header_len as usize, file.len())?))
        })
        .collect()
}

/// Checks one tensor: its bytes must be in the file and be as many as its shape needs.
fn parse_entry(name: &str, entry: &Value, data_start: usize, file_len: usize) -> Result<Entry, String> {
    let damaged = || format!("has a damaged entry for tensor `{name}`: {entry}");
    let numbers = |value: &Value| -> Option<Vec<usize>> {
        value.as_array()?.iter().map(|n| usize::try_from(n.as_u64()?).ok()).collect()
    };
    let dtype = entry["dtype"].as_str().ok_or_else(damaged)?.to_owned();
    let shape = numbers(&entry["shape"]).ok_or_else(damaged)?;
    let [start, end] = numbers(&entry["data_offsets"]).ok_or_else(damaged)?[..] else {
        return Err(damaged());
    };
    let (Some(start), Some(end)) = (start.checked_add(data_start), end.checked_add(data_start)) else {
        return Err(damaged());
    };
    if start > end {
        return Err(damaged());
    }
    if end > file_len {
        return Err(format!(
            "is truncated: tensor `{name}` ({dtype} {shape:?}) needs bytes {start}..{end}, the file has {file_len}"
        ));
    }
    let count = shape.iter().try_fold(1usize, |count, &dim| count.checked_mul(dim));
    if let Some(unit) = dtype_size(&dtype)
        && count.and_then(|count| count.checked_mul(unit)) != Some(end - start)
    {
        return Err(format!("gives tensor `{name}` ({dtype} {shape:?}) {} bytes", end - start));
    }
    Ok(Entry { dtype, shape, range: start..end })
}

/// Bytes of an element of the types that this crate reads.
fn dtype_size(dtype: &str) -> Option<usize> {
    match dtype {
        "U8" => Some(1),
        "BF16" | "F16" => Some(2),
        "F32" => Some(4),
        _ => None,
    }
}
