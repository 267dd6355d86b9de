// Products of packed matrices and quantized rows: tiles of 16 outputs and up to 16 rows, so that
// weights are read once per tile. The sums of a row are added in the same order
// whatever other rows the tile has.
#pragma once

#include <array>
#include <utility>

#include "vectors.h"
#ifdef __AMX_INT8__
#include "matrix_unit.h"
#endif

namespace bem {

#ifndef __AMX_INT8__
// Stands for the matrix unit of a thread where the variant uses none.
struct MatrixUnit {
  explicit MatrixUnit(int) {}
};
#endif

// Quantizes `x [inputs]` into row `row` of `rows`: each group of 32 inputs by its largest value.
inline void quantize(const float* x, int inputs, int row, int rows, const QuantizedRows& to) {
  const int groups = (inputs + kGroup - 1) / kGroup, in_block = rows_in_block(row, rows);
  const QuantizedRows block = to.block(row / kRows, groups);
  for (int g = 0; g < groups; ++g, x += kGroup) {
    const int left = inputs - g * kGroup;
    const Floats a = load(x, left);
    const Floats b = left > kLanes ? load(x + kLanes, left - kLanes) : splat(0);
    const float largest = largest_lane(larger(absolute(a), absolute(b)));
    const Floats inverse = splat(largest > 0 ? 127 / largest : 0);
    const Ints whole_a = to_ints(multiply(a, inverse)), whole_b = to_ints(multiply(b, inverse));
    const int64_t at = static_cast<int64_t>(g) * in_block + row % kRows;
    store_bytes(block.codes + at * kGroup, whole_a, whole_b);
    const int sum = sum_of_lanes(whole_a) + sum_of_lanes(whole_b);
    block.scales[at] = largest / 127;
    block.sums[at] = largest / 127 * static_cast<float>(sum);
    block.offsets[at] = -128 * sum;
  }
}

// Quantizes all rows of `x [rows, inputs]`; all threads of a parallel region must call it.
inline void quantize_all(const float* x, int inputs, int rows, const QuantizedRows& to) {
#pragma omp for schedule(static)
  for (int row = 0; row < rows; ++row)
    quantize(x + static_cast<int64_t>(row) * inputs, inputs, row, rows, to);
}

using TileFunction = void (*)(const Matrix&, int, const QuantizedRows&, int, PrefetchAhead,
                              float (*)[kLanes]);

// The function for a number of rows, at most `kTileRows`.
template <std::size_t... R>
TileFunction tile_of(int bits, int rows, std::index_sequence<R...>) {
  static constexpr TileFunction four[] = {tile_int4<R + 1>...};
  static constexpr TileFunction eight[] = {tile_int8<R + 1>...};
  return (bits == 4 ? four : eight)[rows - 1];
}

// Computes a tile: 16 outputs of the rows of one row block. It prefetches `ahead` meanwhile.
inline void tile(const Matrix& m, int block, const QuantizedRows& x, int rows, PrefetchAhead ahead,
                 Tile& out) {
#ifdef __AMX_INT8__
  if (rows == kRows)
    return (m.bits == 4 ? matrix_unit_tile<4> : matrix_unit_tile<8>)(m, block, x, ahead, out);
#endif
  for (int row = 0; row < rows; row += kTileRows) {
    const QuantizedRows part{x.codes + row * kGroup, x.scales + row, x.sums + row, x.offsets + row};
    const TileFunction compute =
        tile_of(m.bits, std::min(kTileRows, rows - row), std::make_index_sequence<kTileRows>());
    compute(m, block, part, rows, row ? PrefetchAhead{} : ahead, out + row);
  }
}

// Calls `consume(block, first row, rows, tile)` with each tile of the product of `m` and `x`, and
// `ahead(groups)` for what a tile prefetches. All threads of a parallel region must call it; they
// share the blocks.
template <typename Ahead, typename Consume>
void matmul(const Matrix& m, const QuantizedRows& x, int rows, const Ahead& ahead,
            const Consume& consume) {
#pragma omp for schedule(static)
  for (int block = 0; block < m.blocks(); ++block) {
    alignas(64) Tile out;
    for (int row = 0; row < rows; row += kRows) {
      const int count = std::min(kRows, rows - row);
      tile(m, block, x.block(row / kRows, m.groups()), count, ahead(m.groups()), out);
      consume(block, row, count, out);
    }
  }
}

// The same without anything to prefetch.
template <typename Consume>
void matmul(const Matrix& m, const QuantizedRows& x, int rows, const Consume& consume) {
  matmul(m, x, rows, [](int) { return PrefetchAhead{}; }, consume);
}

}  // namespace bem
