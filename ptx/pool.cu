// One vector of each text (model/bert/forward.rs has the CPU twin): the mean of its rows of x, or the first of them.
// x [n, width], out [texts, width]; text t has the rows first[t] .. first[t] + length[t].
//
// Launch: 256 threads; grid (texts, ⌈width / 256⌉): a thread makes one number.
#include "common.h"

struct Pool {
  const float* x;
  float* out;
  const u32* first;        // [texts]
  const u32* length;       // [texts]
  u32 width, stride;
  u32 is_mean;
  u32 padding;
};

KERNEL(256) pool(const Pool p) {
  u32 i = block_y() * 256 + thread(), text = block_x();
  if (i >= p.width) return;
  u32 length = p.is_mean ? p.length[text] : 1;
  const float* x = p.x + (u64)p.first[text] * p.stride + i;
  float sum = 0;
  for (u32 row = 0; row < length; row++) sum += x[(u64)row * p.stride];
  p.out[(u64)text * p.stride + i] = sum / length;
}
