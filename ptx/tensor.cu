// Products of NF4 weights with several vectors on tensor cores; formulas and parameters are those of product.h, whose
// precision this keeps: numbers are split into two f16, whose products are exact, and all but the smallest of the four
// products are added up in f32.
//
//   halve     x' = x / s, s a power of two for 64 numbers that brings the largest near 2^14; high = f16(x'),
//             low = f16(x' - high)
//   weights   1024 w = high + low, in the same way, of a table of pairs
//   p_r = Σ_blocks scale_r s Σ (w_high x_high + w_high x_low + w_low x_high)
//
// x [n, cols], high and low [n, cols], scales [n, cols / 64]; cols a multiple of 64. CPU twin: kernel/scalar.rs.
//
// Launch of `halve`: 256 threads; grid (⌈cols / 512⌉, n): a warp has 64 numbers. Of `tensor_nf4_N`: 256 threads; grid
// (⌈rows / 16⌉, ⌈n / N⌉): a block makes 16 rows of y for N vectors, its warps share out the columns. Lane 4 g + t of a
// warp decodes weights 16 t .. + 16 of every 64 of rows g and g + 8, and has the same numbers of vector g: the order of
// the terms of a sum is free, so that every lane reads neighbours.
#include "product.h"

typedef f16 f16x2 __attribute__((ext_vector_type(2)));
typedef u32 u32x2 __attribute__((ext_vector_type(2)));

struct Halves {
  const float* x;
  f16* high;
  f16* low;
  float* scales;
  u32 cols, x_stride;
};

struct Tensor {
  Product product;  // x is not read
  const f16* high;
  const f16* low;
  const float* scales;
};

// What the weights are multiplied by, so that their low halves are no subnormal numbers.
#define ONE 1024.0f

DEVICE u32 pack(float a, float b) {
  f16x2 two = {(f16)a, (f16)b};
  return __builtin_bit_cast(u32, two);
}

KERNEL(256) halve(const Halves p) {
  u32 block = block_x() * 8 + thread() / 32, lane = thread() % 32;
  if (block * 64 >= p.cols) return;
  f32x2 x = *(const f32x2*)(p.x + (u64)block_y() * p.x_stride + block * 64 + lane * 2);
  float most = __builtin_fmaxf(__builtin_fabsf(x.x), __builtin_fabsf(x.y));
#pragma unroll
  for (int by = 16; by; by >>= 1) most = __builtin_fmaxf(most, __nvvm_shfl_sync_bfly_f32(-1, most, by, 31));
  // Of a number in 2^(e - 127) .. 2^(e - 126) the factor is 2^(140 - e); of tiny ones the largest whose inverse is normal.
  u32 e = __builtin_bit_cast(u32, most) >> 23;
  u32 field = e < 14 ? 253 : 267 - e;
  float factor = __builtin_bit_cast(float, field << 23), inverse = __builtin_bit_cast(float, (254 - field) << 23);
  float a = x.x * factor, b = x.y * factor;
  u64 to = ((u64)block_y() * p.cols + block * 64) / 2 + lane;
  ((u32*)p.high)[to] = pack(a, b);
  ((u32*)p.low)[to] = pack(a - (float)(f16)a, b - (float)(f16)b);
  if (lane == 0) p.scales[(u64)block_y() * (p.cols / 64) + block] = inverse / ONE;
}

// One copy of the table of pairs for every lane of half a warp: high halves, then low halves of two weights.
SHARED u32x2 halves[256 * COPIES];

DEVICE void prepare(const Matrix& m) {
  u32 byte = thread();
  float a = m.tables[byte >> 4] * ONE, b = m.tables[byte & 15] * ONE;
  u32x2 both = {pack(a, b), pack(a - (float)(f16)a, b - (float)(f16)b)};
#pragma unroll
  for (u32 i = 0; i < COPIES; i++) halves[byte * COPIES + (i + byte) % COPIES] = both;
  scale_values[thread()] = m.tables[16 + thread()];
  __syncthreads();
}

DEVICE void decode(u32 word, u32x2* w) {
  u32 copy = thread() % COPIES * 8;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    u32 at = ((i ? word >> (8 * i - 7) : word << 7) & 255 * COPIES * 8) | copy;
    w[i] = *(const u32x2*)((const char*)halves + at);
  }
}

// c += A B on the warp's tensor core: A of rows g and g + 8, B of vector g.
DEVICE void multiply(float* c, u32 row, u32 row8, u32 x) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(row), "r"(row8), "r"(x));
}

DEVICE u32 at_most(u32 x, u32 most) { return x < most ? x : most; }

// The 64 columns from `col` on; a and b are the lane's codes of rows g and g + 8.
template <u32 GROUPS>
DEVICE void block64(const Tensor& q, u32 row, u32 row8, u32 first, u32 col, u32x2 a, u32x2 b, float (*sum)[4]) {
  const Product& p = q.product;
  u32 lane = thread() % 32, g = lane / 4, t = lane % 4, cols = p.weight.cols;
  float part[GROUPS][4], rest[GROUPS][4];
#pragma unroll
  for (u32 group = 0; group < GROUPS; group++) {
#pragma unroll
    for (int i = 0; i < 4; i++) part[group][i] = 0, rest[group][i] = 0;
  }
#pragma unroll
  for (int word = 0; word < 2; word++) {
    u32x2 wa[4], wb[4];
    decode(a[word], wa), decode(b[word], wb);
#pragma unroll
    for (u32 group = 0; group < GROUPS; group++) {
      u32 at = at_most(first + group * 8 + g, p.n - 1) * cols + col + 16 * t + 8 * word;
      u32x4 high = *(const u32x4*)(q.high + at), low = *(const u32x4*)(q.low + at);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        multiply(part[group], wa[i].x, wb[i].x, high[i]);
        multiply(rest[group], wa[i].x, wb[i].x, low[i]);
        multiply(rest[group], wa[i].y, wb[i].y, high[i]);
      }
    }
  }
  float scale = Nf4::scale(p.weight, row, col), scale8 = Nf4::scale(p.weight, row8, col);
#pragma unroll
  for (u32 group = 0; group < GROUPS; group++) {
#pragma unroll
    for (u32 i = 0; i < 2; i++) {
      u32 vector = at_most(first + group * 8 + 2 * t + i, p.n - 1);
      float s = q.scales[vector * (cols / 64) + col / 64];
      sum[group][i] = __builtin_fmaf(scale, s * (part[group][i] + rest[group][i]), sum[group][i]);
      sum[group][2 + i] = __builtin_fmaf(scale8, s * (part[group][2 + i] + rest[group][2 + i]), sum[group][2 + i]);
    }
  }
}

template <u32 GROUPS>
DEVICE void tensor(const Tensor& q) {
  const Product& p = q.product;
  prepare(p.weight);
  u32 rows = p.weight.rows, cols = p.weight.cols, warp = thread() / 32, g = thread() % 32 / 4, t = thread() % 4;
  u32 first_row = block_x() * 16, first = block_y() * 8 * GROUPS;
  u32 row = at_most(first_row + g, rows - 1), row8 = at_most(first_row + g + 8, rows - 1);
  const u8* codes = (const u8*)p.weight.codes + (u64)row * (cols / 2);
  const u8* codes8 = (const u8*)p.weight.codes + (u64)row8 * (cols / 2);
  float sum[GROUPS][4];
#pragma unroll
  for (u32 group = 0; group < GROUPS; group++) {
#pragma unroll
    for (int i = 0; i < 4; i++) sum[group][i] = 0;
  }
  // A quarter of the runs of a whole chunk, whose codes a lane finds side by side; then the other runs of 64 columns.
  u32 whole = cols & ~(Nf4::CHUNK - 1), quarters = whole / 256, units = quarters + (cols - whole) / 64;
  for (u32 unit = warp; unit < units; unit += 8) {
    if (unit < quarters) {
      u32 chunk = unit / 4 * Nf4::CHUNK, run = unit % 4, at = chunk / 2 + (run * 8 + 2 * t) * 16;
      u32x4 a = *(const u32x4*)(codes + at), a1 = *(const u32x4*)(codes + at + 16);
      u32x4 b = *(const u32x4*)(codes8 + at), b1 = *(const u32x4*)(codes8 + at + 16);
#pragma unroll 1
      for (u32 quarter = 0; quarter < 4; quarter++) {
        u32x2 now = {a.x, a1.x}, now8 = {b.x, b1.x};
        block64<GROUPS>(q, row, row8, first, chunk + quarter * 256 + run * 64, now, now8, sum);
        a = a.yzww, a1 = a1.yzww, b = b.yzww, b1 = b1.yzww;
      }
    } else {
      u32 col = whole + (unit - quarters) * 64, at = col / 2 + t * 8;
      block64<GROUPS>(q, row, row8, first, col, *(const u32x2*)(codes + at), *(const u32x2*)(codes8 + at), sum);
    }
  }
  // The table's room takes the warps' sums, [warp, vector, row].
  float* room = (float*)halves;
  const u32 COUNT = 128 * GROUPS;
  __syncthreads();
#pragma unroll
  for (u32 group = 0; group < GROUPS; group++) {
#pragma unroll
    for (u32 i = 0; i < 4; i++) room[warp * COUNT + (group * 8 + 2 * t + i % 2) * 16 + g + i / 2 * 8] = sum[group][i];
  }
  __syncthreads();
  for (u32 i = thread(); i < COUNT; i += 256) {
    u32 vector = first + i / 16, number = first_row + i % 16;
    if (vector >= p.n || number >= rows) continue;
    float y = 0;
#pragma unroll
    for (u32 other = 0; other < 8; other++) y += room[other * COUNT + i];
    if (p.adapters) y += adapt<1>(p, vector, number, y, 0);
    if (p.bias) y += p.bias[number];
    float* out = p.y + (u64)vector * p.y_stride + number;
    *out = p.accumulate ? *out + y : y;
  }
}

TWO(256) tensor_nf4_8(const Tensor p) { tensor<1>(p); }
TWO(256) tensor_nf4_16(const Tensor p) { tensor<2>(p); }
