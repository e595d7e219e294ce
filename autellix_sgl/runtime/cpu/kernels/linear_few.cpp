// out[m, n] = sum_k x[m, k] * w[n, k] + bias[n] for few rows m: decode steps, sampled rows.
//
// Such a product reads the weights once and is bound by memory. The weights stay row-major as the
// checkpoint has them (nothing is packed, so they can be updated, shared or tied), each is read
// once for up to eight rows of x, and 16 dot products are reduced across their lanes together.
#include "kernels.h"

namespace autellix_cpu {
namespace {

constexpr int64_t kColumnsPerTask = 64;  // columns of out a thread takes at a time
constexpr int64_t kPrefetch = 4096;      // bytes ahead of the weights being multiplied

// kRows x kColumns = 16 dot products; sums[m * kColumns + n].
template <int kRows, typename T>
inline void dot_block(const T* const (&x)[kRows], const T* const (&w)[16 / kRows], int64_t k,
                      float* sums) {
  constexpr int kColumns = 16 / kRows;
  Vec acc[16];
  for (auto& a : acc) a = Vec(0.f);
  int64_t i = 0;
  for (; i + kStep<T> <= k; i += kStep<T>) {
    for (int n = 0; n < kColumns; ++n) {
      __builtin_prefetch(reinterpret_cast<const char*>(w[n] + i) + kPrefetch);
      for (int m = 0; m < kRows; ++m)
        acc[m * kColumns + n] = dot_step(x[m] + i, w[n] + i, acc[m * kColumns + n]);
    }
  }
  lane_sums16(acc, sums);
  for (; i < k; ++i)
    for (int m = 0; m < kRows; ++m)
      for (int n = 0; n < kColumns; ++n)
        sums[m * kColumns + n] += static_cast<float>(x[m][i]) * static_cast<float>(w[n][i]);
}

// Rows [row, row + rows) of out, columns [begin, end). Pointers past an edge repeat the last one.
template <int kRows, typename T>
void multiply_columns(const Linear<T>& p, int64_t row, int64_t rows, int64_t begin,
                      int64_t end) {
  constexpr int kColumns = 16 / kRows;
  const T* x[kRows];
  for (int m = 0; m < kRows; ++m) x[m] = p.x + (row + std::min<int64_t>(m, rows - 1)) * p.x_stride;
  for (int64_t n0 = begin; n0 < end; n0 += kColumns) {
    const T* w[kColumns];
    for (int n = 0; n < kColumns; ++n) w[n] = p.w + std::min(n0 + n, end - 1) * p.k;
    alignas(64) float sums[16];
    dot_block<kRows, T>(x, w, p.k, sums);
    const int64_t columns = std::min<int64_t>(kColumns, end - n0);
    for (int64_t m = 0; m < rows; ++m)
      for (int64_t n = 0; n < columns; ++n) {
        const float bias = p.bias ? static_cast<float>(p.bias[n0 + n]) : 0.f;
        p.out[(row + m) * p.n + n0 + n] = static_cast<T>(sums[m * kColumns + n] + bias);
      }
  }
}

template <typename T>
void multiply_task(const Linear<T>& p, int64_t begin, int64_t end) {
  for (int64_t row = 0; row < p.m; row += 8) {
    const int64_t rows = std::min<int64_t>(8, p.m - row);
    if (rows > 4) {
      multiply_columns<8>(p, row, rows, begin, end);
    } else if (rows > 2) {
      multiply_columns<4>(p, row, rows, begin, end);
    } else if (rows == 2) {
      multiply_columns<2>(p, row, rows, begin, end);
    } else {
      multiply_columns<1>(p, row, rows, begin, end);
    }
  }
}

}  // namespace

template <typename T>
void linear_few(const Linear<T>& p) {
  parallel_tasks((p.n + kColumnsPerTask - 1) / kColumnsPerTask, [&](int64_t i) {
    multiply_task(p, i * kColumnsPerTask, std::min(p.n, (i + 1) * kColumnsPerTask));
  });
}

template void linear_few(const Linear<float>&);
template void linear_few(const Linear<BFloat16>&);

}  // namespace autellix_cpu
