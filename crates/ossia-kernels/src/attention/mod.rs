//! The attention of one layer between its projections: rotation, cache write and attention over the cache.

#[cfg(any(test, feature = "cuda"))]
mod cuda;
mod generic;
#[cfg(any(test, feature = "metal"))]
mod metal;
#[cfg(test)]
mod test_case;
#[cfg(any(test, feature = "cuda", feature = "metal"))]
mod words;

use candle_core::Tensor;

use self::generic::GenericBatch;
use crate::backend::{Backend, Form};
use crate::kv_cache::write_kv;
use crate::paged_attention::{AttentionLayer, AttentionMetadata, paged_attention};
use crate::rope::rope;
use crate::{DeviceInput, KernelError, Result};

/// What is fixed for the attention of one layer.
#[derive(Clone, Debug)]
pub struct AttentionSpec {
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key-value heads; query head `h` reads head `h / (num_attention_heads / num_key_value_heads)`.
    pub num_key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// One learned logit per query head; it joins the softmax denominator and has no value.
    pub sinks: Vec<f32>,
    /// Positions a query sees, its own included; `None` for all up to its own.
    pub sliding_window: Option<usize>,
}

/// The attention of one layer.
#[derive(Clone, Debug)]
pub struct Attention {
    spec: AttentionSpec,
    /// `sinks` on the device, `[num_attention_heads]`.
    sinks: Tensor,
    form: Form,
}

/// A batch as the attention layers of one group see it: which tokens belong together, where their context lies and
/// where the new keys and values go. Made once per pass.
#[derive(Debug)]
pub struct AttentionBatch<'a> {
    metadata: AttentionMetadata<'a>,
    slot_mapping: &'a [u32],
    on_device: OnDevice,
}

/// A batch's metadata where the form wants it.
#[derive(Debug)]
enum OnDevice {
    /// The CPU's ops read it as it is.
    Cpu,
    Generic(GenericBatch),
    #[cfg(feature = "cuda")]
    Cuda(Box<cuda::CudaBatch>),
    #[cfg(feature = "metal")]
    Metal(Box<metal::MetalBatch>),
}

/// What a layer's projections made of a batch's tokens, each `[n, heads * head_dim]` f32.
#[derive(Clone, Debug)]
pub struct Qkv {
    /// Of all query heads.
    pub q: Tensor,
    /// Of all key-value heads.
    pub k: Tensor,
    /// Of all key-value heads.
    pub v: Tensor,
}

/// Cosines and sines of a batch's positions, each `[n, head_dim / 2]` f32.
#[derive(Clone, Debug)]
pub struct CosSin {
    /// Cosines.
    pub cos: Tensor,
    /// Sines.
    pub sin: Tensor,
}

/// Keys and values of one layer, each `[num_blocks, block_size, kv_heads, head_dim]`, of one [`CacheType`](crate::CacheType).
#[derive(Clone, Copy, Debug)]
pub struct LayerCache<'a> {
    /// Rotated keys.
    pub k: &'a Tensor,
    /// Values.
    pub v: &'a Tensor,
}

impl<'a> AttentionBatch<'a> {
    pub(crate) fn new(
        backend: &Backend,
        metadata: AttentionMetadata<'a>,
        slot_mapping: &'a [u32],
        input: &mut DeviceInput,
    ) -> Result<Self> {
        let on_device = match backend.form() {
            Form::Cpu => OnDevice::Cpu,
            Form::Generic => OnDevice::Generic(GenericBatch::new(backend, &metadata, slot_mapping)?),
            #[cfg(feature = "cuda")]
            Form::Cuda(kernels) => {
                let batch = cuda::CudaBatch::new(kernels, backend, &metadata, slot_mapping, input)?;
                OnDevice::Cuda(Box::new(batch))
            }
            #[cfg(feature = "metal")]
            Form::Metal(kernels) => {
                let batch = metal::MetalBatch::new(kernels, backend.device(), &metadata, slot_mapping)?;
                OnDevice::Metal(Box::new(batch))
            }
        };
        #[cfg(not(feature = "cuda"))]
        let _ = input;
        Ok(Self { metadata, slot_mapping, on_device })
    }

    /// What tells apart batches for which a layer launches other kernels, other grids or other addresses: the key of a
    /// recording. `None` where nothing is recorded.
    pub fn recording_key(&self) -> Option<[u64; 5]> {
        match &self.on_device {
            #[cfg(feature = "cuda")]
            OnDevice::Cuda(batch) => batch.recording_key().ok(),
            _ => None,
        }
    }
}

impl Attention {
    pub(crate) fn new(backend: &Backend, spec: AttentionSpec) -> Result<Self> {
        let heads = [spec.num_attention_heads, spec.num_key_value_heads];
        if spec.sinks.len() != heads[0] || heads[1] == 0 || !heads[0].is_multiple_of(heads[1]) {
            return Err(KernelError::Shape {
                op: "attention",
                what: "sinks and key-value heads",
                expected: format!("one sink for each of {} heads, in whole groups", heads[0]),
                found: vec![spec.sinks.len(), heads[1]],
            });
        }
        #[cfg(feature = "cuda")]
        if let (Form::Cuda(_), false) = (backend.form(), cuda::fits(&spec)) {
            return Err(KernelError::Shape {
                op: "attention",
                what: "head_dim and query heads per key-value head",
                expected: "for our CUDA kernels a multiple of 8 up to 128, and up to 16".to_owned(),
                found: vec![spec.head_dim, heads[0] / heads[1]],
            });
        }
        #[cfg(feature = "metal")]
        if let (Form::Metal(_), false) = (backend.form(), metal::fits(&spec)) {
            return Err(KernelError::Shape {
                op: "attention",
                what: "head_dim",
                expected: "for our Metal kernels an even number up to 128".to_owned(),
                found: vec![spec.head_dim],
            });
        }
        let sinks = backend.vector(&spec.sinks)?;
        Ok(Self { spec, sinks, form: backend.form().clone() })
    }

    /// Rotates queries and keys by their positions, writes keys and values of the batch into the cache and attends:
    /// to `[n, heads * head_dim]` f32.
    ///
    /// # Errors
    /// [`KernelError::Shape`] if shapes do not fit, [`KernelError::Candle`] if a slot or a block is not in the cache or
    /// a block table does not cover what its queries see.
    pub fn forward(
        &self,
        qkv: &Qkv,
        rotary: &CosSin,
        cache: LayerCache,
        batch: &AttentionBatch,
    ) -> Result<Tensor> {
        match &batch.on_device {
            OnDevice::Cpu => {
                let (q, k, v) = self.rotated(qkv, rotary)?;
                write_kv(&k, &v, cache.k, cache.v, batch.slot_mapping)?;
                paged_attention(&q, cache.k, cache.v, &self.layer(), &batch.metadata)
            }
            OnDevice::Generic(generic) => {
                self.check_cache(cache, batch)?;
                let (q, k, v) = self.rotated(qkv, rotary)?;
                generic.write(&k, cache.k)?;
                generic.write(&v, cache.v)?;
                generic.attend(&q, cache, &self.sinks, &self.layer())
            }
            #[cfg(feature = "cuda")]
            OnDevice::Cuda(cuda) => {
                self.check_cache(cache, batch)?;
                cuda.forward(&self.spec, &self.sinks, qkv, rotary, cache)
            }
            #[cfg(feature = "metal")]
            OnDevice::Metal(metal) => {
                self.check_cache(cache, batch)?;
                metal.forward(&self.spec, &self.sinks, qkv, rotary, cache)
            }
        }
    }

    /// Queries and keys turned by their positions, and values, each `[n, heads, head_dim]`.
    fn rotated(&self, qkv: &Qkv, rotary: &CosSin) -> Result<(Tensor, Tensor, Tensor)> {
        let AttentionSpec { num_attention_heads, num_key_value_heads, head_dim, .. } = self.spec;
        let heads = |x: &Tensor, num_heads| x.reshape(((), num_heads, head_dim));
        let q = rope(&self.form, &heads(&qkv.q, num_attention_heads)?, &rotary.cos, &rotary.sin)?;
        let k = rope(&self.form, &heads(&qkv.k, num_key_value_heads)?, &rotary.cos, &rotary.sin)?;
        Ok((q, k, heads(&qkv.v, num_key_value_heads)?))
    }

    fn layer(&self) -> AttentionLayer<'_> {
        AttentionLayer {
            sinks: &self.spec.sinks,
            scale: 1.0 / (self.spec.head_dim as f32).sqrt(),
            sliding_window: self.spec.sliding_window,
        }
    }

    /// What the CPU's ops check on their own: devices write where they are told.
    fn check_cache(&self, cache: LayerCache, batch: &AttentionBatch) -> Result<()> {
        let (num_blocks, block_size, num_kv_heads, head_dim) = cache.k.dims4()?;
        let expected = [self.spec.num_key_value_heads, self.spec.head_dim];
        if cache.v.dims() != cache.k.dims() || [num_kv_heads, head_dim] != expected {
            return Err(KernelError::Shape {
                op: "attention",
                what: "cache",
                expected: format!("two of [blocks, block_size, {}, {}]", expected[0], expected[1]),
                found: cache.k.dims().to_vec(),
            });
        }
        let num_slots = num_blocks * block_size;
        if let Some(&slot) = batch.slot_mapping.iter().find(|&&slot| slot as usize >= num_slots) {
            return Err(KernelError::Shape {
                op: "attention",
                what: "slot_mapping",
                expected: format!("slots below {num_slots}"),
                found: vec![slot as usize],
            });
        }
        let num_tokens = batch.slot_mapping.len();
        Ok(batch.metadata.check(self.spec.sliding_window, [num_blocks, block_size], num_tokens)?)
    }
}
