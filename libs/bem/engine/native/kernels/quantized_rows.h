// Memory layout of the inputs of products in 8 bits: each group of 32 inputs of a row has a scale
// of its own, so that an outlier affects only its group and no row depends on another.
#pragma once

#include "packed_matrix.h"

namespace bem {

constexpr int kRows = 16;  // rows of a tile, which share one read of the weights

// Blocks of 16 rows (the last one smaller); within a block group by group, row by row.
struct QuantizedRows {
  int8_t* codes;  // [group, row, 32]
  float* scales;  // [group, row]
  float* sums;    // [group, row]: scaled sum of the codes
  int32_t*
      offsets;  // [group, row]: -128 x the sum of the codes, which cancels the 128 in weight codes

  QuantizedRows block(int64_t index, int groups) const {
    const int64_t at = index * kRows * groups;
    return {codes + at * kGroup, scales + at, sums + at, offsets + at};
  }
};

// Number of rows of the block that contains `row`.
inline int rows_in_block(int row, int rows) {
  return std::min(kRows, rows - row / kRows * kRows);
}

using Tile = float[kRows][kLanes];

// Prefetches the group of codes that is read some groups after `group`: the hardware prefetcher
// stops at the end of a 4 KB page.
inline void prefetch_group(const uint8_t* group, int64_t bytes) {
  constexpr int kGroupsAhead = 8;
  for (int64_t line = 0; line < bytes; line += 64)
    _mm_prefetch(reinterpret_cast<const char*>(group) + kGroupsAhead * bytes + line, _MM_HINT_T0);
}

}  // namespace bem
