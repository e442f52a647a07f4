// The linear layer, base and adapters together (src/nn/linear.rs is its CPU twin). Of every vector x:
//
//   p = W x
//   y = [y +] p + b + Σ_i weight_i (k_i − 1) ⊙ p + k_i ⊙ (B_i u_i + scale_i b_B,i)
//
// W [rows, cols] in some format, x [n, cols], y [n, rows], u [n, width] made by low_rank_down. Which adapters a vector
// has says `adapters[sequences[vector]][site]`, so neighbours can have different ones.
//
// Launch: 256 threads; grid (⌈rows / (8 ROWS)⌉, ⌈n / N⌉): each of 8 warps makes ROWS rows of y for N vectors. Its lanes
// share out the columns, eight at a time; every weight is decoded once for all N vectors, every x read once for all ROWS
// rows. ROWS is 2, so that small matrices too are shared out among many blocks; of NF4 matrices with many rows, and one
// vector, 4 (`…_1_large`).
#pragma once
#include "weights.h"

struct Product {
  Matrix weight;
  const float* x;
  float* y;
  const float* bias;       // [rows] or null
  const Low* adapters;     // [sequences, sites, max_active], or null for none
  const u32* sequences;    // [n]
  const float* down;       // u
  u32 n, x_stride, y_stride, down_stride;
  u32 site, sites, max_active;
  u32 accumulate;          // add to y instead of replacing it
};

template <u32 N, u32 ROWS>
DEVICE void take(const Product& p, u32 first, u32 col, const float (*w)[8], const float* scale, float (*sum)[N]) {
#pragma unroll
  for (u32 v = 0; v < N; v++) {
    u32 vector = first + v < p.n ? first + v : p.n - 1;
    float x[8];
    read8(p.x + (u64)vector * p.x_stride + col, x);
#pragma unroll
    for (u32 r = 0; r < ROWS; r++) {
      float part = 0;
#pragma unroll
      for (int i = 0; i < 8; i++) part = __builtin_fmaf(w[r][i], x[i], part);
      sum[r][v] = __builtin_fmaf(scale[r], part, sum[r][v]);
    }
  }
}

// What the vector's adapters add to output `row`, whose product is `base`. A warp shares out the ranks, and all its lanes
// have the sum; a thread for itself (LANES is 1) takes all of them.
template <u32 LANES>
DEVICE float adapt(const Product& p, u32 vector, u32 row, float base, u32 lane) {
  const Low* low = p.adapters + ((u64)p.sequences[vector] * p.sites + p.site) * p.max_active;
  float y = 0;
  for (u32 i = 0; i < p.max_active; i++, low++) {
    if (!low->b) continue;
    const float* u = p.down + (u64)vector * p.down_stride + low->first;
    float delta = 0;
    for (u32 j = lane; j < low->rank; j += LANES)
      delta = __builtin_fmaf(number(low->b, (u64)row * low->b_stride + j, low->b_is_f16), u[j], delta);
    if (LANES == 32) delta = warp_sum(delta);
    if (low->bias) delta = __builtin_fmaf(low->scale, low->bias[row], delta);
    if (low->gain) {
      float k = low->gain[row];
      y += low->weight * (k - 1) * base + k * delta;
    } else {
      y += delta;
    }
  }
  return y;
}

template <class W, u32 N, u32 ROWS>
DEVICE void product(const Product& p) {
  W::prepare(p.weight);
  u32 lane = thread() % 32;
  u32 rows = p.weight.rows, cols = p.weight.cols;
  u32 row = (block_x() * 8 + thread() / 32) * ROWS, first = block_y() * N;
  if (row >= rows) return;
  u32 read_row[ROWS];
  float sum[ROWS][N], w[ROWS][8], scale[ROWS];
#pragma unroll
  for (u32 r = 0; r < ROWS; r++) {
    read_row[r] = row + r < rows ? row + r : rows - 1;
#pragma unroll
    for (u32 v = 0; v < N; v++) sum[r][v] = 0;
  }
  u32 whole = W::CHUNK ? cols & ~(W::CHUNK - 1) : 0;
  for (u32 chunk = 0; chunk < whole; chunk += W::CHUNK) {
    typename W::Raw raw[ROWS];
    float scales[ROWS];
#pragma unroll
    for (u32 r = 0; r < ROWS; r++) {
      raw[r] = W::raw(p.weight, read_row[r], chunk, lane);
      scales[r] = W::scales(p.weight, read_row[r], chunk, lane);
    }
    // Of several vectors one quarter at a time: more would not fit into the registers.
#pragma unroll N > 1 ? 1 : 4
    for (u32 quarter = 0; quarter < 4; quarter++) {
#pragma unroll
      for (u32 r = 0; r < ROWS; r++) {
        W::decode(raw[r].x, w[r]);
        scale[r] = __nvvm_shfl_sync_idx_f32(-1, scales[r], 4 * quarter + lane / 8, 31);
        raw[r] = raw[r].yzww;
      }
      take<N, ROWS>(p, first, chunk + quarter * 256 + lane * 8, w, scale, sum);
    }
  }
  for (u32 col = whole + lane * 8; col < cols; col += 256) {
#pragma unroll
    for (u32 r = 0; r < ROWS; r++) scale[r] = W::read(p.weight, read_row[r], col, w[r]);
    take<N, ROWS>(p, first, col, w, scale, sum);
  }
  // Lane r N + v keeps the number of row r and vector v.
  float base = 0, extra = 0;
#pragma unroll
  for (u32 r = 0; r < ROWS; r++) {
#pragma unroll
    for (u32 v = 0; v < N; v++) {
      float total = warp_sum(sum[r][v]);
      if (lane == r * N + v) base = total;
    }
  }
  if (p.adapters) {
    for (u32 i = 0; i < ROWS * N; i++) {
      if (row + i / N >= rows || first + i % N >= p.n) continue;
      float more = adapt<32>(p, first + i % N, row + i / N, __nvvm_shfl_sync_idx_f32(-1, base, i, 31), lane);
      if (lane == i) extra = more;
    }
  }
  u32 vector = first + lane % N;
  row += lane / N;
  if (lane >= ROWS * N || row >= rows || vector >= p.n) return;
  float y = base + extra;
  if (p.bias) y += p.bias[row];
  float* out = p.y + (u64)vector * p.y_stride + row;
  *out = p.accumulate ? *out + y : y;
}

#define PRODUCTS(format, W)                                               \
  TWO(256) product_##format##_1(const Product p) { product<W, 1, 2>(p); } \
  TWO(256) product_##format##_4(const Product p) { product<W, 4, 2>(p); }

// Of NF4 tensor.cu has it.
#define MANY(format, W) \
  TWO(256) product_##format##_8(const Product p) { product<W, 8, 2>(p); }

// The embedding (src/nn/embedding.rs is its CPU twin): y = [y +] W[token] + Σ_i B_i (scale_i A_i[token]). Zero behind
// the width. Launch: 256 threads; grid (n): a thread makes every 256th number.
struct Embedding {
  Matrix table;
  const u32* tokens;       // [n]
  float* y;                // [n, cols]
  const Low* adapters;     // as in Product
  const u32* sequences;
  u32 y_stride, site, sites, max_active;
  u32 accumulate, padding;
};

template <class W>
DEVICE void embedding(const Embedding& p) {
  W::prepare(p.table);
  u32 vector = block_x(), token = p.tokens[vector];
  for (u32 col = thread(); col < p.table.cols; col += 256) {
    float w[8], y = 0, scale = W::read(p.table, token, col & ~7, w);
#pragma unroll
    for (u32 i = 0; i < 8; i++)
      if (i == col % 8) y = w[i] * scale;
    const Low* low = p.adapters + ((u64)p.sequences[vector] * p.sites + p.site) * p.max_active;
    for (u32 active = 0; p.adapters && active < p.max_active; active++, low++) {
      if (!low->b) continue;
      float delta = 0;
      for (u32 j = 0; j < low->rank; j++) {
        float a = number(low->a, (u64)token * low->a_stride + j, low->a_is_f16);
        float b = number(low->b, (u64)col * low->b_stride + j, low->b_is_f16);
        delta = __builtin_fmaf(low->scale * a, b, delta);
      }
      y += delta;
    }
    float* to = p.y + (u64)vector * p.y_stride + col;
    *to = p.accumulate ? *to + y : y;
  }
}

#define EMBEDDING(format, W) \
  KERNEL(256) embedding_##format(const Embedding p) { embedding<W>(p); }
