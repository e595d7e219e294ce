// What both attention kernels read: the paged KV pool, the request table and the score rule.
#pragma once

#include "vec.h"

namespace autellix_cpu {

constexpr float kMinusInf = -std::numeric_limits<float>::infinity();

// How raw dot products become scores, and which keys a query may see.
struct ScoreRule {
  float scale;     // multiplies q.k
  float cap;       // > 0: score = cap * tanh(score / cap)
  int64_t window;  // >= 0: a query at position p sees keys in [p - window, p]

  int64_t first_key(int64_t position) const {
    return window < 0 ? 0 : std::max<int64_t>(0, position - window);
  }

  // Caps n raw dot products in place; n is a multiple of the lanes. A score is then factor() times
  // what is there, which the softmax multiplies in.
  void apply_cap(float* dots, int64_t n) const {
    if (cap <= 0.f) return;
    const Vec inverse(scale / cap);
    for (int64_t i = 0; i < n; i += kLanes) (load(dots + i) * inverse).tanh().store(dots + i);
  }

  float factor() const { return cap > 0.f ? cap : scale; }
};

// The running softmax of one query row: exp(factor * (dot - peak)) for n dot products, the sum of
// the earlier ones rescaled to the new peak. Returns what earlier weighted sums must be rescaled by.
// n is a multiple of the lanes, a masked product is -inf, and one at least is not.
template <typename Put>
inline float softmax_step(const float* dots, int64_t n, float factor, float* peak, float* total,
                          const Put& put) {
  Vec peak_v(*peak);
  for (int64_t j = 0; j < n; j += kLanes) peak_v = at::vec::maximum(peak_v, load(dots + j));
  const float top =
      at::vec::vec_reduce_all<float>([](Vec a, Vec b) { return at::vec::maximum(a, b); }, peak_v);
  const Vec factor_v(factor), shift(-top * factor);
  Vec sum(0.f);
  for (int64_t j = 0; j < n; j += kLanes) {
    const Vec e = at::vec::fmadd(load(dots + j), factor_v, shift).exp_u20();
    sum = sum + e;
    put(j, e);
  }
  const float keep = *peak == top ? 1.f : std::exp(factor * (*peak - top));
  *peak = top;
  *total = *total * keep + lane_sum(sum);
  return keep;
}

inline void rescale(float* row, int64_t n, float factor) {
  if (factor == 1.f) return;
  for (int64_t i = 0; i < n; i += kLanes) (load(row + i) * Vec(factor)).store(row + i);
}

// Row-major views. The pool is never copied: a key's row is found through the request table.
template <typename T>
struct Pool {
  const T* keys;        // [slots, kv_heads, head_size]
  const T* values;      // [slots, kv_heads, head_size]
  int64_t slot_stride;  // elements between slots, the same for keys and values
  int64_t value_slot_stride;
  const int32_t* table;  // [requests, max_context]: position -> slot
  int64_t table_stride;
  int64_t kv_heads, q_heads, head_size;

  int64_t group() const { return q_heads / kv_heads; }
  const T* key(int32_t slot, int64_t head) const {
    return keys + slot * slot_stride + head * head_size;
  }
  const T* value(int32_t slot, int64_t head) const {
    return values + slot * value_slot_stride + head * head_size;
  }
};

// One query token: its row in q and out, its request's row in the table, the keys it sees.
struct QueryToken {
  int64_t row;
  int64_t request;
  int64_t first_key;
  int64_t end_key;
};

template <typename T>
struct Rows {  // [tokens, heads, head_size], heads and elements contiguous
  T* data;
  int64_t stride;
  T* at(int64_t row, int64_t head, int64_t head_size) const {
    return data + row * stride + head * head_size;
  }
};

// attention_decode.cpp: every token of `tokens` on its own (one query row a request).
template <typename T>
void attend_tokens(const Pool<T>& pool, Rows<const T> q, Rows<T> out, const ScoreRule& rule,
                   const std::vector<QueryToken>& tokens);

// One request's new tokens: rows [row, row + count) of q, at positions prefix, prefix + 1, ...
struct Segment {
  int64_t row;
  int64_t count;
  int64_t request;
  int64_t prefix;
};

// attention_extend.cpp: causal attention of whole segments, tiled.
template <typename T>
void attend_segments(const Pool<T>& pool, Rows<const T> q, Rows<T> out, const ScoreRule& rule,
                     const std::vector<Segment>& segments);

}  // namespace autellix_cpu
