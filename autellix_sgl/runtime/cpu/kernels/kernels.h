// The kernels besides attention, as the bindings call them. Strides are in elements.
#pragma once

#include "vec.h"

namespace autellix_cpu {

// out[m, n] = sum_k x[m, k] * w[n, k] + bias[n]
template <typename T>
struct Linear {
  const T* x;  // [m, k], rows x_stride apart
  int64_t x_stride;
  const T* w;     // [n, k]
  const T* bias;  // [n] or null
  T* out;         // [m, n]
  int64_t m, n, k;
};

// linear_few.cpp: few rows, bound by reading the weights.
template <typename T>
void linear_few(const Linear<T>& p);

// linear_tiled.cpp: many rows, bound by multiplying. k must be even for bf16.
template <typename T>
void linear_tiled(const Linear<T>& p);

// Up to these many rows linear_few is the faster one.
template <typename T>
constexpr int64_t kFewRows = 24;

// out = normalised x * weight, or, with a residual, residual += x first and its norm.
template <typename T>
struct RmsNorm {
  const T* x;  // [rows, n], rows x_stride apart
  int64_t x_stride;
  T* residual;      // [rows, n] or null
  const T* weight;  // [n]
  T* out;           // [rows, n]
  int64_t rows, n;
  float eps;
};

template <typename T>
void rms_norm(const RmsNorm<T>& p);

// out[r, i] = silu(x[r, i]) * x[r, n + i]
template <typename T>
void silu_mul(const T* x, T* out, int64_t rows, int64_t n);

// Rotates the first rotary_dim elements of every head of x in place, in fp32.
template <typename T>
struct Rope {
  T* x;  // [tokens, heads, head_size], tokens stride apart
  int64_t stride, heads;
};

template <typename T, typename C>
void rope(const Rope<T>& q, const Rope<T>& k, const int64_t* positions, const C* cos_sin,
          int64_t tokens, int64_t head_size, int64_t rotary_dim, bool neox);

// pool[slots[t], :] = rows[t, :]
template <typename T>
void store_rows(const T* rows, int64_t stride, T* pool, int64_t pool_stride, const int64_t* slots,
                int64_t tokens, int64_t width);

}  // namespace autellix_cpu
