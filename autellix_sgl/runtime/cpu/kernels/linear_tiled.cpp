// out = x w^T + bias for many rows: prefill.
//
// A task is (64 columns of out, some rows). It packs its columns' weights once, then multiplies
// strips of rows with them. Weights are packed anew in every call: that costs a few percent and
// leaves one copy of them in memory, in the layout everything else expects.
#include "kernels.h"
#include "tile.h"

namespace autellix_cpu {
namespace {

constexpr int64_t kColumns = kTileVecs * kLanes;  // of a panel: one register tile
constexpr int64_t kUnits = 144;      // most of k at a time: a panel's part stays in the L1 cache
constexpr int64_t kChunkRows = 96;   // rows between two such parts: bounds the fp32 results held
constexpr int64_t kTaskRows = 384;   // rows for which packing the panel costs little
constexpr int64_t kTasksPerThread = 6;

template <typename T>
using Packed = Operand<T>;

// packed[unit, column] for columns [begin, begin + count) of out, all of k.
template <typename T>
void pack_panel(const Linear<T>& p, int64_t begin, int64_t count, Packed<T>* packed) {
  using O = Packed<T>;
  for (int64_t j = 0; j < kColumns; j += 16) {
    const int32_t* rows[16];
    const int64_t columns = std::clamp<int64_t>(count - j, 0, 16);
    for (int64_t r = 0; r < columns; ++r) {
      const T* w = p.w + (begin + j + r) * p.k;
      if constexpr (std::is_same_v<T, O>) {
        rows[r] = reinterpret_cast<const int32_t*>(w);
      } else {
        O* wide = scratch<O, 31>(16 * p.k) + r * p.k;
        widen(w, wide, p.k);
        rows[r] = reinterpret_cast<const int32_t*>(wide);
      }
    }
    pack_columns(rows, columns, p.k / kPerUnit<O>, reinterpret_cast<int32_t*>(packed) + j, kColumns);
  }
}

// Writes a chunk's fp32 results (kColumns apart) to columns [begin, begin + count) of out.
template <typename T>
void write_chunk(const Linear<T>& p, const float* sums, int64_t row, int64_t rows, int64_t begin,
                 int64_t count) {
  for (int64_t m = 0; m < rows; ++m) {
    T* out = p.out + (row + m) * p.n + begin;
    const float* sum = sums + m * kColumns;
    int64_t c = 0;
    for (; c + kLanes <= count; c += kLanes) {
      const Vec v = load(sum + c);
      store(out + c, p.bias ? v + load(p.bias + begin + c) : v);
    }
    for (; c < count; ++c)
      out[c] = static_cast<T>(sum[c] + (p.bias ? static_cast<float>(p.bias[begin + c]) : 0.f));
  }
}

// The rows of x a chunk multiplies: x itself, or widened where products are computed in fp32.
template <typename T>
const Packed<T>* chunk_rows(const Linear<T>& p, int64_t row, int64_t rows, int64_t* stride) {
  if constexpr (std::is_same_v<T, Packed<T>>) {
    *stride = p.x_stride;
    return p.x + row * p.x_stride;
  } else {
    Packed<T>* wide = scratch<Packed<T>, 32>(kChunkRows * p.k);
    for (int64_t m = 0; m < rows; ++m) widen(p.x + (row + m) * p.x_stride, wide + m * p.k, p.k);
    *stride = p.k;
    return wide;
  }
}

template <typename T>
void run_task(const Linear<T>& p, int64_t begin, int64_t first_row, int64_t end_row) {
  using O = Packed<T>;
  constexpr int64_t per = kPerUnit<O>;
  const int64_t count = std::min(kColumns, p.n - begin), units = p.k / per;
  O* packed = scratch<O, 33>(units * kColumns * per);
  float* sums = scratch<float, 34>(kChunkRows * kColumns);
  pack_panel(p, begin, count, packed);
  const int64_t parts = (units + kUnits - 1) / kUnits, part = (units + parts - 1) / parts;
  for (int64_t row = first_row; row < end_row; row += kChunkRows) {
    const int64_t rows = std::min(kChunkRows, end_row - row);
    int64_t stride;
    const O* x = chunk_rows(p, row, rows, &stride);
    std::fill_n(sums, rows * kColumns, 0.f);
    for (int64_t unit = 0; unit < units; unit += part)
      for (int64_t m = 0; m < rows; m += kTileRows)
        multiply_strip(std::min<int64_t>(kTileRows, rows - m), x + m * stride + unit * per, stride,
                       packed + unit * kColumns * per, kColumns, sums + m * kColumns, kColumns,
                       kColumns, std::min(part, units - unit));
    write_chunk(p, sums, row, rows, begin, count);
  }
}

}  // namespace

template <typename T>
void linear_tiled(const Linear<T>& p) {
  const int64_t panels = (p.n + kColumns - 1) / kColumns;
  const int64_t wanted = (kTasksPerThread * thread_count() + panels - 1) / panels;
  const int64_t pieces = std::max(wanted, (p.m + kTaskRows - 1) / kTaskRows);
  const int64_t strips = (p.m + kTileRows - 1) / kTileRows;
  const int64_t step = std::max<int64_t>(4, (strips + pieces - 1) / pieces) * kTileRows;
  const int64_t row_tasks = (p.m + step - 1) / step;
  // Neighbouring tasks share rows of x, which are then still in a cache.
  parallel_tasks(panels * row_tasks, [&](int64_t i) {
    const int64_t row = i / panels * step;
    run_task(p, i % panels * kColumns, row, std::min(p.m, row + step));
  });
}

template void linear_tiled(const Linear<float>&);
template void linear_tiled(const Linear<BFloat16>&);

}  // namespace autellix_cpu
