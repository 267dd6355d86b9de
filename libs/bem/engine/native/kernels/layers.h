// Decoder layers over rows of one token each: a step's rows, or the tokens of prompts.
#pragma once

#include "attention.h"
#include "product.h"
#include "sites.h"

namespace bem {

struct Layer {
  Matrix qkv, out, gate_up, down;  // gate_up: 16 outputs of the gate, the same 16 of up, and on
  const float *before, *between;   // gains of the two norms
  Site out_site, down_site;
};

struct Model {
  const Layer* layers;
  int32_t hidden, inner, heads, pairs, width;  // query heads, heads of keys, width of each
  float epsilon;
};

// One forward of `tokens` rows through layers [first, last); `state [tokens, hidden]` is changed.
struct Pass {
  int32_t first, last, tokens, threads;
  float* state;
  const int32_t *slots, *positions;  // [tokens]: each row's place in the cache
  void *keys, *values;               // [layer, slot, pair, position, width]
  int64_t layer_stride, slot_stride, pair_stride;  // in elements
  int32_t half;                      // whether the cache holds float16
  const float *cosines, *sines;      // [position, width]; the lower half's sines are negative
  Active active;
};

// Rows that are neighbouring tokens of one slot.
struct Run {
  int row, tokens;
};

// What a pass computes on its way.
struct Buffers {
  std::vector<Run> runs;
  std::vector<float> qkv, mixed, inner, low;
  std::vector<int8_t> codes;
  std::vector<float> scales, sums;
  std::vector<int32_t> minus;

  void fit_rows(int tokens, int widest) {
    const std::size_t groups = static_cast<std::size_t>(tokens) * ((widest + kGroup - 1) / kGroup);
    codes.resize(groups * kGroup);
    scales.resize(groups);
    sums.resize(groups);
    minus.resize(groups);
  }

  void fit(const Model& m, const Pass& p) {
    const auto rows = static_cast<std::size_t>(p.tokens);
    fit_rows(p.tokens, std::max({m.hidden, m.inner, m.heads * m.width}));
    qkv.resize(rows * (m.heads + 2 * m.pairs) * m.width);
    mixed.resize(rows * m.heads * m.width);
    inner.resize(rows * m.inner);
    low.resize(rows * p.active.width());
    runs.clear();
    for (int row = 0; row < p.tokens; ++row) {
      const bool on = row > 0 && runs.back().tokens < kTogether &&
                      p.slots[row] == p.slots[row - 1] &&
                      p.positions[row] == p.positions[row - 1] + 1;
      if (on) ++runs.back().tokens;
      else runs.push_back({row, 1});
    }
  }
  Rows rows() { return {codes.data(), scales.data(), sums.data(), minus.data()}; }
};

// Root-mean-square norm (arXiv 1910.07467) of `x` into `out`.
inline void norm(const float* x, const float* gains, float epsilon, int size, float* out) {
  __m512 squares = _mm512_setzero_ps();
  for (int i = 0; i < size; i += 16) {
    const __mmask16 mask = size - i >= 16 ? 0xFFFF : (1u << (size - i)) - 1;
    const __m512 v = _mm512_maskz_loadu_ps(mask, x + i);
    squares = _mm512_fmadd_ps(v, v, squares);
  }
  const float mean = _mm512_reduce_add_ps(squares) / static_cast<float>(size);
  const __m512 factor = _mm512_set1_ps(1 / std::sqrt(mean + epsilon));
  for (int i = 0; i < size; i += 16) {
    const __mmask16 mask = size - i >= 16 ? 0xFFFF : (1u << (size - i)) - 1;
    const __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), factor);
    _mm512_mask_storeu_ps(out + i, mask, _mm512_mul_ps(v, _mm512_maskz_loadu_ps(mask, gains + i)));
  }
}

// Rotary embedding of one head (arXiv 2104.09864, half-split form), written to `out`.
template <typename E>
void rotate(const float* x, const float* cosines, const float* sines, int width, E* out) {
  const int half = width / 2;
  for (int i = 0; i < half; i += 16) {
    const __mmask16 mask = half - i >= 16 ? 0xFFFF : (1u << (half - i)) - 1;
    const __m512 low = _mm512_maskz_loadu_ps(mask, x + i);
    const __m512 high = _mm512_maskz_loadu_ps(mask, x + half + i);
    const auto turned = [&](int at, __m512 own, __m512 other) {
      return _mm512_fmadd_ps(other, _mm512_maskz_loadu_ps(mask, sines + at),
                             _mm512_mul_ps(own, _mm512_maskz_loadu_ps(mask, cosines + at)));
    };
    give16(out + i, mask, turned(i, low, high));
    give16(out + half + i, mask, turned(half + i, high, low));
  }
}

// Turns queries in place, and puts keys and values into the cache.
template <typename E>
void place_keys(const Model& m, const Pass& p, int layer, float* qkv) {
  const int stride = (m.heads + 2 * m.pairs) * m.width;
#pragma omp for schedule(static)
  for (int row = 0; row < p.tokens; ++row) {
    float* mine = qkv + static_cast<int64_t>(row) * stride;
    const int64_t at = static_cast<int64_t>(p.positions[row]) * m.width;
    const float *cosines = p.cosines + at, *sines = p.sines + at;
    for (int h = 0; h < m.heads; ++h, mine += m.width)
      rotate(mine, cosines, sines, m.width, mine);
    const int64_t begin = layer * p.layer_stride + p.slots[row] * p.slot_stride + at;
    for (int h = 0; h < m.pairs; ++h, mine += m.width)
      rotate(mine, cosines, sines, m.width, static_cast<E*>(p.keys) + begin + h * p.pair_stride);
    for (int h = 0; h < m.pairs; ++h, mine += m.width) {
      E* to = static_cast<E*>(p.values) + begin + h * p.pair_stride;
      for (int i = 0; i < m.width; i += 16) {
        const __mmask16 mask = m.width - i >= 16 ? 0xFFFF : (1u << (m.width - i)) - 1;
        give16(to + i, mask, _mm512_maskz_loadu_ps(mask, mine + i));
      }
    }
  }
}

template <typename E>
void mix(const Model& m, const Pass& p, int layer, Buffers& b) {
  const int together = m.heads / m.pairs, stride = (m.heads + 2 * m.pairs) * m.width;
  const int tasks = static_cast<int>(b.runs.size()) * m.pairs;
#pragma omp for schedule(dynamic, 1)
  for (int task = 0; task < tasks; ++task) {
    const Run& run = b.runs[b.runs.size() - 1 - task / m.pairs];  // long ones first
    const int pair = task % m.pairs;
    const int64_t head = static_cast<int64_t>(pair) * together * m.width;
    const int64_t begin =
        layer * p.layer_stride + p.slots[run.row] * p.slot_stride + pair * p.pair_stride;
    const int64_t out = static_cast<int64_t>(m.heads) * m.width;
    const Asking asking{b.qkv.data() + static_cast<int64_t>(run.row) * stride + head,
                        stride, run.tokens, together, m.width, p.positions[run.row] + 1,
                        b.mixed.data() + run.row * out + head, out};
    attend(asking, static_cast<const E*>(p.keys) + begin, static_cast<const E*>(p.values) + begin);
  }
}

// Adds what the site before left over, norms each row and quantises it.
inline void enter(const Model& m, const Pass& p, const Site* site, const float* gains,
                  Buffers& b) {
  static thread_local std::vector<float> normed;
  normed.resize(m.hidden);
#pragma omp for schedule(static)
  for (int row = 0; row < p.tokens; ++row) {
    float* state = p.state + static_cast<int64_t>(row) * m.hidden;
    if (site) add_steps(*site, p.active, row, b.low.data(), m.hidden, state);
    norm(state, gains, m.epsilon, m.hidden, normed.data());
    quantise(normed.data(), m.hidden, row, p.tokens, b.rows());
  }
}

// Quantises `x [tokens, size]`, and lets the site that reads it take its low-rank steps.
inline void leave(const Pass& p, const Site& site, const float* x, int size, Buffers& b) {
#pragma omp for schedule(static)
  for (int row = 0; row < p.tokens; ++row) {
    const float* mine = x + static_cast<int64_t>(row) * size;
    quantise(mine, size, row, p.tokens, b.rows());
    take_steps(site, p.active, row, mine, size, b.low.data());
  }
}

// Adds the product of `matrix` and the quantised rows to the state.
inline void add_product(const Model& m, const Pass& p, const Matrix& matrix, Buffers& b) {
  product(matrix, b.rows(), p.tokens, [&](int block, int row, int count, const Tile& tile) {
    const int first = block * kLanes;
    const __mmask16 mask = m.hidden - first >= 16 ? 0xFFFF : (1u << (m.hidden - first)) - 1;
    for (int r = 0; r < count; ++r) {
      float* to = p.state + static_cast<int64_t>(row + r) * m.hidden + first;
      const __m512 sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), _mm512_loadu_ps(tile[r]));
      _mm512_mask_storeu_ps(to, mask, sum);
    }
  });
}

// The gated unit (arXiv 2002.05202, SwiGLU): silu(gate) * up, both from one matrix.
inline void gate(const Model& m, const Pass& p, const Matrix& matrix, Buffers& b) {
#pragma omp for schedule(static)
  for (int pair = 0; pair < matrix.blocks() / 2; ++pair) {
    alignas(64) Tile gates, ups;
    for (int row = 0; row < p.tokens; row += kRows) {
      const int count = std::min(kRows, p.tokens - row);
      const Rows x = b.rows().block(row / kRows, matrix.groups());
      tile(matrix, 2 * pair, x, count, gates);
      tile(matrix, 2 * pair + 1, x, count, ups);
      for (int r = 0; r < count; ++r) {
        const __m512 g = _mm512_loadu_ps(gates[r]), one = _mm512_set1_ps(1);
        const __m512 bent = _mm512_div_ps(
            g, _mm512_add_ps(one, exponential(_mm512_sub_ps(_mm512_setzero_ps(), g))));
        _mm512_storeu_ps(b.inner.data() + static_cast<int64_t>(row + r) * m.inner + pair * kLanes,
                         _mm512_mul_ps(bent, _mm512_loadu_ps(ups[r])));
      }
    }
  }
}

inline void run(const Model& m, const Pass& p) {
  static thread_local Buffers buffers;
  Buffers& b = buffers;
  b.fit(m, p);
  const int mixed = m.heads * m.width, qkv = mixed + 2 * m.pairs * m.width;
#pragma omp parallel num_threads(p.threads)
  {
    const Site* behind = nullptr;
    for (int index = p.first; index < p.last; ++index) {
      const Layer& layer = m.layers[index];
      enter(m, p, behind, layer.before, b);
      product(layer.qkv, b.rows(), p.tokens, [&](int block, int row, int count, const Tile& tile) {
        const int first = block * kLanes, left = std::min(kLanes, qkv - first);
        for (int r = 0; r < count; ++r)
          std::memcpy(b.qkv.data() + static_cast<int64_t>(row + r) * qkv + first, tile[r],
                      left * sizeof(float));
      });
      if (p.half) {
        place_keys<uint16_t>(m, p, index, b.qkv.data());
        mix<uint16_t>(m, p, index, b);
      } else {
        place_keys<float>(m, p, index, b.qkv.data());
        mix<float>(m, p, index, b);
      }
      leave(p, layer.out_site, b.mixed.data(), mixed, b);
      add_product(m, p, layer.out, b);
      enter(m, p, &layer.out_site, layer.between, b);
      gate(m, p, layer.gate_up, b);
      leave(p, layer.down_site, b.inner.data(), m.inner, b);
      add_product(m, p, layer.down, b);
      behind = &layer.down_site;
    }
    if (behind) {
#pragma omp for schedule(static)
      for (int row = 0; row < p.tokens; ++row)
        add_steps(*behind, p.active, row, b.low.data(), m.hidden,
                  p.state + static_cast<int64_t>(row) * m.hidden);
    }
  }
}

}  // namespace bem
