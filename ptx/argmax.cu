// The index of the largest number of a row, the first of equals; 0xffffffff where one is NaN or +∞ (runtime/sample.rs
// has its CPU twin). x [n, width], out [n].
//
// Launch: 256 threads; grid (n).
#include "common.h"

struct Argmax {
  const float* x;
  u32* out;
  u32 width, stride;
};

const u32 BAD = 0xffffffff;

KERNEL(256) argmax(const Argmax p) {
  SHARED float largest[256];
  SHARED u32 places[256];
  const float* x = p.x + (u64)block_x() * p.stride;
  float best = -__builtin_inff();
  u32 place = 0;
  bool is_bad = false;
  for (u32 i = thread(); i < p.width; i += 256) {
    float value = x[i];
    is_bad |= !(value < __builtin_inff());
    if (value > best) best = value, place = i;
  }
  largest[thread()] = best;
  places[thread()] = is_bad ? BAD : place;
  __syncthreads();
  if (thread()) return;
  for (u32 i = 1; i < 256; i++) {
    if (place == BAD || places[i] == BAD) { place = BAD; continue; }
    if (largest[i] > best || (largest[i] == best && places[i] < place)) best = largest[i], place = places[i];
  }
  p.out[block_x()] = places[0] == BAD ? BAD : place;
}
