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

}  // namespace autellix_cpu
