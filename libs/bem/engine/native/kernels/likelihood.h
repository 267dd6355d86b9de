// How likely given outputs are among all, without writing all down.
#pragma once

#include <omp.h>

#include <vector>

#include "attention.h"
#include "product.h"

namespace bem {

// A running sum of exponentials over 16 lanes, each over the largest value that it has seen.
struct Mass {
  __m512 largest = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps();

  void add(__m512 x, __mmask16 mask) {
    const __mmask16 larger = _mm512_mask_cmp_ps_mask(mask, x, largest, _CMP_GT_OQ);
    if (larger) {
      const __m512 before = largest;
      largest = _mm512_mask_mov_ps(largest, larger, x);
      sum = _mm512_mask_mul_ps(sum, larger, sum, exponential(_mm512_sub_ps(before, largest)));
    }
    sum = _mm512_mask_add_ps(sum, mask, sum, exponential(_mm512_sub_ps(x, largest)));
  }

  // The logarithm of the sum over all lanes, those that saw nothing left out.
  float logarithm() const {
    const float most = _mm512_reduce_max_ps(largest);
    const __mmask16 seen =
        _mm512_cmp_ps_mask(largest, _mm512_set1_ps(-INFINITY), _CMP_GT_OQ);
    const __m512 factor = exponential(_mm512_sub_ps(largest, _mm512_set1_ps(most)));
    return most + std::log(_mm512_mask_reduce_add_ps(seen, _mm512_mul_ps(sum, factor)));
  }
};

// Writes log softmax(x W^T)[row, wanted[row]] for each row; `x` is quantised, `out [rows]`.
inline void likelihoods(const Matrix& m, const Rows& x, int rows, const int32_t* wanted,
                        std::vector<float>& masses, float* out) {
  const int threads = omp_get_num_threads(), me = omp_get_thread_num();
  std::vector<Mass> mine(rows);
  product(m, x, rows, [&](int block, int row, int count, const Tile& tile) {
    const int first = block * kLanes, left = m.outputs - first;
    const __mmask16 mask = left >= kLanes ? 0xFFFF : (1u << left) - 1;
    for (int r = 0; r < count; ++r) {
      mine[row + r].add(_mm512_loadu_ps(tile[r]), mask);
      const int at = wanted[row + r] - first;
      if (at >= 0 && at < kLanes) out[row + r] = tile[r][at];
    }
  });
  for (int row = 0; row < rows; ++row)
    masses[static_cast<std::size_t>(me) * rows + row] = mine[row].logarithm();
#pragma omp barrier
#pragma omp for schedule(static)
  for (int row = 0; row < rows; ++row) {
    float most = -INFINITY, sum = 0;
    for (int t = 0; t < threads; ++t)
      most = std::max(most, masses[static_cast<std::size_t>(t) * rows + row]);
    for (int t = 0; t < threads; ++t)
      sum += std::exp(masses[static_cast<std::size_t>(t) * rows + row] - most);
    out[row] -= most + std::log(sum);
  }
}

}  // namespace bem
