// What all kernels share: clang's names for CUDA, sums over a warp and a block, exp. No kernel is in here.
//
// Everything is f32 but what is stored narrower. Rows of activations start at multiples of `stride` numbers, a multiple
// of 8, and are zero behind their width, so that eight numbers can always be read at once.
#pragma once

#define KERNEL(threads) extern "C" __attribute__((global)) void __attribute__((launch_bounds(threads)))
// As KERNEL, with registers for two blocks of a multiprocessor.
#define TWO(threads) extern "C" __attribute__((global)) void __attribute__((launch_bounds(threads, 2)))
#define DEVICE static __attribute__((device, always_inline)) inline
#define SHARED static __attribute__((shared))

typedef unsigned char u8;
typedef signed char s8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef _Float16 f16;
typedef float f32x2 __attribute__((ext_vector_type(2)));
typedef float f32x4 __attribute__((ext_vector_type(4)));
typedef f16 f16x8 __attribute__((ext_vector_type(8)));
typedef s8 s8x8 __attribute__((ext_vector_type(8)));
typedef u32 u32x4 __attribute__((ext_vector_type(4)));

DEVICE u32 thread() { return __nvvm_read_ptx_sreg_tid_x(); }
DEVICE u32 block_x() { return __nvvm_read_ptx_sreg_ctaid_x(); }
DEVICE u32 block_y() { return __nvvm_read_ptx_sreg_ctaid_y(); }

// The sum over the warp, the same in every lane.
DEVICE float warp_sum(float x) {
#pragma unroll
  for (int by = 16; by; by >>= 1) x += __nvvm_shfl_sync_bfly_f32(-1, x, by, 31);
  return x;
}

// The sum over a block of WARPS warps, the same in every thread; `room` has a place for each warp.
template <u32 WARPS>
DEVICE float block_sum(float x, float* room) {
  x = warp_sum(x);
  __syncthreads();
  if (thread() % 32 == 0) room[thread() / 32] = x;
  __syncthreads();
  float total = 0;
#pragma unroll
  for (u32 i = 0; i < WARPS; i++) total += room[i];
  return total;
}

// e^x to two units in the last place: 2^t of t = x log2(e) with what rounding t lost.
DEVICE float exponential(float x) {
  const float log2e = 1.44269502f, rest = 1.925963033500e-8f, ln2 = 0.693147181f;
  x = __builtin_fmaxf(x, -120.0f);
  float t = x * log2e;
  float lost = __builtin_fmaf(x, log2e, -t) + x * rest;
  float power = __nvvm_ex2_approx_f(t);
  return __builtin_fmaf(power, lost * ln2, power);
}

// Eight numbers of a row.
DEVICE void read8(const float* from, float* to) {
  f32x4 a = *(const f32x4*)from, b = *(const f32x4*)(from + 4);
#pragma unroll
  for (int i = 0; i < 4; i++) to[i] = a[i], to[i + 4] = b[i];
}

DEVICE void read8(const f16* from, float* to) {
  f16x8 a = *(const f16x8*)from;
#pragma unroll
  for (int i = 0; i < 8; i++) to[i] = (float)a[i];
}

// What one adapter does to one layer, as src/cuda/adapter.rs makes it; `b` is null where it does nothing.
struct Low {
  const void* a;      // [rank, inputs] in rows of `a_stride`, of an embedding [inputs, rank]; f32 or f16
  const void* b;      // [outputs, rank] in rows of `b_stride`; f32 or f16
  const float* bias;  // [outputs] or null
  const float* gain;  // DoRA's k, [outputs], or null
  u32 rank, first;    // its ranks are first .. first + rank of the row's
  u32 a_stride, b_stride;
  u32 a_is_f16, b_is_f16;
  float scale;        // weight · alpha / rank
  float weight;
};

DEVICE float number(const void* from, u64 at, u32 is_f16) {
  return is_f16 ? (float)((const f16*)from)[at] : ((const float*)from)[at];
}
