// Causal grouped-query attention of prompt rows and decode steps alike (src/nn/attention.rs is its CPU twin):
// out = softmax(q_h · K_g[0 ..= p]ᵀ / √d) · V_g[0 ..= p], g = h / (heads / kv_heads), p the row's position.
//
// q and out [n, heads, d], keys and values [sequences, kv_heads, room, d] of one layer; d at most 256.
//
// Launch: 128 threads; grid (n, heads). The block walks over 128 positions at a time and keeps a softmax in parts (arXiv
// 1805.02867). For scores a thread has a position, for the sum of values a dimension; where d leaves threads over, they
// take other positions.
#include "common.h"

struct Attention {
  const float* q;
  float* out;
  const void* keys;
  const void* values;
  const u32* positions;    // [n]
  const u32* sequences;    // [n]
  float scale;             // 1 / √d
  u32 heads, kv_heads, d, room;
  u32 q_stride, out_stride;
};

const u32 TILE = 128;
const float LEAST = -3.0e38f;

DEVICE float block_max(float x, float* room) {
#pragma unroll
  for (int by = 16; by; by >>= 1) x = __builtin_fmaxf(x, __nvvm_shfl_sync_bfly_f32(-1, x, by, 31));
  __syncthreads();
  if (thread() % 32 == 0) room[thread() / 32] = x;
  __syncthreads();
  return __builtin_fmaxf(__builtin_fmaxf(room[0], room[1]), __builtin_fmaxf(room[2], room[3]));
}

template <class T>
DEVICE float score(const T* key, const float* q, u32 d) {
  float sum = 0;
  if (d % 8 == 0) {
    for (u32 i = 0; i < d; i += 8) {
      float k[8];
      read8(key + i, k);
#pragma unroll
      for (int j = 0; j < 8; j++) sum = __builtin_fmaf(k[j], q[i + j], sum);
    }
  } else {
    for (u32 i = 0; i < d; i++) sum = __builtin_fmaf((float)key[i], q[i], sum);
  }
  return sum;
}

// out = softmax(scale · q Kᵀ) V of one query over `seen` keys and values, which lie `stride` numbers apart.
template <class T>
DEVICE void attend(const float* query, const T* keys, const T* values, u32 stride, u32 seen, u32 d, float scale, float* to) {
  SHARED float q[256], weights[TILE], room[4], parts[TILE];
  for (u32 i = thread(); i < d; i += TILE) q[i] = query[i];
  __syncthreads();

  u32 lanes = d < TILE ? d : TILE, groups = TILE / lanes;
  u32 group = thread() / lanes, dimension = thread() % lanes;
  float max = LEAST, sum = 0, out[2] = {0, 0};
  for (u32 first = 0; first < seen; first += TILE) {
    u32 position = first + thread();
    float s = position < seen ? scale * score<T>(keys + (u64)position * stride, q, d) : LEAST;
    float new_max = block_max(__builtin_fmaxf(max, s), room);
    float weight = position < seen ? exponential(s - new_max) : 0;
    // A NaN among the scores must be seen in the result; max and exp do not keep it.
    if (s != s) weight = s;
    weights[thread()] = weight;
    float rescale = exponential(max - new_max);
    sum = sum * rescale + block_sum<4>(weight, room);
    max = new_max;
    u32 count = seen - first < TILE ? seen - first : TILE;
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
      u32 i = dimension + half * TILE;
      out[half] *= rescale;
      if (group >= groups || i >= d) continue;
      for (u32 t = group; t < count; t += groups)
        out[half] = __builtin_fmaf(weights[t], (float)values[(u64)(first + t) * stride + i], out[half]);
    }
    __syncthreads();
  }
  parts[thread()] = out[0];
  __syncthreads();
  if (thread() < lanes) {
    float total = 0;
    for (u32 g = 0; g < groups; g++) total += parts[g * lanes + thread()];
    to[thread()] = total / sum;
    if (thread() + TILE < d) to[thread() + TILE] = out[1] / sum;
  }
}

template <class T>
DEVICE void attention(const Attention& p) {
  u32 row = block_x(), head = block_y(), d = p.d;
  u64 line = ((u64)p.sequences[row] * p.kv_heads + head / (p.heads / p.kv_heads)) * p.room;
  const T* keys = (const T*)p.keys + line * d;
  const T* values = (const T*)p.values + line * d;
  const float* q = p.q + (u64)row * p.q_stride + head * d;
  attend<T>(q, keys, values, d, p.positions[row] + 1, d, p.scale, p.out + (u64)row * p.out_stride + head * d);
}

KERNEL(128) attention_f16(const Attention p) { attention<f16>(p); }
KERNEL(128) attention_f32(const Attention p) { attention<float>(p); }

// Bidirectional attention of encoders (src/nn/packed.rs is its CPU twin): the rows of a text, which lie side by side, see
// each other and no others: out = softmax(q_h · K_h[text]ᵀ / √d) · V_h[text]. q, k, v and out [n, heads, d] in rows of
// `stride`; d at most 256. Launch: as above.
struct Bidirectional {
  const float* q;
  const float* k;
  const float* v;
  float* out;
  const u32* first;        // [n]: the first row of the row's text
  const u32* length;       // [n]: its rows
  float scale;             // 1 / √d
  u32 d, stride, padding;
};

KERNEL(128) attention_bidirectional(const Bidirectional p) {
  u32 row = block_x(), column = block_y() * p.d;
  u64 text = (u64)p.first[row] * p.stride + column, own = (u64)row * p.stride + column;
  attend<float>(p.q + own, p.k + text, p.v + text, p.stride, p.length[row], p.d, p.scale, p.out + own);
}
