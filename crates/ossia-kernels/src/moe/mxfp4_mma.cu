// The projections of the visited experts for up to some hundred tokens, on the tensor cores, at the speed of the memory:
// slots sorted by expert are cut into tiles of one expert each, and a tile is multiplied with sixteen or 32 of the expert's
// rows at a time, unpacked in the registers from which they are multiplied.

#include "mxfp4.h"

// Warps of a block share its rows and take their columns in turns, STEP at a time: a lane has one block of two rows.
#define WARPS 4
#define THREADS (WARPS * WARP_LANES)
#define STEP 128

/// What a projection reads of the launch right before it.
enum class Written { TILES, X };

template <int SLOT_TILES>
struct Mxfp4MmaShared {
  float parts[WARPS][SLOT_TILES * 8][16];
};

/// What a lane multiplies in a step: a block of two rows of each tile of rows, and the slots' activations there.
template <int SLOT_TILES, int ROW_TILES>
struct Step {
  uint4 codes[ROW_TILES][2];
  uint32_t scales[ROW_TILES][2];
  uint4 x[SLOT_TILES][4];
};

/// Where a lane finds them.
template <int SLOT_TILES, int ROW_TILES>
struct Sources {
  const uint8_t *blocks[ROW_TILES][2];
  const uint8_t *scales[ROW_TILES][2];
  const uint16_t *x[SLOT_TILES];
  uint32_t num_blocks;
};

template <int SLOT_TILES, int ROW_TILES>
DEVICE void load_weights(const Sources<SLOT_TILES, ROW_TILES> &from, uint32_t step, Step<SLOT_TILES, ROW_TILES> &to) {
  // Past the last block, the last one again with a scale of 0.
  const uint32_t wanted = step * 4 + threadIdx.x % 4, block = wanted < from.num_blocks ? wanted : from.num_blocks - 1;
#pragma unroll
  for (int m = 0; m < ROW_TILES; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      to.codes[m][half] = stream_16(from.blocks[m][half] + block * 16);
      const uint32_t e = from.scales[m][half][block];
      to.scales[m][half] = wanted < from.num_blocks ? scale_pair(e) : 0;
    }
}

template <int SLOT_TILES, int ROW_TILES>
DEVICE void load_x(const Sources<SLOT_TILES, ROW_TILES> &from, uint32_t step, Step<SLOT_TILES, ROW_TILES> &to) {
  const uint32_t wanted = step * 4 + threadIdx.x % 4, block = wanted < from.num_blocks ? wanted : from.num_blocks - 1;
#pragma unroll
  for (int n = 0; n < SLOT_TILES; n++)
#pragma unroll
    for (int word = 0; word < 4; word++) to.x[n][word] = load_16(from.x[n] + block * 32 + word * 8);
}

template <int SLOT_TILES, int ROW_TILES>
DEVICE void multiply_step(const Step<SLOT_TILES, ROW_TILES> &step, float (&acc)[ROW_TILES][SLOT_TILES][4]) {
#pragma unroll
  for (int word = 0; word < 4; word++)
#pragma unroll
    for (int m = 0; m < ROW_TILES; m++) {
      const uint4 upper = unpack(word_of(step.codes[m][0], word), step.scales[m][0]);
      const uint4 lower = unpack(word_of(step.codes[m][1], word), step.scales[m][1]);
#pragma unroll
      for (int n = 0; n < SLOT_TILES; n++) {
        const uint4 &pairs = step.x[n][word];
        mma_bf16_16x8x16(acc[m][n], {upper.x, lower.x, upper.y, lower.y}, {pairs.x, pairs.y});
        mma_bf16_16x8x16(acc[m][n], {upper.z, lower.z, upper.w, lower.w}, {pairs.z, pairs.w});
      }
    }
}

/// Points at the weights of an item: neighbouring rows stand where the tensor cores have rows g and g + 8. Rows past the end
/// read the last row and are not written.
template <int SLOT_TILES, int ROW_TILES>
DEVICE void seek_weights(const Mxfp4Args &args, const SlotTile &tile, uint32_t first_row,
                         Sources<SLOT_TILES, ROW_TILES> &from) {
#pragma unroll
  for (int m = 0; m < ROW_TILES; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const uint32_t row = first_row + m * 16 + threadIdx.x % WARP_LANES / 4 * 2 + half;
      const size_t start = ((size_t)tile.expert * args.rows + (row < args.rows ? row : args.rows - 1)) * args.cols;
      from.blocks[m][half] = args.weights.blocks + start / 2;
      from.scales[m][half] = args.weights.scales + start / 32;
    }
}

/// Points at the activations of an item. Slots past the end read the first slot and are not written.
template <int SLOT_TILES, int ROW_TILES>
DEVICE void seek_x(const Mxfp4Args &args, const SlotTile &tile, Sources<SLOT_TILES, ROW_TILES> &from) {
#pragma unroll
  for (int n = 0; n < SLOT_TILES; n++) {
    const uint32_t i = n * 8 + threadIdx.x % WARP_LANES / 4;
    const uint32_t slot = args.sorted[tile.first + (i < tile.num_slots ? i : 0)];
    from.x[n] = args.x + (size_t)(slot / args.slots_per_x) * args.cols;
  }
}

/// Adds what the warps made of an item and gives each pair of neighbouring rows to `write(slot, row, first, second)`.
template <int SLOT_TILES, int ROW_TILES, typename Write>
DEVICE void finish(const Mxfp4Args &args, Mxfp4MmaShared<SLOT_TILES> &shared, const SlotTile &tile, uint32_t first_row,
                   const float (&acc)[ROW_TILES][SLOT_TILES][4], Write write) {
  const uint32_t warp = threadIdx.x / WARP_LANES, g = threadIdx.x % WARP_LANES / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int m = 0; m < ROW_TILES; m++) {
    __syncthreads();
#pragma unroll
    for (int n = 0; n < SLOT_TILES; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) shared.parts[warp][n * 8 + t * 2 + i % 2][g * 2 + i / 2] = acc[m][n][i];
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < tile.num_slots * 8; i += THREADS) {
      const uint32_t row = first_row + m * 16 + i % 8 * 2;
      if (row >= args.rows) continue;
      const float *bias = args.bias + (size_t)tile.expert * args.rows + row;
      float sums[2] = {bias[0], bias[1]};
#pragma unroll
      for (int part = 0; part < WARPS; part++) {
        sums[0] += shared.parts[part][i / 8][i % 8 * 2];
        sums[1] += shared.parts[part][i / 8][i % 8 * 2 + 1];
      }
      write(args.sorted[tile.first + i / 8], row, sums[0], sums[1]);
    }
  }
}

/// A block takes items in turns, an item being a tile of slots with 16 * ROW_TILES of its expert's rows: while one is
/// multiplied, the next one's first steps are under way. `PREVIOUS` is what the launch right before wrote.
template <int SLOT_TILES, int ROW_TILES, int AHEAD, Written PREVIOUS, typename Write>
DEVICE void multiply(const Mxfp4Args &args, Mxfp4MmaShared<SLOT_TILES> &shared, Write write) {
  if (PREVIOUS == Written::TILES) await_previous();
  const uint32_t warp = threadIdx.x / WARP_LANES;
  const uint32_t item_rows = ROW_TILES * 16, items_per_tile = (args.rows + item_rows - 1) / item_rows;
  const auto tile_of = [&](uint32_t item) {
    const uint32_t tile = item / items_per_tile;
    return tile < args.num_tiles ? args.tiles[tile] : SlotTile{0, 0, 0, 0};
  };
  const auto row_of = [&](uint32_t item) { return item % items_per_tile * item_rows; };
  Sources<SLOT_TILES, ROW_TILES> from;
  from.num_blocks = args.cols / 32;
  const uint32_t num_steps = (from.num_blocks + 3) / 4, rounds = (num_steps + WARPS * AHEAD - 1) / (WARPS * AHEAD);

  uint32_t item = blockIdx.x;
  SlotTile tile = tile_of(item);
  Step<SLOT_TILES, ROW_TILES> steps[AHEAD];
  if (tile.num_slots > 0) {
    seek_weights(args, tile, row_of(item), from);
#pragma unroll
    for (int i = 0; i < AHEAD; i++) load_weights(from, warp + i * WARPS, steps[i]);
  }
  if (PREVIOUS != Written::TILES) await_previous();
  if (tile.num_slots == 0) return;
  seek_x(args, tile, from);
#pragma unroll
  for (int i = 0; i < AHEAD; i++) load_x(from, warp + i * WARPS, steps[i]);

  // Tiles without slots come last.
  while (tile.num_slots > 0) {
    const uint32_t next_item = item + gridDim.x;
    const SlotTile next = tile_of(next_item);
    float acc[ROW_TILES][SLOT_TILES][4] = {};
    for (uint32_t round = 0; round < rounds; round++) {
      const bool is_last = round + 1 == rounds, more = !is_last || next.num_slots > 0;
      const uint32_t next_step = is_last ? 0 : (round + 1) * WARPS * AHEAD;
      if (is_last && more) {
        seek_weights(args, next, row_of(next_item), from);
        seek_x(args, next, from);
      }
#pragma unroll
      for (int i = 0; i < AHEAD; i++) {
        multiply_step(steps[i], acc);
        if (!more) continue;
        load_weights(from, next_step + warp + i * WARPS, steps[i]);
        load_x(from, next_step + warp + i * WARPS, steps[i]);
      }
    }
    finish(args, shared, tile, row_of(item), acc, write);
    item = next_item;
    tile = next;
  }
}

template <int SLOT_TILES, int ROW_TILES, int AHEAD>
DEVICE void gate_up(const Mxfp4Args &args, Mxfp4MmaShared<SLOT_TILES> &shared) {
  multiply<SLOT_TILES, ROW_TILES, AHEAD, Written::TILES>(args, shared, [&](uint32_t slot, uint32_t row, float gate, float up) {
    write_activated(args, slot, row, gate, up);
  });
}
template <int SLOT_TILES, int ROW_TILES, int AHEAD>
DEVICE void down(const Mxfp4Args &args, Mxfp4MmaShared<SLOT_TILES> &shared) {
  multiply<SLOT_TILES, ROW_TILES, AHEAD, Written::X>(
      args, shared, [&](uint32_t slot, uint32_t row, float a, float b) { write_sums(args, slot, row, a, b); });
}

/// By slots of a tile. Grid: as many blocks as the device holds at a time.
KERNEL_OF(THREADS, 4) void mxfp4_gate_up_mma_8(const Mxfp4Args args) {
  SHARED(Mxfp4MmaShared<1>, shared);
  gate_up<1, 1, 3>(args, shared);
}
KERNEL_OF(THREADS, 4) void mxfp4_gate_up_mma_16(const Mxfp4Args args) {
  SHARED(Mxfp4MmaShared<2>, shared);
  gate_up<2, 1, 2>(args, shared);
}
KERNEL_OF(THREADS, 2) void mxfp4_gate_up_mma_32(const Mxfp4Args args) {
  SHARED(Mxfp4MmaShared<4>, shared);
  gate_up<4, 2, 2>(args, shared);
}
KERNEL_OF(THREADS, 4) void mxfp4_down_mma_8(const Mxfp4Args args) {
  SHARED(Mxfp4MmaShared<1>, shared);
  down<1, 1, 3>(args, shared);
}
KERNEL_OF(THREADS, 4) void mxfp4_down_mma_16(const Mxfp4Args args) {
  SHARED(Mxfp4MmaShared<2>, shared);
  down<2, 1, 2>(args, shared);
}
KERNEL_OF(THREADS, 2) void mxfp4_down_mma_32(const Mxfp4Args args) {
  SHARED(Mxfp4MmaShared<4>, shared);
  down<4, 2, 2>(args, shared);
}

TWIN(mxfp4_gate_up_mma_8, Mxfp4Args)
TWIN(mxfp4_gate_up_mma_16, Mxfp4Args)
TWIN(mxfp4_gate_up_mma_32, Mxfp4Args)
TWIN(mxfp4_down_mma_8, Mxfp4Args)
TWIN(mxfp4_down_mma_16, Mxfp4Args)
TWIN(mxfp4_down_mma_32, Mxfp4Args)
