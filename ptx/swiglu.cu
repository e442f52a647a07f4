// SwiGLU (kernel/scalar.rs has its CPU twin): gate ← gate / (1 + exp(−gate)) ⊙ up, [n, width].
//
// Launch: 256 threads; grid (n, ⌈width / 256⌉).
#include "common.h"

struct Swiglu {
  float* gate;
  const float* up;
  u32 width, stride;
};

KERNEL(256) swiglu(const Swiglu p) {
  u32 i = block_y() * 256 + thread();
  if (i >= p.width) return;
  u64 at = (u64)block_x() * p.stride + i;
  float gate = p.gate[at];
  // As on the CPU: from here down silu is below every f32, and −∞ gives zero.
  float z = gate < -128.0f ? -128.0f : gate;
  p.gate[at] = z < -80.0f ? 0 * p.up[at] : z / (1 + exponential(-z)) * p.up[at];
}
