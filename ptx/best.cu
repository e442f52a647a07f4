// The k largest numbers of a row and their places, the largest first, of equals the one that stands first (top-k in
// src/runtime/sample.rs is the CPU twin). x [n, width]; values and out [n, parts, k], where a row is one of `parts`
// parts of 4,096 numbers. Rows of several parts are made fewer by another launch over what the first made, with its
// places. A number that is NaN or +∞ counts as the largest, with place 0xffffffff; a part that has fewer than k is filled
// up with −∞ at 0xfffffffe.
//
// Launch: 256 threads; grid (parts, n).
#include "common.h"

struct Best {
  const float* x;
  const u32* places;  // of x, or null where they are those in the row
  float* values;
  u32* out;
  u32 width, stride, k, padding;
};

#define EACH 16
#define PART (256 * EACH)

const u32 BAD = 0xffffffff, NONE = 0xfffffffe;

DEVICE bool is_better(float value, u32 place, float than, u32 at) {
  return value > than || (value == than && place < at);
}

KERNEL(256) best(const Best p) {
  // Of every warp, for rounds of even and of odd number.
  SHARED float largest[2][8];
  SHARED u32 where[2][8];
  float value[EACH];
  u32 place[EACH];
  u64 row = (u64)block_y() * p.stride;
#pragma unroll
  for (u32 i = 0; i < EACH; i++) {
    u32 at = block_x() * PART + i * 256 + thread();
    value[i] = -__builtin_inff(), place[i] = NONE;
    if (at < p.width) {
      value[i] = p.x[row + at];
      place[i] = p.places ? p.places[row + at] : at;
      if (!(value[i] < __builtin_inff())) value[i] = __builtin_inff(), place[i] = BAD;
    }
  }
  u64 to = ((u64)block_y() * ((p.width + PART - 1) / PART) + block_x()) * p.k;
  for (u32 round = 0; round < p.k; round++) {
    float best = value[0];
    u32 at = place[0];
#pragma unroll
    for (u32 i = 1; i < EACH; i++)
      if (is_better(value[i], place[i], best, at)) best = value[i], at = place[i];
#pragma unroll
    for (int by = 16; by; by >>= 1) {
      float other = __nvvm_shfl_sync_bfly_f32(-1, best, by, 31);
      u32 its = __nvvm_shfl_sync_bfly_i32(-1, at, by, 31);
      if (is_better(other, its, best, at)) best = other, at = its;
    }
    u32 half = round % 2;
    if (thread() % 32 == 0) largest[half][thread() / 32] = best, where[half][thread() / 32] = at;
    __syncthreads();
#pragma unroll
    for (u32 warp = 0; warp < 8; warp++)
      if (is_better(largest[half][warp], where[half][warp], best, at)) best = largest[half][warp], at = where[half][warp];
    if (thread() == 0) p.values[to + round] = best, p.out[to + round] = at;
    // It is taken; the bad ones all at once, of which one is enough.
#pragma unroll
    for (u32 i = 0; i < EACH; i++)
      if (place[i] == at) value[i] = -__builtin_inff(), place[i] = NONE;
  }
}
