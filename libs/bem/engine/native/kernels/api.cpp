// C interface for ctypes: raw pointers; the Python side checks shapes.
#include "layers.h"
#include "target_logprobs.h"

using namespace bem;

extern "C" {

int64_t bem_packed_bytes(int32_t bits, int32_t outputs, int32_t inputs) {
  const Matrix m{nullptr, nullptr, bits, outputs, inputs};
  return m.blocks() * m.groups() * m.group_bytes();
}

// Packs `weight [outputs, inputs]`; for 4 bits, inputs must be a multiple of 32.
void bem_pack(const float* weight, const Matrix* to) {
  pack(weight, *to);
}

// Computes y [rows, outputs] = x [rows, inputs] times the transposed matrix.
void bem_matmul(const Matrix* m, const float* x, int32_t rows, float* y, int32_t threads) {
  static thread_local Buffers buffers;
  Buffers& b = buffers;
  b.reserve_rows(rows, m->inputs);
#pragma omp parallel num_threads(threads)
  {
    const MatrixUnit unit(rows);
    quantize_all(x, m->inputs, rows, b.rows());
    matmul(*m, b.rows(), rows, [&](int block, int row, int count, const Tile& tile) {
      const int first = block * kLanes, left = std::min(kLanes, m->outputs - first);
      for (int r = 0; r < count; ++r)
        std::memcpy(y + static_cast<int64_t>(row + r) * m->outputs + first, tile[r],
                    left * sizeof(float));
    });
  }
}

// Writes log softmax(x W^T)[row, targets[row]] of each row of x to `out [rows]`.
void bem_target_logprobs(const Matrix* m, const float* x, int32_t rows, const int32_t* targets,
                         float* out, int32_t threads) {
  static thread_local Buffers buffers;
  Buffers& b = buffers;
  b.reserve_rows(rows, m->inputs);
  std::vector<float> log_sums(static_cast<std::size_t>(threads) * rows);
#pragma omp parallel num_threads(threads)
  {
    const MatrixUnit unit(rows);
    quantize_all(x, m->inputs, rows, b.rows());
    target_logprobs(*m, b.rows(), rows, targets, log_sums, out);
  }
}

void bem_run_layers(const Model* model, const ForwardPass* pass) {
  run(*model, *pass);
}

}  // extern "C"
