// Activations between the feed-forward layers of encoders and behind their poolers, x ← f(x), [n, width]
// (nn/activation.rs and kernel/gelu.rs are the CPU twins):
//
//   0  gelu       x Φ(x)
//   1  gelu_tanh  x / 2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))
//   2  relu       max(x, 0)
//   3  tanh
//
// Launch: 256 threads; grid (n, ⌈width / 256⌉).
#include "common.h"

struct Activation {
  float* x;
  u32 width, stride, function;
};

// Φ(−|x|) = e^(−x²/2) · R(|x|), R a polynomial in 1 / (1 + 0.39 |x|).
DEVICE float gelu(float x) {
  float u = 1 / (1 + 0.39f * __builtin_fabsf(x));
  float r = 0.053846136f;
  r = __builtin_fmaf(r, u, -0.2582403f);
  r = __builtin_fmaf(r, u, 0.37516314f);
  r = __builtin_fmaf(r, u, -0.016631488f);
  r = __builtin_fmaf(r, u, 0.19443527f);
  r = __builtin_fmaf(r, u, 0.15142727f);
  float tail = x * (exponential(-0.5f * x * x) * (r * u));
  return x < 0 ? tail : x - tail;
}

DEVICE float hyperbolic_tangent(float x) {
  float size = __builtin_fabsf(x), s = x * x;
  // Near zero 1 − e^(−2|x|) would cancel: the series, whose next term is below 1e-8 of x.
  if (size < 0.25f)
    return x + x * s * (-0.333333333f + s * (0.133333333f + s * (-0.0539682540f + s * 0.0218694885f)));
  float e = exponential(-2 * size), t = (1 - e) / (1 + e);
  if (x != x) return x;
  return x < 0 ? -t : t;
}

DEVICE float function(u32 which, float x) {
  switch (which) {
    case 0: return gelu(x);
    case 1: return 0.5f * x * (1 + hyperbolic_tangent(0.797884561f * (x + 0.044715f * x * x * x)));
    case 2: return x < 0 ? 0 : x;
    default: return hyperbolic_tangent(x);
  }
}

KERNEL(256) activation(const Activation p) {
  u32 i = block_y() * 256 + thread();
  if (i >= p.width) return;
  float* x = p.x + (u64)block_x() * p.stride + i;
  *x = function(p.function, *x);
}
