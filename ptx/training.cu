// Products of training, for many vectors at a time, and the gradients of low-rank factors. CPU twins: Step::frozen in
// src/train/step.rs, back_through in src/train/product.rs, and src/train/method/lora.rs.
//
//   forward    y = W x + b + Σ_j u_j E_j    x = X [n, cols], y = Y [n, rows], E = B [rank, rows], u [n, rank]
//   backward   y = Wᵀ x + Σ_j u_j E_j       x = dY [n, rows], y = dX [n, cols], E = A [rank, cols], u = dU [n, rank]
//   gradient   g_j = Σ_v u_vj x_v           g = dB or dA [rank, width], x = dY or X [n, width], u = U or dU [n, rank]
//
// Launch of the first two: 256 threads; grid (⌈width of y / 64⌉, ⌈n / 64⌉): a block makes 64 numbers of 64 vectors, a
// thread 4 of 4. Weights are dequantized into shared memory, 16 terms of every sum at a time; each 16 are added up on
// their own, so that long sums lose little. Of `gradient`: 256 threads; grid (⌈width / 64⌉, ⌈rank / 16⌉); a column's
// vectors are shared out among four threads.
#include "weights.h"

#define SIDE 64
#define DEEP 16

struct Tiles {
  Matrix weight;
  const float* x;
  float* y;
  const float* bias;     // of y's width, or null; forward only
  const float* low;      // E, in rows of `low_stride`, zero behind the width; null without adapter
  const float* factors;  // u, in rows of `factors_stride`
  u32 n, x_stride, y_stride, low_stride, factors_stride, rank;
};

SHARED float vectors[DEEP][SIDE];  // [term, vector]
SHARED float numbers[DEEP][SIDE];  // [term, number of y]

// Terms k .. of x; threads 128 .. 256 have eight terms of a vector each.
DEVICE void put_vectors(const float* x, u32 stride, u32 n, u32 width, u32 first, u32 k) {
  u32 vector = thread() % SIDE, part = (thread() - 128) / SIDE * 8;
  float row[8];
#pragma unroll
  for (int i = 0; i < 8; i++) row[i] = 0;
  if (first + vector < n && k + part < width) read8(x + (u64)(first + vector) * stride + k + part, row);
#pragma unroll
  for (u32 i = 0; i < 8; i++) vectors[part + i][vector] = k + part + i < width ? row[i] : 0;
}

// Eight numbers times `scale`, next to each other.
DEVICE void put8(u32 term, u32 number, const float* from, float scale) {
#pragma unroll
  for (int i = 0; i < 8; i += 4) {
    f32x4 four = {scale * from[i], scale * from[i + 1], scale * from[i + 2], scale * from[i + 3]};
    *(f32x4*)&numbers[term][number + i] = four;
  }
}

// Terms k .. of W, or of its transpose; threads 0 .. 128 have eight neighbours of a row each.
template <class W, bool BACK>
DEVICE void put_weights(const Matrix& m, u32 first, u32 k) {
  u32 t = thread();
  float w[8], scale = 0;
#pragma unroll
  for (int i = 0; i < 8; i++) w[i] = 0;
  if (BACK) {
    u32 row = k + t / 8, col = first + t % 8 * 8;
    if (row < m.rows && col < m.cols) scale = W::read(m, row, col, w);
    put8(t / 8, t % 8 * 8, w, scale);
  } else {
    u32 row = first + t % SIDE, part = t / SIDE * 8;
    if (row < m.rows && k + part < m.cols) scale = W::read(m, row, k + part, w);
#pragma unroll
    for (u32 i = 0; i < 8; i++) numbers[part + i][t % SIDE] = scale * w[i];
  }
}

// Ranks k .. of E.
DEVICE void put_low(const Tiles& p, u32 width, u32 first, u32 k) {
  u32 rank = k + thread() / 8, col = first + thread() % 8 * 8;
  float e[8];
#pragma unroll
  for (int i = 0; i < 8; i++) e[i] = 0;
  if (rank < p.rank && col < width) read8(p.low + (u64)rank * p.low_stride + col, e);
  put8(thread() / 8, thread() % 8 * 8, e, 1);
}

DEVICE void multiply(float (*sum)[4]) {
  u32 vector = thread() / 16 * 4, number = thread() % 16 * 4;
  float part[4][4];
#pragma unroll
  for (int k = 0; k < DEEP; k++) {
    f32x4 x = *(const f32x4*)&vectors[k][vector], w = *(const f32x4*)&numbers[k][number];
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
      for (int j = 0; j < 4; j++) part[i][j] = k ? __builtin_fmaf(x[i], w[j], part[i][j]) : x[i] * w[j];
    }
  }
#pragma unroll
  for (int i = 0; i < 4; i++) {
#pragma unroll
    for (int j = 0; j < 4; j++) sum[i][j] += part[i][j];
  }
}

template <class W, bool BACK>
DEVICE void tiles(const Tiles& p) {
  W::prepare(p.weight);
  u32 terms = BACK ? p.weight.rows : p.weight.cols, width = BACK ? p.weight.cols : p.weight.rows;
  u32 first = block_x() * SIDE, vector = block_y() * SIDE;
  float sum[4][4];
#pragma unroll
  for (int i = 0; i < 4; i++) {
#pragma unroll
    for (int j = 0; j < 4; j++) sum[i][j] = 0;
  }
  // Behind the terms of W those of E.
  u32 whole = (terms + DEEP - 1) & ~(DEEP - 1);
  for (u32 k = 0; k < whole + p.rank; k += DEEP) {
    bool is_low = k >= whole;
    __syncthreads();
    if (thread() >= 128) {
      if (is_low) put_vectors(p.factors, p.factors_stride, p.n, p.rank, vector, k - whole);
      else put_vectors(p.x, p.x_stride, p.n, terms, vector, k);
    } else {
      if (is_low) put_low(p, width, first, k - whole);
      else put_weights<W, BACK>(p.weight, first, k);
    }
    __syncthreads();
    multiply(sum);
  }
  first += thread() % 16 * 4, vector += thread() / 16 * 4;
#pragma unroll
  for (u32 j = 0; j < 4; j++) {
    if (first + j >= width) return;
    float bias = p.bias ? p.bias[first + j] : 0;
#pragma unroll
    for (u32 i = 0; i < 4; i++)
      if (vector + i < p.n) p.y[(u64)(vector + i) * p.y_stride + first + j] = sum[i][j] + bias;
  }
}

#define TILES(format, W)                                           \
  TWO(256) forward_##format(const Tiles p) { tiles<W, false>(p); } \
  TWO(256) backward_##format(const Tiles p) { tiles<W, true>(p); }

TILES(nf4, Nf4)
TILES(int8, Int8)
TILES(f16, F16)
TILES(f32, F32)

struct Gradient {
  const float* x;  // [n, width]
  const float* u;  // [n, rank] in rows of `u_stride`, a multiple of 16
  float* g;        // [rank, width]
  u32 n, width, rank, x_stride, u_stride, g_stride;
};

SHARED float parts[4][DEEP][SIDE];

KERNEL(256) gradient(const Gradient p) {
  u32 t = thread() % SIDE, part = thread() / SIDE, first = block_y() * DEEP;
  u32 col = block_x() * SIDE + t;
  float sum[DEEP];
#pragma unroll
  for (int j = 0; j < DEEP; j++) sum[j] = 0;
  for (u32 v = part; col < p.width && v < p.n; v += 4) {
    float x = p.x[(u64)v * p.x_stride + col], u[DEEP];
    const float* row = p.u + (u64)v * p.u_stride + first;
    read8(row, u), read8(row + 8, u + 8);
#pragma unroll
    for (int j = 0; j < DEEP; j++) sum[j] = __builtin_fmaf(u[j], x, sum[j]);
  }
#pragma unroll
  for (int j = 0; j < DEEP; j++) parts[part][j][t] = sum[j];
  __syncthreads();
  for (u32 j = part; j < DEEP; j += 4) {
    float total = (parts[0][j][t] + parts[1][j][t]) + (parts[2][j][t] + parts[3][j][t]);
    if (first + j < p.rank && col < p.width) p.g[(u64)(first + j) * p.g_stride + col] = total;
  }
}
