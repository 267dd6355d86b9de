// Decoder layers over rows of one token each: the rows of a decode step or the tokens of prompts.
#pragma once

#include <omp.h>

#include "adapter_sites.h"
#include "attention.h"
#include "factor_stream.h"
#include "matmul.h"

namespace bem {

struct Layer {
  Matrix qkv, out, gate_up, down;  // gate_up: 16 gate outputs and the same 16 up outputs alternate
  const float *attention_gain, *mlp_gain;  // gains of the norms of inputs; null for no norm
  const float *attention_output_gain, *mlp_output_gain;  // and of outputs
  const float* qkv_bias;                                 // null for no biases
  const float *query_gain, *key_gain;                    // null for no norms of queries and keys
  Site qkv_sites[3], gate_up_sites[2];                   // of the layers that a matrix joins
  Site out_site, down_site;
  int32_t window;         // positions that a token attends to at most; 0 for no limit
  int32_t rotated;        // whether queries and keys are rotated
  int32_t window_angles;  // whether by the angles of layers with a window
};

struct Model {
  const Layer* layers;
  int32_t hidden, intermediate, heads, kv_heads, head_dim;
  float epsilon;
  float attention_scale, attention_cap;  // factor of the products with keys; bound, 0 for none
  float residual;                        // factor of what is added to the state
  int32_t gelu;                          // whether the gate's activation is GELU instead of SiLU
  int32_t joint_norm;                    // whether all heads of a token are normalised together
};

// One pass of `tokens` rows through layers [first, last); updates `state [tokens, hidden]`.
struct ForwardPass {
  int32_t first, last, tokens, threads;
  float* state;
  const int32_t *slots, *positions;                // [tokens]: slot of each row and place in it
  const int32_t* angles;                           // [tokens]: position in the text, for RoPE
  void *keys, *values;                             // [layer, slot, kv_head, position, head_dim]
  int64_t layer_stride, slot_stride, head_stride;  // in elements
  int32_t float16_cache;                           // whether the cache is float16
  const float *cosines, *sines;  // [position, head_dim]; sines of the lower half are negated
  const float *window_cosines, *window_sines;  // the same of layers with a window
  ActiveAdapters active;
};

// Consecutive rows that are neighbouring tokens of one slot.
struct TokenRun {
  int row, tokens;
};

// Intermediate results of a pass, shared by the threads of its parallel region.
struct Buffers {
  std::vector<TokenRun> runs;
  std::vector<float> qkv, attended, intermediate, output, low;
  std::vector<float> updates;    // [tokens, width]: low-rank updates of a joined matrix
  std::vector<uint8_t> updated;  // [tokens]: whether the row has any
  std::size_t update_width = 0;
  std::vector<int8_t> codes;
  std::vector<float> scales, sums;
  std::vector<int32_t> offsets;

  void reserve_rows(int tokens, int widest) {
    const std::size_t groups = static_cast<std::size_t>(tokens) * ((widest + kGroup - 1) / kGroup);
    codes.resize(groups * kGroup);
    scales.resize(groups);
    sums.resize(groups);
    offsets.resize(groups);
  }

  void reserve(const Model& m, const ForwardPass& p) {
    const auto rows = static_cast<std::size_t>(p.tokens);
    reserve_rows(p.tokens, std::max({m.hidden, m.intermediate, m.heads * m.head_dim}));
    qkv.resize(rows * (m.heads + 2 * m.kv_heads) * m.head_dim);
    attended.resize(rows * m.heads * m.head_dim);
    intermediate.resize(rows * m.intermediate);
    output.resize(rows * m.hidden);
    low.resize(rows * p.active.width());
    updated.assign(rows, 0);
    update_width = std::max((m.heads + 2 * m.kv_heads) * m.head_dim, 2 * m.intermediate);
    if (p.active.codes) updates.resize(rows * update_width);
    runs.clear();
    for (int row = 0; row < p.tokens; ++row) {
      const bool continues = row > 0 && runs.back().tokens < kQueryTile &&
                             p.slots[row] == p.slots[row - 1] &&
                             p.positions[row] == p.positions[row - 1] + 1;
      if (continues)
        ++runs.back().tokens;
      else
        runs.push_back({row, 1});
    }
  }
  float* update(int row) { return updates.data() + row * update_width; }
  QuantizedRows rows() { return {codes.data(), scales.data(), sums.data(), offsets.data()}; }
};

// Root-mean-square norm (arXiv 1910.07467) of `x`, written to `out`.
inline void norm(const float* x, const float* gains, float epsilon, int size, float* out) {
  Floats squares = splat(0);
  for (int i = 0; i < size; i += kLanes) {
    const Floats v = load(x + i, size - i);
    squares = multiply_add(v, v, squares);
  }
  const float mean = sum_of_lanes(squares) / static_cast<float>(size);
  const Floats factor = splat(1 / std::sqrt(mean + epsilon));
  for (int i = 0; i < size; i += kLanes) {
    const Floats v = multiply(load(x + i, size - i), factor);
    store(out + i, size - i, multiply(v, load(gains + i, size - i)));
  }
}

// Rotary embedding of one head (arXiv 2104.09864, half-split form), written to `out`.
template <typename E>
void rotate(const float* x, const float* cosines, const float* sines, int head_dim, E* out) {
  const int half = head_dim / 2;
  for (int i = 0; i < half; i += kLanes) {
    const int left = half - i;
    const Floats low = load(x + i, left), high = load(x + half + i, left);
    const auto rotated = [&](int at, Floats own, Floats other) {
      return multiply_add(other, load(sines + at, left), multiply(own, load(cosines + at, left)));
    };
    store(out + i, left, rotated(i, low, high));
    store(out + half + i, left, rotated(half + i, high, low));
  }
}

// Copies one head of `x` to `out`.
template <typename E>
void copy_head(const float* x, int head_dim, E* out) {
  for (int i = 0; i < head_dim; i += kLanes)
    store(out + i, head_dim - i, load(x + i, head_dim - i));
}

// Adds the biases of a row `qkv [heads + 2 kv_heads, head_dim]` and norms its queries and keys.
inline void bias_and_norm_heads(const Model& m, const Layer& layer, float* qkv) {
  const int size = (m.heads + 2 * m.kv_heads) * m.head_dim;
  if (layer.qkv_bias)
    for (int i = 0; i < size; ++i) qkv[i] += layer.qkv_bias[i];
  if (!layer.query_gain) return;
  if (m.joint_norm) {
    const int queries = m.heads * m.head_dim;
    norm(qkv, layer.query_gain, m.epsilon, queries, qkv);
    norm(qkv + queries, layer.key_gain, m.epsilon, m.kv_heads * m.head_dim, qkv + queries);
    return;
  }
  for (int h = 0; h < m.heads + m.kv_heads; ++h, qkv += m.head_dim)
    norm(qkv, h < m.heads ? layer.query_gain : layer.key_gain, m.epsilon, m.head_dim, qkv);
}

// Completes queries in place and writes keys and values to the KV cache: low-rank updates, biases,
// norms, rotation.
template <typename E>
void complete_and_store(const Model& m, const ForwardPass& p, int index, Buffers& b) {
  const Layer& layer = m.layers[index];
  const int stride = (m.heads + 2 * m.kv_heads) * m.head_dim;
#pragma omp for schedule(static)
  for (int row = 0; row < p.tokens; ++row) {
    float* row_qkv = b.qkv.data() + static_cast<int64_t>(row) * stride;
    if (b.updated[row])
      for (int i = 0; i < stride; ++i) row_qkv[i] += b.update(row)[i];
    bias_and_norm_heads(m, layer, row_qkv);
    const int64_t at = static_cast<int64_t>(p.positions[row]) * m.head_dim;
    const int64_t angle = static_cast<int64_t>(p.angles[row]) * m.head_dim;
    const float* cosines = (layer.window_angles ? p.window_cosines : p.cosines) + angle;
    const float* sines = (layer.window_angles ? p.window_sines : p.sines) + angle;
    if (layer.rotated)
      for (int h = 0; h < m.heads; ++h)
        rotate(row_qkv + h * m.head_dim, cosines, sines, m.head_dim, row_qkv + h * m.head_dim);
    row_qkv += m.heads * m.head_dim;
    const int64_t begin = index * p.layer_stride + p.slots[row] * p.slot_stride + at;
    for (int h = 0; h < m.kv_heads; ++h, row_qkv += m.head_dim) {
      E* to = static_cast<E*>(p.keys) + begin + h * p.head_stride;
      if (layer.rotated)
        rotate(row_qkv, cosines, sines, m.head_dim, to);
      else
        copy_head(row_qkv, m.head_dim, to);
    }
    for (int h = 0; h < m.kv_heads; ++h, row_qkv += m.head_dim)
      copy_head(row_qkv, m.head_dim, static_cast<E*>(p.values) + begin + h * p.head_stride);
  }
}

template <typename E>
void attend_layer(const Model& m, const ForwardPass& p, int layer, Buffers& b) {
  const int query_heads_per_key = m.heads / m.kv_heads;
  const int stride = (m.heads + 2 * m.kv_heads) * m.head_dim;
  const int tasks = static_cast<int>(b.runs.size()) * m.kv_heads;
#pragma omp for schedule(dynamic, 1)
  for (int task = 0; task < tasks; ++task) {
    // In reverse, so that long runs start first: a long one that starts last would leave the other
    // threads idle.
    const TokenRun& run = b.runs[b.runs.size() - 1 - task / m.kv_heads];
    const int kv_head = task % m.kv_heads;
    const int64_t head = static_cast<int64_t>(kv_head) * query_heads_per_key * m.head_dim;
    const int64_t begin =
        layer * p.layer_stride + p.slots[run.row] * p.slot_stride + kv_head * p.head_stride;
    const int64_t out = static_cast<int64_t>(m.heads) * m.head_dim;
    const AttentionQuery query{b.qkv.data() + static_cast<int64_t>(run.row) * stride + head,
                               stride,
                               run.tokens,
                               query_heads_per_key,
                               m.head_dim,
                               p.positions[run.row] + 1,
                               m.layers[layer].window,
                               m.attention_scale,
                               m.attention_cap,
                               b.attended.data() + run.row * out + head,
                               out};
    attend(query, static_cast<const E*>(p.keys) + begin, static_cast<const E*>(p.values) + begin);
  }
}

// Adds the pending low-rank update of the previous site, then norms and quantizes each row; without
// gains the row is quantized as it is. The updates of the sites that read the row are computed too.
inline void add_norm_quantize(const Model& m, const ForwardPass& p, const Site* site,
                              const float* gains, const SiteGroup& readers, Buffers& b) {
  const bool adapted = p.active.codes && readers.present();
  static thread_local std::vector<float> normed;
  normed.resize(m.hidden);
#pragma omp for schedule(static)
  for (int row = 0; row < p.tokens; ++row) {
    float* state = p.state + static_cast<int64_t>(row) * m.hidden;
    if (site) add_projected_up(*site, p.active, row, b.low.data(), m.hidden, state);
    if (gains) norm(state, gains, m.epsilon, m.hidden, normed.data());
    const float* x = gains ? normed.data() : state;
    quantize(x, m.hidden, row, p.tokens, b.rows());
    b.updated[row] =
        adapted && update_row(readers, p.active, row, x, m.hidden, b.low.data(), b.update(row));
  }
}

// Quantizes `x [tokens, size]` and computes the down projections of the site that reads it.
inline void quantize_and_project(const ForwardPass& p, const Site& site, const float* x, int size,
                                 Buffers& b) {
#pragma omp for schedule(static)
  for (int row = 0; row < p.tokens; ++row) {
    const float* row_x = x + static_cast<int64_t>(row) * size;
    quantize(row_x, size, row, p.tokens, b.rows());
    project_down(site, p.active, row, row_x, size, b.low.data());
  }
}

// Multiplies the quantized rows by `matrix` and adds the product to the state, or writes it to
// `b.output` where it is changed before it is added; prefetches `ahead`.
template <typename Ahead>
void add_matmul(const Model& m, const ForwardPass& p, const Matrix& matrix, bool apart,
                const Ahead& ahead, Buffers& b) {
  float* target = apart ? b.output.data() : p.state;
  matmul(matrix, b.rows(), p.tokens, ahead, [&](int block, int row, int count, const Tile& tile) {
    const int first = block * kLanes, left = m.hidden - first;
    for (int r = 0; r < count; ++r) {
      float* to = target + static_cast<int64_t>(row + r) * m.hidden + first;
      store(to, left, add(apart ? splat(0) : load(to, left), load(tile[r])));
    }
  });
}

// Completes `b.output` by the site's low-rank update and its norm, and adds it to the state.
inline void add_output(const Model& m, const ForwardPass& p, const Site& site, const float* gains,
                       Buffers& b) {
  const Floats factor = splat(m.residual);
#pragma omp for schedule(static)
  for (int row = 0; row < p.tokens; ++row) {
    float* output = b.output.data() + static_cast<int64_t>(row) * m.hidden;
    float* state = p.state + static_cast<int64_t>(row) * m.hidden;
    add_projected_up(site, p.active, row, b.low.data(), m.hidden, output);
    if (gains) norm(output, gains, m.epsilon, m.hidden, output);
    for (int i = 0; i < m.hidden; i += kLanes) {
      const int left = m.hidden - i;
      store(state + i, left, multiply_add(factor, load(output + i, left), load(state + i, left)));
    }
  }
}

// Argument of the sigmoid in the gate's activation: g for SiLU; for GELU in its tanh form
// (arXiv 1606.08415) 2 sqrt(2 / pi) (g + 0.044715 g^3).
inline Floats sigmoid_argument(Floats g, bool gelu) {
  if (!gelu) return g;
  const Floats cubic = multiply(splat(0.044715f), multiply(g, g));
  return multiply(splat(1.595769122f), multiply_add(cubic, g, g));
}

// SwiGLU or GeGLU (arXiv 2002.05202): activation(gate) * up, both from one matrix.
template <typename Ahead>
void gated_unit(const Model& m, const ForwardPass& p, const Matrix& matrix, const Ahead& ahead,
                Buffers& b) {
#pragma omp for schedule(static)
  for (int pair = 0; pair < matrix.blocks() / 2; ++pair) {
    alignas(64) Tile gates, ups;
    for (int row = 0; row < p.tokens; row += kRows) {
      const int count = std::min(kRows, p.tokens - row);
      const QuantizedRows x = b.rows().block(row / kRows, matrix.groups());
      tile(matrix, 2 * pair, x, count, ahead(matrix.groups()), gates);
      tile(matrix, 2 * pair + 1, x, count, ahead(matrix.groups()), ups);
      for (int r = 0; r < count; ++r) {
        Floats g = load(gates[r]), up = load(ups[r]);
        if (b.updated[row + r]) {
          const float* update = b.update(row + r) + pair * kLanes;
          g = add(g, load(update));
          up = add(up, load(update + m.intermediate));
        }
        const Floats falling = subtract(splat(0), sigmoid_argument(g, m.gelu));
        const Floats activated = divide(g, add(splat(1), exponential(falling)));
        store(
            b.intermediate.data() + static_cast<int64_t>(row + r) * m.intermediate + pair * kLanes,
            multiply(activated, up));
      }
    }
  }
}

// Lists the factors that a thread's rows read, in four stages for each layer: before each product.
inline void list_factors(const Model& m, const ForwardPass& p, FactorStream& factors) {
  factors.clear();
  if (!p.active.codes) return;
  // The rows that a static schedule gives to this thread.
  const int threads = omp_get_num_threads(), thread = omp_get_thread_num();
  const int share = p.tokens / threads, longer = p.tokens % threads;
  const int first = thread * share + std::min(thread, longer);
  const int last = first + share + (thread < longer);
  int64_t groups = 0;
  for (int index = p.first; index < p.last; ++index) {
    const Layer& layer = m.layers[index];
    const auto add = [&](const Site& site, int inputs, bool down, bool up) {
      factors.add(site, p.active, first, last, inputs, down, up);
    };
    if (index > p.first) add(m.layers[index - 1].down_site, m.intermediate, false, true);
    for (const Site& site : layer.qkv_sites) add(site, m.hidden, true, true);
    factors.end_stage();
    add(layer.out_site, m.heads * m.head_dim, true, false);
    factors.end_stage();
    add(layer.out_site, m.heads * m.head_dim, false, true);
    for (const Site& site : layer.gate_up_sites) add(site, m.hidden, true, true);
    factors.end_stage();
    add(layer.down_site, m.intermediate, true, false);
    factors.end_stage();
    for (const Matrix* matrix : {&layer.qkv, &layer.out, &layer.gate_up, &layer.down})
      groups += static_cast<int64_t>(matrix->blocks()) * matrix->groups();
  }
  factors.spread_over(groups * ((p.tokens + kRows - 1) / kRows) / threads);
}

inline void run(const Model& m, const ForwardPass& p) {
  static thread_local Buffers buffers;
  Buffers& b = buffers;
  b.reserve(m, p);
  const int attended = m.heads * m.head_dim, qkv = attended + 2 * m.kv_heads * m.head_dim;
#pragma omp parallel num_threads(p.threads)
  {
    static thread_local FactorStream factors;
    list_factors(m, p, factors);
    const MatrixUnit unit(p.tokens);
    const auto ahead = [&](int groups) { return factors.take(groups); };
    std::size_t stage = 0;
    const Site* previous_site = nullptr;
    for (int index = p.first; index < p.last; ++index) {
      const Layer& layer = m.layers[index];
      add_norm_quantize(m, p, previous_site, layer.attention_gain, {layer.qkv_sites, 3, qkv}, b);
      factors.finish(stage++);
      const auto store_qkv = [&](int block, int row, int count, const Tile& tile) {
        const int first = block * kLanes, left = std::min(kLanes, qkv - first);
        for (int r = 0; r < count; ++r)
          std::memcpy(b.qkv.data() + static_cast<int64_t>(row + r) * qkv + first, tile[r],
                      left * sizeof(float));
      };
      matmul(layer.qkv, b.rows(), p.tokens, ahead, store_qkv);
      if (p.float16_cache) {
        complete_and_store<uint16_t>(m, p, index, b);
        attend_layer<uint16_t>(m, p, index, b);
      } else {
        complete_and_store<float>(m, p, index, b);
        attend_layer<float>(m, p, index, b);
      }
      quantize_and_project(p, layer.out_site, b.attended.data(), attended, b);
      factors.finish(stage++);
      const bool attention_apart = m.residual != 1 || layer.attention_output_gain;
      add_matmul(m, p, layer.out, attention_apart, ahead, b);
      if (attention_apart) add_output(m, p, layer.out_site, layer.attention_output_gain, b);
      add_norm_quantize(m, p, attention_apart ? nullptr : &layer.out_site, layer.mlp_gain,
                        {layer.gate_up_sites, 2, 2 * m.intermediate}, b);
      factors.finish(stage++);
      gated_unit(m, p, layer.gate_up, ahead, b);
      quantize_and_project(p, layer.down_site, b.intermediate.data(), m.intermediate, b);
      factors.finish(stage++);
      const bool mlp_apart = m.residual != 1 || layer.mlp_output_gain;
      add_matmul(m, p, layer.down, mlp_apart, ahead, b);
      if (mlp_apart) add_output(m, p, layer.down_site, layer.mlp_output_gain, b);
      previous_site = mlp_apart ? nullptr : &layer.down_site;
    }
    if (previous_site) {
#pragma omp for schedule(static)
      for (int row = 0; row < p.tokens; ++row)
        add_projected_up(*previous_site, p.active, row, b.low.data(), m.hidden,
                         p.state + static_cast<int64_t>(row) * m.hidden);
    }
  }
}

}  // namespace bem
