// RMSNorm (kernel/scalar.rs has its CPU twin): y = x / √(mean(x²) + ε) ⊙ w over rows of `width` numbers. Row r of y is
// made of row `rows[r]` of x, or of row r where `rows` is null; y may be x. `parts` rows lie side by side in each
// stride: the heads of queries and keys.
//
// Launch: 256 threads; grid (rows of y, parts).
#include "common.h"

struct Norm {
  const float* x;
  float* y;
  const float* weight;     // [width]
  const u32* rows;
  float epsilon;
  u32 width, x_stride, y_stride;
};

KERNEL(256) rms_norm(const Norm p) {
  SHARED float sums[8];
  u32 lane = thread() % 32, warp = thread() / 32;
  u32 from = p.rows ? p.rows[block_x()] : block_x();
  const float* x = p.x + (u64)from * p.x_stride + (u64)block_y() * p.width;
  float* y = p.y + (u64)block_x() * p.y_stride + (u64)block_y() * p.width;
  float sum = 0;
  for (u32 i = thread(); i < p.width; i += 256) sum = __builtin_fmaf(x[i], x[i], sum);
  sum = warp_sum(sum);
  if (lane == 0) sums[warp] = sum;
  __syncthreads();
  float total = 0;
#pragma unroll
  for (int i = 0; i < 8; i++) total += sums[i];
  float factor = 1 / __builtin_sqrtf(total / p.width + p.epsilon);
  for (u32 i = thread(); i < p.width; i += 256) y[i] = x[i] * factor * p.weight[i];
}
