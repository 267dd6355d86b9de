// What Python calls: plain C, raw pointers; shapes are checked on the other side.
#include "layers.h"

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
  const Model shape{nullptr, m->inputs, 0, 0, 0, 0, 0};
  Pass size{};
  size.tokens = rows;
  b.fit(shape, size);
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(static)
    for (int row = 0; row < rows; ++row)
      quantise(x + static_cast<int64_t>(row) * m->inputs, m->inputs, row, rows, b.rows());
    product(*m, b.rows(), rows, [&](int block, int row, int count, const Tile& tile) {
      const int first = block * kLanes, left = std::min(kLanes, m->outputs - first);
      for (int r = 0; r < count; ++r)
        std::memcpy(y + static_cast<int64_t>(row + r) * m->outputs + first, tile[r],
                    left * sizeof(float));
    });
  }
}

void bem_run(const Model* model, const Pass* pass) { run(*model, *pass); }

}  // extern "C"
