// What Python calls: plain C, raw pointers; shapes are checked on the other side.
#include "layers.h"
#include "likelihood.h"

using namespace bem;

extern "C" {

int64_t bem_packed_bytes(int32_t bits, int32_t outputs, int32_t inputs) {
  const Matrix m{nullptr, nullptr, bits, outputs, inputs};
  return m.blocks() * m.groups() * m.group_bytes();
}

// Packs `weight [outputs, inputs]`; with 4 bits, inputs are a multiple of 32.
void bem_pack(const float* weight, const Matrix* to) { pack(weight, *to); }

// Computes y [rows, outputs] = x [rows, inputs] times the matrix.
void bem_product(const Matrix* m, const float* x, int32_t rows, float* y, int32_t threads) {
  static thread_local Buffers buffers;
  Buffers& b = buffers;
  b.fit_rows(rows, m->inputs);
#pragma omp parallel num_threads(threads)
  {
    quantise_all(x, m->inputs, rows, b.rows());
    product(*m, b.rows(), rows, [&](int block, int row, int count, const Tile& tile) {
      const int first = block * kLanes, left = std::min(kLanes, m->outputs - first);
      for (int r = 0; r < count; ++r)
        std::memcpy(y + static_cast<int64_t>(row + r) * m->outputs + first, tile[r],
                    left * sizeof(float));
    });
  }
}

// Writes how likely output `wanted[row]` is after each row of x, the logarithm of its softmax.
void bem_likelihoods(const Matrix* m, const float* x, int32_t rows, const int32_t* wanted,
                     float* out, int32_t threads) {
  static thread_local Buffers buffers;
  Buffers& b = buffers;
  b.fit_rows(rows, m->inputs);
  std::vector<float> masses(static_cast<std::size_t>(threads) * rows);
#pragma omp parallel num_threads(threads)
  {
    quantise_all(x, m->inputs, rows, b.rows());
    likelihoods(*m, b.rows(), rows, wanted, masses, out);
  }
}

void bem_run(const Model* model, const Pass* pass) { run(*model, *pass); }

}  // extern "C"
