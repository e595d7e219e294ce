// Decode attention: one query token a request, keys and values read in place from the KV pool.
//
// A task is (token, kv head, piece of its keys): it runs an online softmax over its piece for all
// query heads of the group, so a key row is read once a group. Long contexts are cut into pieces
// that run on different threads and are merged afterwards.
#include "attention.h"

namespace autellix_cpu {
namespace {

constexpr int64_t kBlock = 64;      // keys scored between two softmax updates
constexpr int64_t kMinPiece = 256;  // shorter pieces cost more to merge than they win

struct Piece {
  const QueryToken* token;
  int64_t kv_head;
  int64_t begin, end;
  int64_t partial;  // slot of its partial result, -1 when the piece is the whole
};

// Running softmax of one piece, for `group` heads.
struct State {
  float* peak;    // [group] largest dot product so far
  float* total;   // [group] sum of exp(factor * (dot - peak))
  float* weighted;  // [group, head_size] sum of exp(factor * (dot - peak)) * value
};

template <typename T>
void prefetch(const T* row, int64_t size) {
  const char* bytes = reinterpret_cast<const char*>(row);
  for (int64_t i = 0; i < size * static_cast<int64_t>(sizeof(T)); i += 64)
    __builtin_prefetch(bytes + i);
}

// acc[r] += q . rows[r], lane by lane
template <typename T>
inline void dot_rows(const T* q, const T* const (&rows)[16], int64_t d, Vec (&acc)[16]) {
  int64_t i = 0;
  for (; i + kStep<T> <= d; i += kStep<T>)
    for (int r = 0; r < 16; ++r) acc[r] = dot_step(q + i, rows[r] + i, acc[r]);
  for (; i < d; i += kLanes)
    for (int r = 0; r < 16; ++r) acc[r] = at::vec::fmadd(load(q + i), load(rows[r] + i), acc[r]);
}

// scores[g, j] = q[g] . key(slots[j]); rows past the end of the block repeat the last one. The
// block's values and the next keys are on their way to the cache meanwhile.
template <typename T>
void score_block(const Pool<T>& pool, int64_t head, const T* q, const int32_t* slots, int64_t count,
                 int64_t following, float* scores) {
  const int64_t d = pool.head_size, group = pool.group();
  for (int64_t j = 0; j < count; j += 16) {
    const T* rows[16];
    for (int64_t r = 0; r < 16; ++r) {
      const int64_t at = std::min(j + r, count - 1);
      rows[r] = pool.key(slots[at], head);
      prefetch(pool.value(slots[at], head), d);
      prefetch(pool.key(slots[std::min(at + 16, count + following - 1)], head), d);
    }
    for (int64_t g = 0; g < group; ++g) {
      Vec acc[16];
      for (auto& a : acc) a = Vec(0.f);
      dot_rows(q + g * d, rows, d, acc);
      lane_sums16(acc, scores + g * kBlock + j);
    }
  }
}

// weighted[g, :] += sum_j p[g, j] * value(slots[j]), kHeads heads by kWide lanes at a time.
template <int kHeads, int kWide, typename T>
void add_values(const Pool<T>& pool, int64_t head, const int32_t* slots, int64_t count,
                const float* p, float* weighted, int64_t column) {
  const int64_t d = pool.head_size;
  Vec acc[kHeads][kWide];
  for (int g = 0; g < kHeads; ++g)
    for (int w = 0; w < kWide; ++w) acc[g][w] = load(weighted + g * d + column + w * kLanes);
  for (int64_t j = 0; j < count; ++j) {
    const T* value = pool.value(slots[j], head) + column;
    Vec row[kWide];
    for (int w = 0; w < kWide; ++w) row[w] = load(value + w * kLanes);
    for (int g = 0; g < kHeads; ++g) {
      const Vec weight(p[g * kBlock + j]);
      for (int w = 0; w < kWide; ++w) acc[g][w] = at::vec::fmadd(weight, row[w], acc[g][w]);
    }
  }
  for (int g = 0; g < kHeads; ++g)
    for (int w = 0; w < kWide; ++w) acc[g][w].store(weighted + g * d + column + w * kLanes);
}

template <int kHeads, typename T>
void add_heads(const Pool<T>& pool, int64_t head, const int32_t* slots, int64_t count,
               const float* p, float* weighted) {
  int64_t column = 0;
  for (; column + 4 * kLanes <= pool.head_size; column += 4 * kLanes)
    add_values<kHeads, 4>(pool, head, slots, count, p, weighted, column);
  for (; column < pool.head_size; column += kLanes)
    add_values<kHeads, 1>(pool, head, slots, count, p, weighted, column);
}

template <typename T>
void add_block(const Pool<T>& pool, int64_t head, const int32_t* slots, int64_t count,
               const float* p, float* weighted) {
  const int64_t group = pool.group();
  int64_t g = 0;
  const auto at = [&](auto heads) {
    add_heads<decltype(heads)::value>(pool, head, slots, count, p + g * kBlock,
                                      weighted + g * pool.head_size);
    g += decltype(heads)::value;
  };
  while (g + 4 <= group) at(std::integral_constant<int, 4>{});
  if (group - g == 3) at(std::integral_constant<int, 3>{});
  if (group - g == 2) at(std::integral_constant<int, 2>{});
  if (group - g == 1) at(std::integral_constant<int, 1>{});
}

template <typename T>
void run_piece(const Pool<T>& pool, Rows<const T> q, const ScoreRule& rule, const Piece& piece,
               const State& state) {
  const int64_t d = pool.head_size, group = pool.group();
  const T* query = q.at(piece.token->row, piece.kv_head * group, d);
  std::fill_n(state.peak, group, kMinusInf);
  std::fill_n(state.total, group, 0.f);
  std::fill_n(state.weighted, group * d, 0.f);
  float* scores = scratch<float, 3>(group * kBlock);
  const int32_t* slots = pool.table + piece.token->request * pool.table_stride;
  for (int64_t j = piece.begin; j < piece.end; j += kBlock) {
    const int64_t count = std::min(kBlock, piece.end - j);
    score_block(pool, piece.kv_head, query, slots + j, count, piece.end - j - count, scores);
    const int64_t padded = (count + 15) / 16 * 16;
    for (int64_t g = 0; g < group; ++g) {
      float* row = scores + g * kBlock;
      rule.apply_cap(row, padded);
      std::fill(row + count, row + padded, kMinusInf);
      const float keep =
          softmax_step(row, padded, rule.factor(), state.peak + g, state.total + g,
                       [&](int64_t j, const Vec& p) { p.store(row + j); });
      rescale(state.weighted + g * d, d, keep);
    }
    add_block(pool, piece.kv_head, slots + j, count, scores, state.weighted);
  }
}

// out = sum_i exp(factor * (peak_i - peak)) * weighted_i / total, over `count` partial states laid out in a
// row of `width` floats each: peak[group], total[group], weighted[group, d].
template <typename T>
void merge(const float* partials, int64_t count, int64_t width, int64_t group, int64_t d, int64_t g,
           float factor, T* out) {
  float peak = kMinusInf, total = 0.f;
  for (int64_t i = 0; i < count; ++i) peak = std::max(peak, partials[i * width + g]);
  float* sum = scratch<float, 4>(d);
  std::fill_n(sum, d, 0.f);
  for (int64_t i = 0; i < count; ++i) {
    const float* part = partials + i * width;
    const float weight = std::exp(factor * (part[g] - peak));
    total += weight * part[group + g];
    const float* weighted = part + 2 * group + g * d;
    for (int64_t c = 0; c < d; c += kLanes)
      at::vec::fmadd(Vec(weight), load(weighted + c), load(sum + c)).store(sum + c);
  }
  const Vec inverse(1.f / total);
  for (int64_t c = 0; c < d; c += kLanes) store(out + c, load(sum + c) * inverse);
}

struct Plan {
  std::vector<Piece> pieces;
  std::vector<int64_t> first_piece;  // of each (token, kv head), and the end
};

Plan make_plan(const std::vector<QueryToken>& tokens, int64_t kv_heads) {
  int64_t keys = 0;
  for (const auto& token : tokens) keys += token.end_key - token.first_key;
  const int64_t threads = thread_count();
  const int64_t longest = threads == 1 ? std::numeric_limits<int64_t>::max()
                                       : std::max(kMinPiece, keys * kv_heads / (4 * threads));
  Plan plan;
  for (const auto& token : tokens) {
    const int64_t length = token.end_key - token.first_key;
    const int64_t cuts = length <= longest ? 1 : (length + longest - 1) / longest;
    const int64_t step = (length + cuts - 1) / cuts;
    for (int64_t head = 0; head < kv_heads; ++head) {
      plan.first_piece.push_back(static_cast<int64_t>(plan.pieces.size()));
      for (int64_t c = 0; c < cuts; ++c) {
        const int64_t begin = token.first_key + c * step;
        plan.pieces.push_back({&token, head, begin, std::min(begin + step, token.end_key),
                               static_cast<int64_t>(plan.pieces.size())});
      }
    }
  }
  plan.first_piece.push_back(static_cast<int64_t>(plan.pieces.size()));
  return plan;
}

}  // namespace

template <typename T>
void attend_tokens(const Pool<T>& pool, Rows<const T> q, Rows<T> out, const ScoreRule& rule,
                   const std::vector<QueryToken>& tokens) {
  const int64_t d = pool.head_size, group = pool.group(), width = group * (d + 2);
  const Plan plan = make_plan(tokens, pool.kv_heads);
  const int64_t pieces = static_cast<int64_t>(plan.pieces.size());
  float* partials = scratch<float, 5>(pieces * width);
  parallel_tasks(pieces, [&](int64_t i) {
    float* part = partials + i * width;
    run_piece(pool, q, rule, plan.pieces[i], {part, part + group, part + 2 * group});
  });
  for (size_t i = 0; i + 1 < plan.first_piece.size(); ++i) {
    const Piece& piece = plan.pieces[plan.first_piece[i]];
    const int64_t count = plan.first_piece[i + 1] - plan.first_piece[i];
    for (int64_t g = 0; g < group; ++g) {
      T* row = out.at(piece.token->row, piece.kv_head * group + g, d);
      if (piece.token->end_key <= piece.token->first_key) {
        std::fill_n(row, d, T(0));  // a padding row sees no key
      } else {
        merge(partials + plan.first_piece[i] * width, count, width, group, d, g, rule.factor(), row);
      }
    }
  }
}

template void attend_tokens(const Pool<float>&, Rows<const float>, Rows<float>, const ScoreRule&,
                            const std::vector<QueryToken>&);
template void attend_tokens(const Pool<BFloat16>&, Rows<const BFloat16>, Rows<BFloat16>,
                            const ScoreRule&, const std::vector<QueryToken>&);

}  // namespace autellix_cpu
