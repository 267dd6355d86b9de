// Inputs of products in 8 bits: each group of 32 inputs of a row is scaled by its own largest
// value, so that an outlier affects only its group and no row depends on another.
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

// Quantizes `x [inputs]` into row `row` of `rows`.
inline void quantize(const float* x, int inputs, int row, int rows, const QuantizedRows& to) {
  const int groups = (inputs + kGroup - 1) / kGroup, in_block = rows_in_block(row, rows);
  const QuantizedRows block = to.block(row / kRows, groups);
  for (int g = 0; g < groups; ++g) {
    const int left = inputs - g * kGroup;
    const __mmask16 first = left >= 16 ? 0xFFFF : (1u << left) - 1;
    const __mmask16 second = left >= 32 ? 0xFFFF : left > 16 ? (1u << (left - 16)) - 1 : 0;
    const __m512 a = _mm512_maskz_loadu_ps(first, x + g * kGroup);
    const __m512 b = _mm512_maskz_loadu_ps(second, x + g * kGroup + 16);
    const float largest = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b)));
    const __m512 inverse = _mm512_set1_ps(largest > 0 ? 127 / largest : 0);
    const __m512i whole_a = _mm512_cvtps_epi32(_mm512_mul_ps(a, inverse));
    const __m512i whole_b = _mm512_cvtps_epi32(_mm512_mul_ps(b, inverse));
    const int64_t at = static_cast<int64_t>(g) * in_block + row % kRows;
    auto* codes = reinterpret_cast<__m128i*>(block.codes + at * kGroup);
    _mm_storeu_si128(codes, _mm512_cvtsepi32_epi8(whole_a));
    _mm_storeu_si128(codes + 1, _mm512_cvtsepi32_epi8(whole_b));
    const int sum = _mm512_reduce_add_epi32(_mm512_add_epi32(whole_a, whole_b));
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

}  // namespace bem
