// Rotary position embedding of queries and keys (src/nn/rope.rs is its CPU twin), and keys and values into the cache
// (src/nn/cache.rs): (a, b) ← (a cos − b sin, b cos + a sin) of the pairs (i, i + d / 2) of every head.
//
// q [n, heads, d] is turned in place; keys and values are stored in keys and values [sequences, kv_heads, room, d] of
// one layer. A finite number that is too large for f16 sets `overflow[sequence]`.
//
// Launch: 128 threads; grid (n, heads + 2 · kv_heads).
#include "common.h"

struct Rotary {
  float* q;
  const float* k;
  const float* v;
  void* keys;
  void* values;
  const float* angles;     // [context, d]: cos, then sin
  const u32* positions;    // [n]
  const u32* sequences;    // [n]
  u32* overflow;           // [sequences]
  u32 heads, kv_heads, d, room;
  u32 q_stride, kv_stride;
};

template <class T>
DEVICE void store(const Rotary& p, T* to, float x, u32 sequence) {
  *to = (T)x;
  float back = (float)*to;
  if (__builtin_fabsf(back) > 3e38f && __builtin_fabsf(x) <= 3.4e38f) p.overflow[sequence] = 1;
}

template <class T>
DEVICE void rotary(const Rotary& p) {
  u32 row = block_x(), head = block_y(), half = p.d / 2;
  u32 position = p.positions[row], sequence = p.sequences[row];
  const float* turn = p.angles + (u64)position * p.d;
  if (head < p.heads) {
    float* q = p.q + (u64)row * p.q_stride + head * p.d;
    for (u32 i = thread(); i < half; i += 128) {
      float a = q[i], b = q[i + half], cos = turn[i], sin = turn[i + half];
      q[i] = a * cos - b * sin, q[i + half] = b * cos + a * sin;
    }
    return;
  }
  bool is_key = head < p.heads + p.kv_heads;
  head -= p.heads + (is_key ? 0 : p.kv_heads);
  const float* x = (is_key ? p.k : p.v) + (u64)row * p.kv_stride + head * p.d;
  u64 at = (((u64)sequence * p.kv_heads + head) * p.room + position) * p.d;
  T* to = (T*)(is_key ? p.keys : p.values) + at;
  for (u32 i = thread(); i < half; i += 128) {
    float a = x[i], b = x[i + half];
    if (is_key) {
      float cos = turn[i], sin = turn[i + half], c = a * cos - b * sin;
      b = b * cos + a * sin, a = c;
    }
    store<T>(p, to + i, a, sequence), store<T>(p, to + i + half, b, sequence);
  }
}

KERNEL(128) rotary_f16(const Rotary p) { rotary<f16>(p); }
KERNEL(128) rotary_f32(const Rotary p) { rotary<float>(p); }
