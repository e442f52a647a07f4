// Norms over rows of `width` numbers; `parts` rows lie side by side in each stride: the heads of queries and keys.
//
// RMSNorm (kernel/scalar.rs has its CPU twin): y = x / √(mean(x²) + ε) ⊙ w. Row r of y is made of row `rows[r]` of x, or
// of row r where `rows` is null; y may be x.
// LayerNorm (kernel/norm.rs is its CPU twin): x ← (x − mean(x)) / √(var(x) + ε) ⊙ w + b, in place.
// Length 1 (runtime/encoder.rs has its CPU twin): x ← x / max(√Σ x², 1e-12), in place.
//
// Launch: 256 threads; grid (rows of y, parts).
#include "common.h"

struct Norm {
  const float* x;
  float* y;
  const float* weight;     // [width]
  const float* bias;       // LayerNorm: [width]
  const u32* rows;
  float epsilon;
  u32 width, x_stride, y_stride;
};

DEVICE const float* row_of_x(const Norm& p) {
  u32 from = p.rows ? p.rows[block_x()] : block_x();
  return p.x + (u64)from * p.x_stride + (u64)block_y() * p.width;
}

DEVICE float* row_of_y(const Norm& p) { return p.y + (u64)block_x() * p.y_stride + (u64)block_y() * p.width; }

DEVICE float sum_of_squares(const float* x, u32 width, float mean, float* room) {
  float sum = 0;
  for (u32 i = thread(); i < width; i += 256) sum = __builtin_fmaf(x[i] - mean, x[i] - mean, sum);
  return block_sum<8>(sum, room);
}

KERNEL(256) rms_norm(const Norm p) {
  SHARED float room[8];
  const float* x = row_of_x(p);
  float* y = row_of_y(p);
  float factor = 1 / __builtin_sqrtf(sum_of_squares(x, p.width, 0, room) / p.width + p.epsilon);
  for (u32 i = thread(); i < p.width; i += 256) y[i] = x[i] * factor * p.weight[i];
}

KERNEL(256) layer_norm(const Norm p) {
  SHARED float room[8];
  float* x = row_of_y(p);
  float sum = 0;
  for (u32 i = thread(); i < p.width; i += 256) sum += x[i];
  float mean = block_sum<8>(sum, room) / p.width;
  // Of the centred values: a difference of squares would cancel.
  float factor = 1 / __builtin_sqrtf(sum_of_squares(x, p.width, mean, room) / p.width + p.epsilon);
  for (u32 i = thread(); i < p.width; i += 256) x[i] = (x[i] - mean) * factor * p.weight[i] + p.bias[i];
}

KERNEL(256) unit_length(const Norm p) {
  SHARED float room[8];
  float* x = row_of_y(p);
  float length = __builtin_fmaxf(__builtin_sqrtf(sum_of_squares(x, p.width, 0, room)), 1e-12f);
  for (u32 i = thread(); i < p.width; i += 256) x[i] /= length;
}
