//! The memory of the paged cache, and writing new keys and values into it.

use candle_core::{CpuStorage, DType, Device, InplaceOp2, Layout, Tensor, bail};
use float8::F8E4M3;
use half::bf16;
use half::vec::HalfBitsVecExt;

use crate::cpu::contiguous_f32;
use crate::{ComputeType, KernelError, Result, ask_for_huge_pages, fp8, int8_heads};

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

/// How a cache keeps keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CacheType {
    /// As they are.
    F32,
    /// Rounded to bf16.
    Bf16,
    /// Rounded to e4m3 of 8 bits, without scales: half the memory of bf16, and less exact.
    Fp8,
    /// Rounded to integers of 8 bits with a bf16 scale for each 32 of a head: a little more memory than e4m3 takes, and more exact.
    Int8,
}

impl CacheType {
    /// As precise as the activations of matrix products.
    pub fn of(compute: ComputeType) -> Self {
        match compute {
            ComputeType::F32 => Self::F32,
            ComputeType::Bf16 => Self::Bf16,
        }
    }

    /// Of the cache's tensors.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
            Self::Fp8 => DType::F8E4M3,
            Self::Int8 => DType::U8,
        }
    }

    /// Elements that a head of `head_dim` takes, the last dimension of the cache's tensors.
    pub fn head_len(self, head_dim: usize) -> usize {
        match self {
            Self::F32 | Self::Bf16 | Self::Fp8 => head_dim,
            Self::Int8 => int8_heads::head_len(head_dim),
        }
    }

    /// The type of a cache's tensors, if there is one of such elements.
    pub(crate) fn of_dtype(dtype: DType) -> Option<Self> {
        [Self::F32, Self::Bf16, Self::Fp8, Self::Int8].into_iter().find(|cache| cache.dtype() == dtype)
    }

    /// A cache `[num_blocks, block_size, kv_heads, head_len]` of zeros. On the CPU they cost memory only once they are written
    /// to: candle's own zeros touch every page, and a pool of gigabytes would count in full from the start.
    ///
    /// # Errors
    /// [`KernelError::Candle`] if the device refuses the memory.
    pub fn zeros(self, shape: (usize, usize, usize, usize), device: &Device) -> Result<Tensor> {
        let (num_blocks, block_size, num_heads, head_dim) = shape;
        let shape = (num_blocks, block_size, num_heads, self.head_len(head_dim));
        let len = shape.0 * shape.1 * shape.2 * shape.3;
        match (device, self) {
            (Device::Cpu, Self::Bf16) => {
                let mut bits = vec![0u16; len];
                ask_for_huge_pages(&mut bits);
                Ok(Tensor::from_vec(bits.reinterpret_into::<bf16>(), shape, device)?)
            }
            (Device::Cpu, Self::Int8) => {
                let mut codes = vec![0u8; len];
                ask_for_huge_pages(&mut codes);
                Ok(Tensor::from_vec(codes, shape, device)?)
            }
            (Device::Cpu, Self::Fp8) => {
                let mut codes = std::mem::ManuallyDrop::new(vec![0u8; len]);
                ask_for_huge_pages(&mut codes);
                // SAFETY: an F8E4M3 is a byte of any value.
                let numbers = unsafe {
                    Vec::from_raw_parts(codes.as_mut_ptr().cast::<F8E4M3>(), len, codes.capacity())
                };
                Ok(Tensor::from_vec(numbers, shape, device)?)
            }
            _ => Ok(Tensor::zeros(shape, self.dtype(), device)?),
        }
    }
}

/// Writes `k` and `v` `[n, kv_heads, head_dim]` f32 into the caches
/// `[num_blocks, block_size, kv_heads, head_len]` of any [`CacheType`], rounded to nearest even, token `i` at
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
        let ((_, num_heads, head_dim), (_, _, cache_heads, head_len)) = (x.dims3()?, cache.dims4()?);
        let expected = CacheType::of_dtype(cache.dtype()).map(|cache| cache.head_len(head_dim));
        if x.dim(0)? != slot_mapping.len() || num_heads != cache_heads || expected != Some(head_len) {
            return Err(KernelError::Shape {
                op: "write_kv",
                what,
                expected: format!("{} tokens for a cache {:?}", slot_mapping.len(), cache.dims()),
                found: x.dims().to_vec(),
            });
        }
        let write = WriteSlots { slot_mapping, num_heads, head_dim, head_len };
        cache.inplace_op2(&x.contiguous()?, &write)?;
    }
    Ok(())
}

struct WriteSlots<'a> {
    slot_mapping: &'a [u32],
    num_heads: usize,
    head_dim: usize,
    /// Elements of a head in the cache.
    head_len: usize,
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
            CpuStorage::F32(cache) => self.write(&mut cache[start..end], x, each(|x| x)),
            CpuStorage::BF16(cache) => self.write(&mut cache[start..end], x, each(bf16::from_f32)),
            CpuStorage::F8E4M3(cache) => self.write(&mut cache[start..end], x, each(fp8::to_e4m3)),
            CpuStorage::U8(cache) => self.write(&mut cache[start..end], x, int8_heads::narrow),
            _ => bail!("write_kv: no cache is kept in such numbers"),
        }
    }
}

impl WriteSlots<'_> {
    /// Writes heads by `convert`, which gets one and its place.
    fn write<T>(
        &self,
        cache: &mut [T],
        x: &[f32],
        convert: impl Fn(&[f32], &mut [T]),
    ) -> candle_core::Result<()> {
        let (width, cached_width) = (self.num_heads * self.head_dim, self.num_heads * self.head_len);
        let num_slots = cache.len() / cached_width.max(1);
        for (&slot, x) in self.slot_mapping.iter().zip(x.chunks(width.max(1))) {
            if slot as usize >= num_slots {
                bail!("write_kv: slot {slot} is not in a cache of {num_slots} slots");
            }
            let cached = &mut cache[slot as usize * cached_width..][..cached_width];
            for (x, cached) in x.chunks(self.head_dim).zip(cached.chunks_mut(self.head_len)) {
                convert(x, cached);
            }
        }
        Ok(())
    }
}

/// Number by number.
fn each<T>(convert: impl Fn(f32) -> T) -> impl Fn(&[f32], &mut [T]) {
    move |x, to| to.iter_mut().zip(x).for_each(|(to, x)| *to = convert(*x))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    #[test]
    fn tokens_land_in_their_slots() {
        for cache in [CacheType::F32, CacheType::Bf16, CacheType::Fp8] {
            let cache = || cache.zeros((2, 2, 1, 2), &Device::Cpu).unwrap();
            let (k_cache, v_cache) = (cache(), cache());
            let k = Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0], (2, 1, 2), &Device::Cpu).unwrap();
            write_kv(&k, &(&k * 2.0).unwrap(), &k_cache, &v_cache, &[3, 0]).unwrap();
            let flat =
                |t: &Tensor| t.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(flat(&k_cache), [3.0, 4.0, 0.0, 0.0, 0.0, 0.0, 1.0, 2.0]);
            assert_eq!(flat(&v_cache), [6.0, 8.0, 0.0, 0.0, 0.0, 0.0, 2.0, 4.0]);
            assert!(write_kv(&k, &k, &k_cache, &v_cache, &[0, 4]).is_err());
            assert!(write_kv(&k, &k, &k_cache, &v_cache, &[0]).is_err());
            let wider = Tensor::zeros((2, 1, 3), DType::F32, &Device::Cpu).unwrap();
            assert!(write_kv(&wider, &wider, &k_cache, &v_cache, &[3, 0]).is_err());
        }
    }

    #[test]
    fn heads_of_integers_keep_their_scales() {
        let (heads, head_dim) = (2, 40);
        let cache = || CacheType::Int8.zeros((2, 2, heads, head_dim), &Device::Cpu).unwrap();
        let (k_cache, v_cache) = (cache(), cache());
        let head_len = CacheType::Int8.head_len(head_dim);
        assert_eq!(k_cache.dims(), [2, 2, heads, head_len]);
        let values = (0..heads * head_dim).map(|i| i as f32 - 30.0);
        let k =
            Tensor::from_iter(values.clone(), &Device::Cpu).unwrap().reshape((1, heads, head_dim)).unwrap();
        write_kv(&k, &(&k * -1000.0).unwrap(), &k_cache, &v_cache, &[3]).unwrap();
        for (cache, factor) in [(k_cache, 1.0), (v_cache, -1000.0)] {
            let bytes = cache.flatten_all().unwrap().to_vec1::<u8>().unwrap();
            let (before, slot) = bytes.split_at(3 * heads * head_len);
            assert!(before.iter().all(|byte| *byte == 0));
            let mut found = vec![0f32; head_dim];
            let expected: Vec<f32> = values.clone().map(|x| x * factor).collect();
            for (head, expected) in slot.chunks(head_len).zip(expected.chunks(head_dim)) {
                int8_heads::widen(head, &mut found, |x| x);
                let close = |(found, expected): (&f32, &f32)| (found - expected).abs() <= 0.25 * factor.abs();
                assert!(found.iter().zip(expected).all(close), "{found:?} {expected:?}");
            }
        }
    }
}
