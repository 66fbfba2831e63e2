//! Writing new keys and values into the paged cache.

use candle_core::{CpuStorage, InplaceOp2, Layout, Tensor, bail};
use half::bf16;

use crate::cpu::contiguous_f32;
use crate::{KernelError, Result, fp8};

/// Physical blocks of one sequence in one group of layers.
///
/// Block `i` of `blocks` holds positions from `(first_block_idx + i) * block_size` on. Sliding layers drop
/// blocks in front, so `first_block_idx` grows there; it is 0 for full layers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockTable {
    /// Index, within the sequence, of the first block still held.
    pub first_block_idx: u32,
    /// Physical block ids.
    pub blocks: Vec<u32>,
}

/// Writes `k` and `v` `[n, kv_heads, head_dim]` f32 into the caches
/// `[num_blocks, block_size, kv_heads, head_dim]` (f32, or bf16 or e4m3 by rounding to nearest even), token `i` at
/// slot `slot_mapping[i] = block * block_size + offset`.
///
/// # Errors
/// [`KernelError::Shape`] if widths disagree, [`KernelError::Candle`] if a slot is not in the cache.
pub fn write_kv(
    k: &Tensor,
    v: &Tensor,
    k_cache: &Tensor,
    v_cache: &Tensor,
    slot_mapping: &[u32],
) -> Result<()> {
    for (what, x, cache) in [("k", k, k_cache), ("v", v, v_cache)] {
        let width: usize = cache.dims().iter().skip(2).product();
        if x.elem_count() != slot_mapping.len() * width {
            return Err(KernelError::Shape {
                op: "write_kv",
                what,
                expected: format!("{} tokens of {width}", slot_mapping.len()),
                found: x.dims().to_vec(),
            });
        }
        cache.inplace_op2(&x.contiguous()?, &WriteSlots { slot_mapping, width })?;
    }
    Ok(())
}

struct WriteSlots<'a> {
    slot_mapping: &'a [u32],
    width: usize,
}

impl InplaceOp2 for WriteSlots<'_> {
    fn name(&self) -> &'static str {
        "write_kv"
    }

    fn cpu_fwd(
        &self,
        cache: &mut CpuStorage,
        cache_layout: &Layout,
        x: &CpuStorage,
        x_layout: &Layout,
    ) -> candle_core::Result<()> {
        let x = contiguous_f32(x, x_layout)?;
        let Some((start, end)) = cache_layout.contiguous_offsets() else {
            bail!("write_kv: the cache must be contiguous");
        };
        match cache {
            CpuStorage::F32(cache) => self.write(&mut cache[start..end], x, |x| x),
            CpuStorage::BF16(cache) => self.write(&mut cache[start..end], x, bf16::from_f32),
            CpuStorage::F8E4M3(cache) => self.write(&mut cache[start..end], x, fp8::to_e4m3),
            _ => bail!("write_kv: the cache must be f32, bf16 or e4m3"),
        }
    }
}

impl WriteSlots<'_> {
    fn write<T>(&self, cache: &mut [T], x: &[f32], convert: impl Fn(f32) -> T) -> candle_core::Result<()> {
        let num_slots = cache.len() / self.width.max(1);
        for (&slot, x) in self.slot_mapping.iter().zip(x.chunks(self.width.max(1))) {
            if slot as usize >= num_slots {
                bail!("write_kv: slot {slot} is not in a cache of {num_slots} slots");
            }
            let at = slot as usize * self.width;
            for (cached, &x) in cache[at..at + self.width].iter_mut().zip(x) {
                *cached = convert(x);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn tokens_land_in_their_slots() {
        for dtype in [DType::F32, DType::BF16, DType::F8E4M3] {
            let cache = || Tensor::zeros((2, 2, 1, 2), dtype, &Device::Cpu).unwrap();
            let (k_cache, v_cache) = (cache(), cache());
            let k = Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0], (2, 1, 2), &Device::Cpu).unwrap();
            write_kv(&k, &(&k * 2.0).unwrap(), &k_cache, &v_cache, &[3, 0]).unwrap();
            let flat =
                |t: &Tensor| t.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(flat(&k_cache), [3.0, 4.0, 0.0, 0.0, 0.0, 0.0, 1.0, 2.0]);
            assert_eq!(flat(&v_cache), [6.0, 8.0, 0.0, 0.0, 0.0, 0.0, 2.0, 4.0]);
            assert!(write_kv(&k, &k, &k_cache, &v_cache, &[0, 4]).is_err());
            assert!(write_kv(&k, &k, &k_cache, &v_cache, &[0]).is_err());
        }
    }
}
