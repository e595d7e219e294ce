// Extend attention: causal attention of new tokens over the cached prefix and each other.
//
// A task is (segment, kv head, block of its tokens). Its rows are the block's tokens times the
// heads of the group, token-major, so that what a row may see only grows. Keys and values are
// gathered from the pool block by block into packed scratch, once for all rows of the task.
#include "attention.h"
#include "tile.h"

namespace autellix_cpu {
namespace {

constexpr int64_t kKeys = 128;        // keys a packed block holds
constexpr int64_t kTaskRows = 192;    // rows of a task: amortises packing, leaves enough tasks
constexpr int64_t kShortSegment = 2;  // up to here a segment's tokens go one by one

struct Task {
  const Segment* segment;
  int64_t kv_head;
  int64_t begin, end;  // tokens of the segment
};

// packed[k, j] = unit k of key j: the transpose of the block, kKeys columns. Columns past `count`
// (up to the next multiple of 16) are zero.
template <typename T, typename O>
void pack_keys(const Pool<T>& pool, int64_t head, const int32_t* slots, int64_t count, O* packed) {
  const int64_t d = pool.head_size;
  for (int64_t j = 0; j < count; j += 16) {
    const int64_t columns = std::min<int64_t>(16, count - j);
    const int32_t* rows[16];
    for (int64_t r = 0; r < columns; ++r) {
      const T* key = pool.key(slots[j + r], head);
      if constexpr (std::is_same_v<T, O>) {
        rows[r] = reinterpret_cast<const int32_t*>(key);
      } else {
        O* wide = scratch<O, 11>(16 * d) + r * d;
        widen(key, wide, d);
        rows[r] = reinterpret_cast<const int32_t*>(wide);
      }
    }
    pack_columns(rows, columns, d / kPerUnit<O>, reinterpret_cast<int32_t*>(packed) + j, kKeys);
  }
}

// packed unit [j / per, c] = values of column c of the unit's keys; keys past `count` are zero.
template <typename T>
void pack_values(const Pool<T>& pool, int64_t head, const int32_t* slots, int64_t count,
                 float* packed) {
  const int64_t d = pool.head_size;
  for (int64_t j = 0; j < count; ++j) widen(pool.value(slots[j], head), packed + j * d, d);
  std::fill_n(packed + count * d, ((count + 15) / 16 * 16 - count) * d, 0.f);
}

inline void interleave(const BFloat16* even, const BFloat16* odd, BFloat16* out, int64_t n) {
  int64_t c = 0;
#if defined(CPU_CAPABILITY_AVX512)
  for (; c + 16 <= n; c += 16) {
    const auto wide = [&](const BFloat16* p) {
      return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + c)));
    };
    const __m512i pairs = _mm512_or_si512(wide(even), _mm512_slli_epi32(wide(odd), 16));
    _mm512_storeu_si512(out + 2 * c, pairs);
  }
#endif
  for (; c < n; ++c) {
    out[2 * c] = even[c];
    out[2 * c + 1] = odd[c];
  }
}

template <typename T>
void pack_values(const Pool<T>& pool, int64_t head, const int32_t* slots, int64_t count,
                 BFloat16* packed) {
  const int64_t d = pool.head_size;
  const BFloat16* const none = scratch<BFloat16, 14>(d);  // zeros
  for (int64_t j = 0; j < (count + 15) / 16 * 16; j += 2) {
    const BFloat16* even = j < count ? pool.value(slots[j], head) : none;
    const BFloat16* odd = j + 1 < count ? pool.value(slots[j + 1], head) : none;
    interleave(even, odd, packed + j * d, d);
  }
}

// One row's running softmax over a block. Products outside [low, high) are masked; `columns` (a
// multiple of 16) probabilities are written for the value product, `sum_row` is rescaled.
template <typename O>
void softmax_row(float* dots, int64_t low, int64_t high, int64_t columns, const ScoreRule& rule,
                 float* peak, float* total, float* sum_row, int64_t d, O* p) {
  rule.apply_cap(dots, columns);
  std::fill(dots, dots + low, kMinusInf);
  std::fill(dots + high, dots + columns, kMinusInf);
  const float keep = softmax_step(dots, columns, rule.factor(), peak, total,
                                  [&](int64_t j, const Vec& e) { store(p + j, e); });
  rescale(sum_row, d, keep);
}

// The state of a task's rows, all in this thread's scratch.
template <typename O>
struct Tile {
  int64_t rows, d, group;
  O* query;      // [rows, d]
  float* peak;   // [rows]
  float* total;  // [rows]
  float* sum;    // [rows, d]
  O* keys;       // packed, [d / per, kKeys] units
  O* values;     // packed, [kKeys / per, d] units
};

template <typename T, typename O>
Tile<O> make_tile(const Pool<T>& pool, Rows<const T> q, const Task& task) {
  const int64_t d = pool.head_size, group = pool.group();
  const int64_t rows = (task.end - task.begin) * group;
  float* floats = scratch<float, 12>(rows * (d + 2));
  O* operands = scratch<O, 13>(rows * d + 2 * kKeys * d);
  Tile<O> tile{rows, d, group, operands, floats, floats + rows, floats + 2 * rows,
               operands + rows * d, operands + rows * d + kKeys * d};
  for (int64_t t = task.begin; t < task.end; ++t)
    for (int64_t g = 0; g < group; ++g)
      widen(q.at(task.segment->row + t, task.kv_head * group + g, d),
            tile.query + ((t - task.begin) * group + g) * d, d);
  std::fill_n(tile.peak, rows, kMinusInf);
  std::fill_n(tile.total, rows * (d + 1), 0.f);
  return tile;
}

// Adds the packed block of keys [first, first + count) to every row that sees any of it.
template <typename O>
void add_block(const Tile<O>& tile, const ScoreRule& rule, int64_t position, int64_t first,
               int64_t count) {
  constexpr int per = kPerUnit<O>;
  alignas(64) float scores[kTileRows * kKeys];
  alignas(64) O p[kTileRows * kKeys];
  const int64_t d = tile.d;
  for (int64_t r = 0; r < tile.rows; r += kTileRows) {
    const int64_t rows = std::min<int64_t>(kTileRows, tile.rows - r);
    const int64_t last = position + (r + rows - 1) / tile.group;  // position of the last row
    const int64_t seen = std::min(count, last + 1 - first);
    if (seen <= 0 || first + count <= rule.first_key(position + r / tile.group)) continue;
    const int64_t columns = (seen + 15) / 16 * 16;
    for (int64_t m = 0; m < rows; ++m) std::fill_n(scores + m * kKeys, columns, 0.f);
    multiply_strip(rows, tile.query + r * d, d, tile.keys, kKeys, scores, kKeys, columns, d / per);
    for (int64_t m = 0; m < rows; ++m) {
      const int64_t at = position + (r + m) / tile.group;
      const int64_t high = std::clamp<int64_t>(at + 1 - first, 0, count);
      const int64_t low = std::clamp<int64_t>(rule.first_key(at) - first, 0, high);
      float* sum = tile.sum + (r + m) * d;
      if (low == high) {
        std::fill_n(p + m * kKeys, columns, O(0));
      } else {
        softmax_row(scores + m * kKeys, low, high, columns, rule, tile.peak + r + m,
                    tile.total + r + m, sum, d, p + m * kKeys);
      }
    }
    multiply_strip(rows, p, kKeys, tile.values, d, tile.sum + r * d, d, d, columns / per);
  }
}

template <typename T>
void run_task(const Pool<T>& pool, Rows<const T> q, Rows<T> out, const ScoreRule& rule,
              const Task& task) {
  using O = Operand<T>;
  const Segment& segment = *task.segment;
  const int64_t position = segment.prefix + task.begin, end = segment.prefix + task.end;
  const Tile<O> tile = make_tile<T, O>(pool, q, task);
  const int32_t* slots = pool.table + segment.request * pool.table_stride;
  for (int64_t first = rule.first_key(position); first < end; first += kKeys) {
    const int64_t count = std::min(kKeys, end - first);
    pack_keys(pool, task.kv_head, slots + first, count, tile.keys);
    pack_values(pool, task.kv_head, slots + first, count, tile.values);
    add_block(tile, rule, position, first, count);
  }
  for (int64_t r = 0; r < tile.rows; ++r) {
    T* row = out.at(segment.row + task.begin + r / tile.group,
                    task.kv_head * tile.group + r % tile.group, tile.d);
    const Vec inverse(1.f / tile.total[r]);
    for (int64_t c = 0; c < tile.d; c += kLanes)
      store(row + c, load(tile.sum + r * tile.d + c) * inverse);
  }
}

}  // namespace

template <typename T>
void attend_segments(const Pool<T>& pool, Rows<const T> q, Rows<T> out, const ScoreRule& rule,
                     const std::vector<Segment>& segments) {
  const int64_t step = std::max<int64_t>(1, kTaskRows / pool.group());
  std::vector<Task> tasks;
  std::vector<QueryToken> tokens;
  for (const Segment& segment : segments) {
    if (segment.count <= kShortSegment) {
      for (int64_t t = 0; t < segment.count; ++t) {
        const int64_t position = segment.prefix + t;
        tokens.push_back({segment.row + t, segment.request, rule.first_key(position), position + 1});
      }
      continue;
    }
    // Last tokens first: they see the most keys, and long tasks should not start last.
    for (int64_t end = segment.count; end > 0; end -= step)
      for (int64_t head = 0; head < pool.kv_heads; ++head)
        tasks.push_back({&segment, head, std::max<int64_t>(0, end - step), end});
  }
  if (!tokens.empty()) attend_tokens(pool, q, out, rule, tokens);
  parallel_tasks(static_cast<int64_t>(tasks.size()),
                 [&](int64_t i) { run_task(pool, q, out, rule, tasks[i]); });
}

template void attend_segments(const Pool<float>&, Rows<const float>, Rows<float>, const ScoreRule&,
                              const std::vector<Segment>&);
template void attend_segments(const Pool<BFloat16>&, Rows<const BFloat16>, Rows<BFloat16>,
                              const ScoreRule&, const std::vector<Segment>&);

}  // namespace autellix_cpu
