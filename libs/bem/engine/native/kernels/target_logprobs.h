// Log-probabilities of given outputs by streaming log-sum-exp, without storing all logits.
#pragma once

#include <omp.h>

#include <vector>

#include "attention.h"
#include "matmul.h"

namespace bem {

// Streaming log-sum-exp of 16 lanes: sums of exponentials relative to the lane's maximum so far.
struct LogSumExp {
  Floats largest = splat(-INFINITY), sum = splat(0);

  // Adds 16 values; minus infinity adds at most 2e-38, which changes no sum that has another value.
  void include(Floats x) {
    if (any_larger(x, largest)) {
      const Floats before = largest;
      largest = larger(largest, x);
      sum = multiply(sum, exponential(subtract(before, largest)));
    }
    sum = add(sum, exponential(subtract(x, largest)));
  }

  // Log-sum-exp over all lanes; a lane without values weighs nothing.
  float value() const {
    const float maximum = largest_lane(largest);
    const Floats factor = exponential(subtract(largest, splat(maximum)));
    return maximum + std::log(sum_of_lanes(multiply(sum, factor)));
  }
};

// Writes log softmax(x W^T)[row, targets[row]] to `out [rows]`; `x` is quantized.
inline void target_logprobs(const Matrix& m, const QuantizedRows& x, int rows,
                            const int32_t* targets, std::vector<float>& log_sums, float* out) {
  const int threads = omp_get_num_threads(), thread = omp_get_thread_num();
  std::vector<LogSumExp> row_sums(rows);
  matmul(m, x, rows, [&](int block, int row, int count, const Tile& tile) {
    const int first = block * kLanes, left = m.outputs - first;
    for (int r = 0; r < count; ++r) {
      row_sums[row + r].include(keep_lanes(load(tile[r]), 0, left, splat(-INFINITY)));
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
