// Rows of the embedding matrix as f32, one block per token.

#include "../cuda/kernel.h"

struct EmbeddingArgs {
  const uint16_t *weight;  // bf16 [vocab, hidden]
  const uint32_t *ids;     // [n]
  float *out;              // [n, hidden]
  uint32_t hidden;
};

/// Grid [n].
KERNEL void embedding_bf16_f32(const EmbeddingArgs args) {
  await_previous();
  const uint16_t *row = args.weight + (size_t)args.ids[blockIdx.x] * args.hidden;
  float *out = args.out + (size_t)blockIdx.x * args.hidden;
  for (uint32_t i = threadIdx.x; i < args.hidden; i += blockDim.x) out[i] = bf16_to_f32(row[i]);
}

TWIN(embedding_bf16_f32, EmbeddingArgs)
