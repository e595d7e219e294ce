// Python bindings: check what a kernel assumes of its tensors, then call it for their dtype.
#include <torch/extension.h>

#include "attention.h"
#include "kernels.h"

namespace autellix_cpu {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// Calls f with a value of the element type of `x`: float or bf16.
template <typename F>
auto dispatch(const Tensor& x, const F& f) {
  if (x.scalar_type() == at::kFloat) return f(float());
  TORCH_CHECK(x.scalar_type() == at::kBFloat16, "float32 or bfloat16 expected, got ", x.dtype());
  return f(BFloat16());
}

void check_rows(const Tensor& x, const char* name) {
  TORCH_CHECK(x.device().is_cpu(), name, " must be on the CPU");
  TORCH_CHECK(x.dim() >= 1 && (x.size(-1) <= 1 || x.stride(-1) == 1), name, " has strided rows");
}

// A [tokens, heads * head_size] or [tokens, heads, head_size] tensor with contiguous tokens.
void check_tokens(const Tensor& x, int64_t width, const char* name) {
  check_rows(x, name);
  TORCH_CHECK(x.dim() == 2 || (x.dim() == 3 && (x.size(1) <= 1 || x.stride(1) == x.size(2))), name,
              " must be [tokens, width] or [tokens, heads, head_size]");
  TORCH_CHECK(x.numel() == x.size(0) * width, name, " must have ", width, " elements a token");
}

void check_index(const Tensor& x, int64_t size, const char* name) {
  TORCH_CHECK(x.scalar_type() == at::kLong && x.is_contiguous() && x.numel() == size, name,
              " must be ", size, " contiguous int64");
}

void check_pool(const Tensor& q, const Tensor& keys, const Tensor& values, const Tensor& table) {
  for (const Tensor& x : {keys, values}) {
    check_rows(x, "pool");
    TORCH_CHECK(x.dim() == 3 && x.stride(1) == x.size(2), "pool must be [slots, heads, head_size]");
    TORCH_CHECK(x.scalar_type() == q.scalar_type(), "query and pool must have the same dtype");
  }
  TORCH_CHECK(keys.size(1) == values.size(1) && keys.size(2) == values.size(2),
              "keys and values must have the same heads and head size");
  TORCH_CHECK(keys.size(2) % 16 == 0, "the head size must be a multiple of 16");
  TORCH_CHECK(table.scalar_type() == at::kInt && table.dim() == 2 && table.stride(1) == 1,
              "the request table must be int32 [requests, positions]");
  TORCH_CHECK(q.numel() % (q.size(0) * keys.size(2)) == 0, "q does not fit the head size");
}

template <typename T>
Pool<T> pool_of(const Tensor& q, const Tensor& keys, const Tensor& values, const Tensor& table) {
  const int64_t d = keys.size(2);
  const int64_t q_heads = q.numel() / (q.size(0) * d);
  TORCH_CHECK(q_heads % keys.size(1) == 0, "query heads must be a multiple of kv heads");
  return {keys.const_data_ptr<T>(), values.const_data_ptr<T>(), keys.stride(0), values.stride(0),
          table.const_data_ptr<int32_t>(), table.stride(0), keys.size(1), q_heads, d};
}

// Writes the step's keys and values into the pool.
void store_kv(const Tensor& k, const Tensor& v, const Tensor& keys, const Tensor& values,
              const Tensor& slots) {
  const int64_t tokens = k.size(0);
  const std::pair<const Tensor*, const Tensor*> sides[] = {{&k, &keys}, {&v, &values}};
  check_index(slots, tokens, "slots");
  for (const auto& [rows, pool] : sides) {
    const int64_t width = pool->size(1) * pool->size(2);
    check_tokens(*rows, width, "rows");
    TORCH_CHECK(rows->scalar_type() == pool->scalar_type(), "rows and pool differ in dtype");
    dispatch(*rows, [&](auto zero) {
      using T = decltype(zero);
      store_rows(rows->const_data_ptr<T>(), rows->stride(0), pool->mutable_data_ptr<T>(),
                 pool->stride(0), slots.const_data_ptr<int64_t>(), tokens, width);
    });
  }
}

// Decode: q has one row a request. out must be [tokens, q_heads * head_size], contiguous.
void decode(const Tensor& q, const Tensor& out, const Tensor& keys, const Tensor& values,
            const Tensor& table, const Tensor& requests, const Tensor& lengths, double scale,
            double cap, int64_t window) {
  const int64_t tokens = q.size(0);
  if (tokens == 0) return;
  check_pool(q, keys, values, table);
  check_tokens(q, out.size(1), "q");
  check_index(requests, tokens, "requests");
  check_index(lengths, tokens, "lengths");
  TORCH_CHECK(scale > 0, "the scale must be positive");
  const ScoreRule rule{static_cast<float>(scale), static_cast<float>(cap), window};
  const int64_t* request = requests.const_data_ptr<int64_t>();
  const int64_t* length = lengths.const_data_ptr<int64_t>();
  std::vector<QueryToken> list;
  for (int64_t i = 0; i < tokens; ++i) {
    TORCH_CHECK(length[i] <= table.size(1) && request[i] < table.size(0), "request out of range");
    list.push_back({i, request[i], rule.first_key(length[i] - 1), length[i]});
  }
  dispatch(q, [&](auto zero) {
    using T = decltype(zero);
    attend_tokens<T>(pool_of<T>(q, keys, values, table), {q.const_data_ptr<T>(), q.stride(0)},
                     {out.mutable_data_ptr<T>(), out.stride(0)}, rule, list);
  });
}

// Extend: request i has counts[i] new rows of q, in order, after prefixes[i] cached tokens.
void extend(const Tensor& q, const Tensor& out, const Tensor& keys, const Tensor& values,
            const Tensor& table, const Tensor& requests, const Tensor& prefixes,
            const Tensor& counts, double scale, double cap, int64_t window) {
  if (q.size(0) == 0) return;
  check_pool(q, keys, values, table);
  check_tokens(q, out.size(1), "q");
  const int64_t batch = requests.numel();
  check_index(requests, batch, "requests");
  check_index(prefixes, batch, "prefixes");
  check_index(counts, batch, "counts");
  TORCH_CHECK(scale > 0, "the scale must be positive");
  const ScoreRule rule{static_cast<float>(scale), static_cast<float>(cap), window};
  std::vector<Segment> segments;
  int64_t row = 0;
  for (int64_t i = 0; i < batch; ++i) {
    const int64_t count = counts.const_data_ptr<int64_t>()[i];
    const Segment segment{row, count, requests.const_data_ptr<int64_t>()[i],
                          prefixes.const_data_ptr<int64_t>()[i]};
    TORCH_CHECK(segment.prefix + count <= table.size(1) && segment.request < table.size(0),
                "request out of range");
    segments.push_back(segment);
    row += count;
  }
  TORCH_CHECK(row <= q.size(0), "q has ", q.size(0), " rows, the segments need ", row);
  if (row < q.size(0)) out.narrow(0, row, q.size(0) - row).zero_();  // padding rows
  dispatch(q, [&](auto zero) {
    using T = decltype(zero);
    attend_segments<T>(pool_of<T>(q, keys, values, table), {q.const_data_ptr<T>(), q.stride(0)},
                       {out.mutable_data_ptr<T>(), out.stride(0)}, rule, segments);
  });
}

Tensor linear(const Tensor& x, const Tensor& w, const OptionalTensor& bias) {
  check_rows(x, "x");
  TORCH_CHECK(x.dim() == 2 && w.dim() == 2 && w.is_contiguous() && x.size(1) == w.size(1),
              "x [m, k] and contiguous w [n, k] expected");
  TORCH_CHECK(x.scalar_type() == w.scalar_type(), "x and w differ in dtype");
  TORCH_CHECK(!bias || (bias->scalar_type() == w.scalar_type() && bias->is_contiguous() &&
                        bias->numel() == w.size(0)), "bias does not fit w");
  Tensor out = at::empty({x.size(0), w.size(0)}, x.options());
  dispatch(x, [&](auto zero) {
    using T = decltype(zero);
    const Linear<T> product{x.const_data_ptr<T>(), x.stride(0), w.const_data_ptr<T>(),
                            bias ? bias->const_data_ptr<T>() : nullptr, out.mutable_data_ptr<T>(),
                            x.size(0), w.size(0), x.size(1)};
    if (product.m <= kFewRows<T> || product.k % 2 != 0) {
      linear_few(product);
    } else {
      linear_tiled(product);
    }
  });
  return out;
}

// Returns the norm; with a residual, adds x to it in place first.
Tensor norm(const Tensor& x, const OptionalTensor& residual, const Tensor& weight, double eps) {
  check_rows(x, "x");
  const int64_t n = weight.numel();
  TORCH_CHECK(x.size(-1) == n && (x.dim() == 2 || x.is_contiguous()), "x does not fit the weight");
  TORCH_CHECK(x.scalar_type() == weight.scalar_type(), "x and weight differ in dtype");
  TORCH_CHECK(!residual || (residual->is_contiguous() && residual->numel() == x.numel() &&
                            residual->scalar_type() == x.scalar_type()), "residual must match x");
  Tensor out = at::empty(x.sizes(), x.options());
  dispatch(x, [&](auto zero) {
    using T = decltype(zero);
    rms_norm<T>({x.const_data_ptr<T>(), x.dim() == 2 ? x.stride(0) : n,
                 residual ? residual->mutable_data_ptr<T>() : nullptr, weight.const_data_ptr<T>(),
                 out.mutable_data_ptr<T>(), x.numel() / n, n, static_cast<float>(eps)});
  });
  return out;
}

Tensor swiglu(const Tensor& x) {
  TORCH_CHECK(x.is_contiguous() && x.size(-1) % 2 == 0, "x must be contiguous [.., 2 n]");
  const int64_t n = x.size(-1) / 2;
  auto sizes = x.sizes().vec();
  sizes.back() = n;
  Tensor out = at::empty(sizes, x.options());
  if (out.numel() == 0) return out;
  dispatch(x, [&](auto zero) {
    using T = decltype(zero);
    silu_mul<T>(x.const_data_ptr<T>(), out.mutable_data_ptr<T>(), out.numel() / n, n);
  });
  return out;
}

// Rotates q and k in place; cos_sin is [positions, rotary_dim]: cosines, then sines.
void rotate(const Tensor& positions, const Tensor& q, const Tensor& k, const Tensor& cos_sin,
            int64_t head_size, bool neox) {
  const int64_t tokens = positions.numel(), rotary_dim = cos_sin.size(1);
  if (tokens == 0) return;
  check_index(positions, tokens, "positions");
  TORCH_CHECK(cos_sin.is_contiguous() && q.scalar_type() == k.scalar_type(), "bad rope arguments");
  for (const Tensor& x : {q, k}) {
    TORCH_CHECK(x.size(0) == tokens, "q and k must have a row a position");
    check_tokens(x, x.numel() / tokens, "q or k");
  }
  const int64_t* position = positions.const_data_ptr<int64_t>();
  const auto side = [&](const Tensor& x, auto zero) {
    using T = decltype(zero);
    return Rope<T>{x.mutable_data_ptr<T>(), x.stride(0), x.numel() / tokens / head_size};
  };
  dispatch(q, [&](auto zero) {
    using T = decltype(zero);
    if (cos_sin.scalar_type() == at::kFloat) {
      rope<T, float>(side(q, zero), side(k, zero), position, cos_sin.const_data_ptr<float>(), tokens,
                     head_size, rotary_dim, neox);
    } else {
      rope<T, T>(side(q, zero), side(k, zero), position, cos_sin.const_data_ptr<T>(), tokens,
                 head_size, rotary_dim, neox);
    }
  });
}

}  // namespace
}  // namespace autellix_cpu

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  namespace k = autellix_cpu;
  const auto free = py::call_guard<py::gil_scoped_release>();
  m.def("store_kv", &k::store_kv, free);
  m.def("decode", &k::decode, free);
  m.def("extend", &k::extend, free);
  m.def("linear", &k::linear, free);
  m.def("norm", &k::norm, free);
  m.def("swiglu", &k::swiglu, free);
  m.def("rotate", &k::rotate, free);
}
