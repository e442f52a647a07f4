// How weights of each format are read: eight neighbours of a row at a time, and the scale that they share.
#pragma once
#include "common.h"

// A matrix [rows, cols]. Rows of f32 and f16 start at multiples of `stride` numbers, zero behind `cols`.
struct Matrix {
  const void* codes;
  const void* scales;     // NF4: codes u8, or f32 where `nested` is null; int8: f16
  const float* nested;    // NF4: one f32 per 256 scale codes
  const float* tables;    // 16 NF4 values, then the 256 values of scale codes
  float offset;           // NF4: added to every scale
  u32 rows, cols, stride;
  u32 block_shift;        // weights per scale are 1 << block_shift, 8 at least
  u32 padding;
};

// One copy of the pair table for every lane of half a warp: look-ups never wait for each other.
#define COPIES 16
SHARED f32x2 pairs[256 * COPIES];
SHARED float scale_values[256];

// NF4, cols a multiple of 64. A row has cols / 2 bytes: whole chunks of 1,024 weights, in which lane l of a warp finds
// its weights 256 q + 8 l .. + 8, q = 0 .. 4, in 16 neighbouring bytes; then the rest in order. Of two weights in a
// byte the first is in the high nibble.
struct Nf4 {
  static const u32 CHUNK = 1024;
  typedef u32x4 Raw;

  DEVICE void prepare(const Matrix& m) {
    // A thread has a byte; neighbours begin with different copies, so that they write to different banks.
    u32 byte = thread();
    f32x2 pair = {m.tables[byte >> 4], m.tables[byte & 15]};
#pragma unroll
    for (u32 i = 0; i < COPIES; i++) pairs[byte * COPIES + (i + byte) % COPIES] = pair;
    scale_values[thread()] = m.tables[16 + thread()];
    __syncthreads();
  }

  DEVICE Raw raw(const Matrix& m, u32 row, u32 first, u32 lane) {
    return *(const u32x4*)((const u8*)m.codes + (u64)row * (m.cols / 2) + first / 2 + lane * 16);
  }

  DEVICE u32 word(const Matrix& m, u32 row, u32 col) {
    u32 whole = m.cols & ~(CHUNK - 1), in = col % CHUNK;
    u32 byte = col < whole ? col / CHUNK * (CHUNK / 2) + in % 256 / 8 * 16 + in / 256 * 4 : col / 2;
    return *(const u32*)((const u8*)m.codes + (u64)row * (m.cols / 2) + byte);
  }

  DEVICE void decode(u32 word, float* w) {
    // Of a byte b the pair is at 8 · (COPIES · b + copy), in bytes: a shift and one operation of logic.
    u32 copy = thread() % COPIES * 8;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      u32 at = ((i ? word >> (8 * i - 7) : word << 7) & 255 * COPIES * 8) | copy;
      f32x2 pair = *(const f32x2*)((const char*)pairs + at);
      w[2 * i] = pair.x, w[2 * i + 1] = pair.y;
    }
  }

  DEVICE float scale(const Matrix& m, u32 row, u32 col) {
    u64 block = ((u64)row * m.cols + col) >> m.block_shift;
    if (!m.nested) return ((const float*)m.scales)[block];
    return __builtin_fmaf(scale_values[((const u8*)m.scales)[block]], m.nested[block >> 8], m.offset);
  }

  // Of the sixteen runs of 64 weights in a chunk, which share a scale, lane l has that of run l % 16.
  DEVICE float scales(const Matrix& m, u32 row, u32 chunk, u32 lane) { return scale(m, row, chunk + lane % 16 * 64); }

  DEVICE float read(const Matrix& m, u32 row, u32 col, float* w) {
    decode(word(m, row, col), w);
    return scale(m, row, col);
  }
};

// Formats whose weights stand in order.
struct Ordered {
  static const u32 CHUNK = 0;
  typedef u32x4 Raw;
  DEVICE void prepare(const Matrix&) {}
  DEVICE Raw raw(const Matrix&, u32, u32, int) { return 0; }
  DEVICE float scales(const Matrix&, u32, u32, u32) { return 0; }
  DEVICE void decode(u32, float*) {}
};

struct F32 : Ordered {
  DEVICE float read(const Matrix& m, u32 row, u32 col, float* w) {
    read8((const float*)m.codes + (u64)row * m.stride + col, w);
    return 1;
  }
};

struct F16 : Ordered {
  DEVICE float read(const Matrix& m, u32 row, u32 col, float* w) {
    read8((const f16*)m.codes + (u64)row * m.stride + col, w);
    return 1;
  }
};

// Integers with an f16 scale per block; cols a multiple of 8.
struct Int8 : Ordered {
  DEVICE float read(const Matrix& m, u32 row, u32 col, float* w) {
    u64 at = (u64)row * m.cols + col;
    s8x8 q = *(const s8x8*)((const s8*)m.codes + at);
#pragma unroll
    for (int i = 0; i < 8; i++) w[i] = (float)q[i];
    return (float)((const f16*)m.scales)[at >> m.block_shift];
  }
};
