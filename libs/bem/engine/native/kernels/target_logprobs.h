// Log-probabilities of given outputs by streaming log-sum-exp, without storing all logits.
#pragma once

#include <omp.h>

#include <vector>

#include "attention.h"
#include "matmul.h"

namespace bem {

// Streaming log-sum-exp of 16 lanes: sums of exponentials relative to the lane's maximum so far.
struct LogSumExp {
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

  // Log-sum-exp over all lanes; lanes without a value are left out.
  float value() const {
    const float maximum = _mm512_reduce_max_ps(largest);
    const __mmask16 used = _mm512_cmp_ps_mask(largest, _mm512_set1_ps(-INFINITY), _CMP_GT_OQ);
    const __m512 factor = exponential(_mm512_sub_ps(largest, _mm512_set1_ps(maximum)));
    return maximum + std::log(_mm512_mask_reduce_add_ps(used, _mm512_mul_ps(sum, factor)));
  }
};

// Writes log softmax(x W^T)[row, targets[row]] to `out [rows]`; `x` is quantized.
inline void target_logprobs(const Matrix& m, const QuantizedRows& x, int rows,
                            const int32_t* targets, std::vector<float>& log_sums, float* out) {
  const int threads = omp_get_num_threads(), thread = omp_get_thread_num();
  std::vector<LogSumExp> row_sums(rows);
  matmul(m, x, rows, [&](int block, int row, int count, const Tile& tile) {
    const int first = block * kLanes, left = m.outputs - first;
    const __mmask16 mask = left >= kLanes ? 0xFFFF : (1u << left) - 1;
    for (int r = 0; r < count; ++r) {
      row_sums[row + r].add(_mm512_loadu_ps(tile[r]), mask);
      const int at = targets[row + r] - first;
      if (at >= 0 && at < kLanes) out[row + r] = tile[r][at];
    }
  });
  for (int row = 0; row < rows; ++row)
    log_sums[static_cast<std::size_t>(thread) * rows + row] = row_sums[row].value();
#pragma omp barrier
#pragma omp for schedule(static)
  for (int row = 0; row < rows; ++row) {
    float maximum = -INFINITY, sum = 0;
    for (int t = 0; t < threads; ++t)
      maximum = std::max(maximum, log_sums[static_cast<std::size_t>(t) * rows + row]);
    for (int t = 0; t < threads; ++t)
      sum += std::exp(log_sums[static_cast<std::size_t>(t) * rows + row] - maximum);
    out[row] -= maximum + std::log(sum);
  }
}

}  // namespace bem
