// Register-tiled product of small matrices, the core of extend attention.
//
// C[m, n] += sum_k A[m, k] * B[k, n] with C in fp32. A and B are made of 32-bit units along k: one
// float, or two neighbouring bf16 (B is then packed so that a unit of column n holds rows 2k, 2k+1).
#pragma once

#include "vec.h"

namespace autellix_cpu {

#if defined(CPU_CAPABILITY_AVX512)
constexpr int kTileRows = 6, kTileVecs = 4;  // 24 accumulators of 32 registers
#else
constexpr int kTileRows = 4, kTileVecs = 2;  // 8 accumulators of 16 registers
#endif

// The element type products are computed in: bf16 only where the CPU multiplies bf16 pairs.
template <typename T>
using Operand = std::conditional_t<AUTELLIX_BF16_DOT && std::is_same_v<T, BFloat16>, BFloat16, float>;

// Elements of an operand in one 32-bit unit.
template <typename O>
constexpr int kPerUnit = 4 / static_cast<int>(sizeof(O));

inline Vec multiply_add(const float* a, const float* b, const Vec& c) {
  return at::vec::fmadd(Vec(*a), load(b), c);
}

#if AUTELLIX_BF16_DOT
inline Vec multiply_add(const BFloat16* a, const BFloat16* b, const Vec& c) {
  int32_t pair;
  std::memcpy(&pair, a, sizeof(pair));
  return Vec(_mm512_dpbf16_ps(static_cast<__m512>(c), (__m512bh)_mm512_set1_epi32(pair),
                              (__m512bh)_mm512_loadu_si512(b)));
}
#endif

// kRows x (kVecs * lanes) of C. Strides: lda in elements, ldb in units (columns), ldc in floats.
template <int kRows, int kVecs, typename O>
inline void multiply_tile(const O* a, int64_t lda, const O* b, int64_t ldb, float* c, int64_t ldc,
                          int64_t units) {
  constexpr int per = kPerUnit<O>;
  Vec acc[kRows][kVecs];
  for (int m = 0; m < kRows; ++m)
    for (int v = 0; v < kVecs; ++v) acc[m][v] = load(c + m * ldc + v * kLanes);
  for (int64_t k = 0; k < units; ++k)
    for (int m = 0; m < kRows; ++m)
      for (int v = 0; v < kVecs; ++v)
        acc[m][v] = multiply_add(a + m * lda + k * per, b + (k * ldb + v * kLanes) * per, acc[m][v]);
  for (int m = 0; m < kRows; ++m)
    for (int v = 0; v < kVecs; ++v) acc[m][v].store(c + m * ldc + v * kLanes);
}

template <int kRows, typename O>
void multiply_rows(const O* a, int64_t lda, const O* b, int64_t ldb, float* c, int64_t ldc,
                   int64_t columns, int64_t units) {
  int64_t n = 0;
  for (; n + kTileVecs * kLanes <= columns; n += kTileVecs * kLanes)
    multiply_tile<kRows, kTileVecs>(a, lda, b + n * kPerUnit<O>, ldb, c + n, ldc, units);
  for (; n < columns; n += kLanes)
    multiply_tile<kRows, 1>(a, lda, b + n * kPerUnit<O>, ldb, c + n, ldc, units);
}

// C[rows <= kTileRows, columns] += A B; columns is a multiple of the lanes.
template <typename O>
void multiply_strip(int64_t rows, const O* a, int64_t lda, const O* b, int64_t ldb, float* c,
                    int64_t ldc, int64_t columns, int64_t units) {
  switch (rows) {
    case 1: return multiply_rows<1>(a, lda, b, ldb, c, ldc, columns, units);
    case 2: return multiply_rows<2>(a, lda, b, ldb, c, ldc, columns, units);
    case 3: return multiply_rows<3>(a, lda, b, ldb, c, ldc, columns, units);
    case 4: return multiply_rows<4>(a, lda, b, ldb, c, ldc, columns, units);
    case 5: return multiply_rows<5>(a, lda, b, ldb, c, ldc, columns, units);
    default: return multiply_rows<6>(a, lda, b, ldb, c, ldc, columns, units);
  }
}

// Transposes `count` <= 16 rows of contiguous units: out[k * ldb + j] = unit k of rows[j]. All 16
// columns are written; those past `count` are zero.
inline void pack_columns(const int32_t* const (&rows)[16], int64_t count, int64_t units,
                         int32_t* out, int64_t ldb) {
  int64_t k = 0;
#if defined(CPU_CAPABILITY_AVX512)
  for (; k + 16 <= units; k += 16) {
    __m512i a[16], b[16];
    for (int j = 0; j < 16; ++j)
      a[j] = j < count ? _mm512_loadu_si512(rows[j] + k) : _mm512_setzero_si512();
    for (int j = 0; j < 16; j += 2) {
      b[j] = _mm512_unpacklo_epi32(a[j], a[j + 1]);
      b[j + 1] = _mm512_unpackhi_epi32(a[j], a[j + 1]);
    }
    for (int j = 0; j < 16; j += 4) {  // a[j + i]: unit i of each 128-bit block, rows j .. j + 3
      a[j] = _mm512_unpacklo_epi64(b[j], b[j + 2]);
      a[j + 1] = _mm512_unpackhi_epi64(b[j], b[j + 2]);
      a[j + 2] = _mm512_unpacklo_epi64(b[j + 1], b[j + 3]);
      a[j + 3] = _mm512_unpackhi_epi64(b[j + 1], b[j + 3]);
    }
    for (int i = 0; i < 4; ++i) {
      const __m512i low01 = _mm512_shuffle_i32x4(a[i], a[4 + i], 0x88);
      const __m512i low23 = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0x88);
      const __m512i high01 = _mm512_shuffle_i32x4(a[i], a[4 + i], 0xDD);
      const __m512i high23 = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0xDD);
      int32_t* at = out + (k + i) * ldb;
      _mm512_storeu_si512(at, _mm512_shuffle_i32x4(low01, low23, 0x88));
      _mm512_storeu_si512(at + 8 * ldb, _mm512_shuffle_i32x4(low01, low23, 0xDD));
      _mm512_storeu_si512(at + 4 * ldb, _mm512_shuffle_i32x4(high01, high23, 0x88));
      _mm512_storeu_si512(at + 12 * ldb, _mm512_shuffle_i32x4(high01, high23, 0xDD));
    }
  }
#endif
  for (; k < units; ++k)
    for (int64_t j = 0; j < 16; ++j) out[k * ldb + j] = j < count ? rows[j][k] : 0;
}

// Copies n elements, widening bf16 where products are computed in fp32.
inline void widen(const float* from, float* to, int64_t n) { std::copy_n(from, n, to); }
inline void widen(const BFloat16* from, BFloat16* to, int64_t n) { std::copy_n(from, n, to); }
inline void widen(const BFloat16* from, float* to, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) load(from + i).store(to + i);
  for (; i < n; ++i) to[i] = static_cast<float>(from[i]);
}

}  // namespace autellix_cpu
