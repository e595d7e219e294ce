// Vector helpers shared by the kernels: fp32 lanes, bf16 loads and stores, horizontal sums, exp.
//
// Everything is computed in fp32 lanes (ATen's Vectorized<float>: 16 with AVX-512, 8 with AVX2,
// 4 or 8 elsewhere). Where the CPU has AVX512-BF16 the matrix kernels multiply bf16 pairs
// directly (two products a lane, fp32 accumulation); everywhere else bf16 is widened first.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "pool.h"

#if defined(CPU_CAPABILITY_AVX512) && defined(__AVX512BF16__)
#define AUTELLIX_BF16_DOT 1
#else
#define AUTELLIX_BF16_DOT 0
#endif

namespace autellix_cpu {

using BFloat16 = at::BFloat16;
using Vec = at::vec::Vectorized<float>;
constexpr int kLanes = Vec::size();

inline Vec load(const float* p) { return Vec::loadu(p); }

inline Vec load(const BFloat16* p) {
#if defined(CPU_CAPABILITY_AVX512)
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return Vec(_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16)));
#else
  alignas(64) float wide[kLanes];
  for (int i = 0; i < kLanes; ++i) wide[i] = static_cast<float>(p[i]);
  return Vec::loadu(wide);
#endif
}

inline void store(float* p, const Vec& v) { v.store(p); }

inline void store(BFloat16* p, const Vec& v) {
#if AUTELLIX_BF16_DOT
  const __m256bh half = _mm512_cvtneps_pbh(static_cast<__m512>(v));
  std::memcpy(p, &half, sizeof(half));
#else
  alignas(64) float wide[kLanes];
  v.store(wide);
  for (int i = 0; i < kLanes; ++i) p[i] = static_cast<BFloat16>(wide[i]);
#endif
}

inline float lane_sum(const Vec& v) {
#if defined(CPU_CAPABILITY_AVX512)
  return _mm512_reduce_add_ps(static_cast<__m512>(v));
#else
  alignas(64) float lanes[kLanes];
  v.store(lanes);
  float sum = 0.f;
  for (int i = 0; i < kLanes; ++i) sum += lanes[i];
  return sum;
#endif
}

// The step of a dot product: kStep<T> products of x and w, added to c's lanes.
inline Vec dot_step(const float* x, const float* w, const Vec& c) {
  return at::vec::fmadd(load(x), load(w), c);
}

#if AUTELLIX_BF16_DOT
inline Vec dot_step(const BFloat16* x, const BFloat16* w, const Vec& c) {
  return Vec(_mm512_dpbf16_ps(static_cast<__m512>(c), (__m512bh)_mm512_loadu_si512(x),
                              (__m512bh)_mm512_loadu_si512(w)));
}
template <typename T>
constexpr int64_t kStep = std::is_same_v<T, float> ? kLanes : 2 * kLanes;
#else
inline Vec dot_step(const BFloat16* x, const BFloat16* w, const Vec& c) {
  return at::vec::fmadd(load(x), load(w), c);
}
template <typename T>
constexpr int64_t kStep = kLanes;
#endif

// out[i] = sum of the lanes of acc[i], for 16 vectors at once: 45 instructions with AVX-512,
// a third of 16 separate reductions.
inline void lane_sums16(const Vec (&acc)[16], float* out) {
#if defined(CPU_CAPABILITY_AVX512)
  __m512 pair[8], quad[4];
  for (int i = 0; i < 8; ++i) {
    const __m512 a = acc[2 * i], b = acc[2 * i + 1];
    pair[i] = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  }
  for (int i = 0; i < 4; ++i) {
    const __m512d a = _mm512_castps_pd(pair[2 * i]), b = _mm512_castps_pd(pair[2 * i + 1]);
    quad[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)),
                            _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
  }
  const auto fold = [](__m512 a, __m512 b) {  // adds neighbouring 128-bit blocks
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xDD));
  };
  _mm512_storeu_ps(out, fold(fold(quad[0], quad[1]), fold(quad[2], quad[3])));
#else
  for (int i = 0; i < 16; ++i) out[i] = lane_sum(acc[i]);
#endif
}

// A per-thread buffer that only grows: kernels run thousands of times a second.
template <typename T, int kTag>
T* scratch(size_t count) {
  thread_local std::vector<T> buffer;
  if (buffer.size() < count) buffer.resize(count);
  return buffer.data();
}

}  // namespace autellix_cpu
