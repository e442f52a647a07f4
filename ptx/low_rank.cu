// The down-projection of adapters (src/nn/inner.rs is its CPU twin): u = scale_i · A_i x, of all of a vector's adapters
// side by side. x [n, inputs], u [n, width].
//
// Launch: 256 threads; grid (n, ⌈width / 8⌉): a warp makes one number.
#include "common.h"

struct Down {
  const float* x;
  float* u;
  const Low* adapters;     // [sequences, sites, max_active]
  const u32* sequences;    // [n]
  u32 inputs, x_stride, u_stride;
  u32 site, sites, max_active;
};

KERNEL(256) low_rank_down(const Down p) {
  u32 vector = block_x(), at = block_y() * 8 + thread() / 32;
  u32 lane = thread() % 32;
  const Low* low = p.adapters + ((u64)p.sequences[vector] * p.sites + p.site) * p.max_active;
  for (u32 i = 0; i < p.max_active; i++, low++) {
    if (!low->b || at < low->first || at >= low->first + low->rank) continue;
    u64 row = (u64)(at - low->first) * low->a_stride;
    float sum = 0;
    for (u32 col = lane * 8; col < p.inputs; col += 256) {
      float a[8], x[8];
      if (low->a_is_f16) read8((const f16*)low->a + row + col, a);
      else read8((const float*)low->a + row + col, a);
      read8(p.x + (u64)vector * p.x_stride + col, x);
#pragma unroll
      for (int j = 0; j < 8; j++) sum = __builtin_fmaf(a[j], x[j], sum);
    }
    sum = warp_sum(sum);
    if (lane == 0) p.u[(u64)vector * p.u_stride + at] = sum * low->scale;
    return;
  }
}
