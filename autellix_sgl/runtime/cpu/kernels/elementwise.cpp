// The small per-token operations of a decoder layer, each in one pass over its rows.
#include "kernels.h"

namespace autellix_cpu {
namespace {

constexpr int64_t kTaskElements = 16384;  // a task's worth of cheap work: some microseconds

template <typename Body>
void for_rows(int64_t rows, int64_t width, const Body& body) {
  const int64_t step = std::max<int64_t>(1, kTaskElements / width);
  parallel_tasks((rows + step - 1) / step, [&](int64_t task) {
    const int64_t end = std::min(rows, (task + 1) * step);
    for (int64_t r = task * step; r < end; ++r) body(r);
  });
}

// Sums x (+ residual) into `wide` in fp32, writes the residual back, returns the sum of squares.
template <typename T>
float widen_row(const T* x, T* residual, float* wide, int64_t n) {
  Vec squares(0.f);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    Vec v = load(x + i);
    if (residual) {
      v = v + load(residual + i);
      store(residual + i, v);
    }
    v.store(wide + i);
    squares = at::vec::fmadd(v, v, squares);
  }
  float sum = lane_sum(squares);
  for (; i < n; ++i) {
    float v = static_cast<float>(x[i]);
    if (residual) {
      v += static_cast<float>(residual[i]);
      residual[i] = static_cast<T>(v);
    }
    wide[i] = v;
    sum += v * v;
  }
  return sum;
}

template <typename T, typename C>
void rotate_head(T* x, const C* cosine, const C* sine, int64_t half, bool neox) {
  const int64_t second = neox ? half : 1, step = neox ? 1 : 2;
  int64_t i = 0;
  for (; neox && i + kLanes <= half; i += kLanes) {
    const Vec a = load(x + i), b = load(x + half + i), c = load(cosine + i), s = load(sine + i);
    store(x + i, a * c - b * s);
    store(x + half + i, b * c + a * s);
  }
  for (; i < half; ++i) {
    const float a = static_cast<float>(x[i * step]), b = static_cast<float>(x[i * step + second]);
    const float c = static_cast<float>(cosine[i]), s = static_cast<float>(sine[i]);
    x[i * step] = static_cast<T>(a * c - b * s);
    x[i * step + second] = static_cast<T>(b * c + a * s);
  }
}

}  // namespace

template <typename T>
void rms_norm(const RmsNorm<T>& p) {
  for_rows(p.rows, p.n, [&](int64_t r) {
    float* wide = scratch<float, 21>(p.n);
    T* residual = p.residual ? p.residual + r * p.n : nullptr;
    const float squares = widen_row(p.x + r * p.x_stride, residual, wide, p.n);
    const float factor = 1.f / std::sqrt(squares / static_cast<float>(p.n) + p.eps);
    T* out = p.out + r * p.n;
    int64_t i = 0;
    for (; i + kLanes <= p.n; i += kLanes)
      store(out + i, load(wide + i) * Vec(factor) * load(p.weight + i));
    for (; i < p.n; ++i)
      out[i] = static_cast<T>(wide[i] * factor * static_cast<float>(p.weight[i]));
  });
}

template <typename T>
void silu_mul(const T* x, T* out, int64_t rows, int64_t n) {
  const Vec one(1.f);
  for_rows(rows, 4 * n, [&](int64_t r) {
    const T* gate = x + r * 2 * n;
    const T* up = gate + n;
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
      const Vec g = load(gate + i);
      store(out + r * n + i, g / (one + g.neg().exp_u20()) * load(up + i));
    }
    for (; i < n; ++i) {
      const float g = static_cast<float>(gate[i]);
      out[r * n + i] = static_cast<T>(g / (1.f + std::exp(-g)) * static_cast<float>(up[i]));
    }
  });
}

template <typename T, typename C>
void rope(const Rope<T>& q, const Rope<T>& k, const int64_t* positions, const C* cos_sin,
          int64_t tokens, int64_t head_size, int64_t rotary_dim, bool neox) {
  const int64_t half = rotary_dim / 2;
  for_rows(tokens, (q.heads + k.heads) * head_size, [&](int64_t t) {
    const C* cosine = cos_sin + positions[t] * rotary_dim;
    for (const Rope<T>& side : {q, k})
      for (int64_t h = 0; h < side.heads; ++h)
        rotate_head(side.x + t * side.stride + h * head_size, cosine, cosine + half, half, neox);
  });
}

template <typename T>
void store_rows(const T* rows, int64_t stride, T* pool, int64_t pool_stride, const int64_t* slots,
                int64_t tokens, int64_t width) {
  for_rows(tokens, width, [&](int64_t t) {
    std::memcpy(pool + slots[t] * pool_stride, rows + t * stride, width * sizeof(T));
  });
}

template void rms_norm(const RmsNorm<float>&);
template void rms_norm(const RmsNorm<BFloat16>&);
template void silu_mul(const float*, float*, int64_t, int64_t);
template void silu_mul(const BFloat16*, BFloat16*, int64_t, int64_t);
template void rope(const Rope<float>&, const Rope<float>&, const int64_t*, const float*, int64_t,
                   int64_t, int64_t, bool);
template void rope(const Rope<BFloat16>&, const Rope<BFloat16>&, const int64_t*, const BFloat16*,
                   int64_t, int64_t, int64_t, bool);
template void rope(const Rope<BFloat16>&, const Rope<BFloat16>&, const int64_t*, const float*,
                   int64_t, int64_t, int64_t, bool);
template void store_rows(const float*, int64_t, float*, int64_t, const int64_t*, int64_t, int64_t);
template void store_rows(const BFloat16*, int64_t, BFloat16*, int64_t, const int64_t*, int64_t,
                         int64_t);

}  // namespace autellix_cpu
