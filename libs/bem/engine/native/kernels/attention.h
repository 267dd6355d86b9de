// Attention of neighbouring tokens of one slot, for the query heads that share keys: each tile of
// keys and values is read once for all of them. The order in which a token's terms are summed does
// not depend on its neighbours, so that results are the same in any batch.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "vectors.h"

namespace bem {

// Exponential by range reduction to a power of two and a polynomial of degree 6; relative error
// below 2e-7. What is not a number gives the smallest result.
inline Floats exponential(Floats x) {
  x = smaller(larger(x, splat(-87.3f)), splat(88.3f));
  const Floats whole = round_to_even(multiply(x, splat(1.44269504f)));
  Floats rest = subtract_product(x, whole, splat(0.693359375f));
  rest = subtract_product(rest, whole, splat(-2.12194440e-4f));
  Floats sum = splat(1.f / 720);
  for (float term : {1.f / 120, 1.f / 24, 1.f / 6, 0.5f, 1.f, 1.f})
    sum = multiply_add(sum, rest, splat(term));
  return times_power_of_two(sum, whole);
}

constexpr int kKeyTile = 64;   // positions that all queries read while they are in the L1 cache
constexpr int kQueryTile = 8;  // neighbouring tokens that share a tile
constexpr int kMaxHeadDim = 256;

// Queries of neighbouring tokens of one slot, for the heads that share keys.
struct AttentionQuery {
  const float* queries;  // [heads, head_dim] of the first token
  int64_t stride;        // elements between the queries of two tokens
  int tokens, heads, head_dim;
  int length;  // first position that the first token does not see; each next token sees one more
  int window;  // positions that a token sees at most; 0 for no limit
  float scale, cap;  // factor of the products, and their bound c tanh(x / c); 0 for no bound
  float* out;        // [heads, head_dim] of the first token
  int64_t out_stride;

  int visible(int token) const { return length + token; }
  int first_visible(int token) const { return window ? std::max(0, visible(token) - window) : 0; }
  int first_tile() const { return first_visible(0) / kKeyTile * kKeyTile; }
  int row_size() const { return (visible(tokens - 1) + kLanes - 1) / kLanes * kLanes; }
};

// Returns `count` rows as float32: the rows themselves, or a conversion of float16 in `scratch`.
inline const float* to_float32(const float* from, int, int, float*) {
  return from;
}
inline const float* to_float32(const uint16_t* from, int count, int head_dim, float* scratch) {
  const int size = count * head_dim;
  for (int i = 0; i < size; i += kLanes) store(scratch + i, size - i, load(from + i, size - i));
  return scratch;
}

// Scores of one query over 16 keys; keys from `count` on are hidden and score minus infinity.
template <int Chunks>
Floats score(const Floats (&query)[Chunks], const float* keys, int count, int head_dim, int last) {
  Floats partial[kLanes];
  for (int j = 0; j < kLanes; ++j) {
    partial[j] = splat(0);
    if (j >= count) continue;
    for (int c = 0; c < Chunks; ++c)
      partial[j] = multiply_add(
          query[c], load(keys + j * head_dim + kLanes * c, c + 1 < Chunks ? kLanes : last),
          partial[j]);
  }
  return keep_lanes(horizontal_sums(partial), 0, count, splat(-INFINITY));
}

// Bounded scores c tanh(x / c) (arXiv 2408.00118).
inline Floats capped(Floats x, float cap) {
  const Floats grown = exponential(multiply(x, splat(2 / cap)));
  const Floats tanh = subtract(splat(1), divide(splat(2), add(grown, splat(1))));
  return multiply(tanh, splat(cap));
}

// Scores of all queries over the keys that they see, `scores [token, head, row_size()]`.
template <int Chunks, typename E>
void scores_all(const AttentionQuery& a, const E* keys, float* scratch, float* scores) {
  const int last = a.head_dim - kLanes * (Chunks - 1);
  const Floats scale = splat(a.scale);
  for (int begin = a.first_tile(); begin < a.visible(a.tokens - 1); begin += kKeyTile) {
    const int tile_keys = std::min(kKeyTile, a.visible(a.tokens - 1) - begin);
    const float* tile =
        to_float32(keys + static_cast<int64_t>(begin) * a.head_dim, tile_keys, a.head_dim, scratch);
    for (int index = 0; index < a.tokens * a.heads; ++index) {
      const int token = index / a.heads;
      const float* from = a.queries + token * a.stride + index % a.heads * a.head_dim;
      Floats query[Chunks];
      for (int c = 0; c < Chunks; ++c)
        query[c] = multiply(scale, load(from + kLanes * c, c + 1 < Chunks ? kLanes : last));
      const int end = std::min(tile_keys, a.visible(token) - begin);
      for (int at = 0; at < end; at += kLanes) {
        Floats found = score<Chunks>(query, tile + at * a.head_dim, std::min(kLanes, end - at),
                                     a.head_dim, last);
        if (a.cap != 0) found = capped(found, a.cap);
        store(scores + static_cast<int64_t>(index) * a.row_size() + begin + at, found);
      }
    }
  }
}

// Softmax numerators of the scores [first, last) in place; returns the reciprocal of their sum.
inline float softmax_weights(float* scores, int first, int last) {
  const int begin = first / kLanes * kLanes;
  const Floats hidden = splat(-INFINITY);
  Floats largest = hidden, sum = splat(0);
  for (int i = begin; i < last; i += kLanes)
    largest = larger(largest, keep_lanes(load(scores + i), first - i, last - i, hidden));
  largest = splat(largest_lane(largest));
  for (int i = begin; i < last; i += kLanes) {
    const Floats weight =
        keep_lanes(exponential(subtract(load(scores + i), largest)), first - i, last - i, splat(0));
    store(scores + i, weight);
    sum = add(sum, weight);
  }
  return 1 / sum_of_lanes(sum);
}

// Adds `count` values times their weights `[Heads, row_size]` to `out [Heads, head_dim]`.
template <int Chunks, int Heads>
void accumulate(const float* scores, int row_size, const float* values, int count, int head_dim,
                int last, float* out) {
  const auto lanes = [&](int chunk) { return chunk + 1 < Chunks ? kLanes : last; };
  Floats sum[Heads][Chunks];
  for (int h = 0; h < Heads; ++h)
    for (int c = 0; c < Chunks; ++c) sum[h][c] = load(out + h * head_dim + kLanes * c, lanes(c));
  for (int j = 0; j < count; ++j)
    for (int c = 0; c < Chunks; ++c) {
      const Floats value = load(values + j * head_dim + kLanes * c, lanes(c));
      for (int h = 0; h < Heads; ++h)
        sum[h][c] = multiply_add(splat(scores[h * row_size + j]), value, sum[h][c]);
    }
  for (int h = 0; h < Heads; ++h)
    for (int c = 0; c < Chunks; ++c) store(out + h * head_dim + kLanes * c, lanes(c), sum[h][c]);
}

template <int Chunks, typename E>
void accumulate_all(const AttentionQuery& a, const float* scores, const E* values, float* scratch) {
  const int last = a.head_dim - kLanes * (Chunks - 1);
  for (int token = 0; token < a.tokens; ++token)
    std::fill_n(a.out + token * a.out_stride, a.heads * a.head_dim, 0.f);
  for (int begin = a.first_tile(); begin < a.visible(a.tokens - 1); begin += kKeyTile) {
    const int tile_keys = std::min(kKeyTile, a.visible(a.tokens - 1) - begin);
    const float* tile = to_float32(values + static_cast<int64_t>(begin) * a.head_dim, tile_keys,
                                   a.head_dim, scratch);
    for (int token = 0; token < a.tokens; ++token) {
      const int skip = std::max(0, a.first_visible(token) - begin);
      const int count = std::min(tile_keys, a.visible(token) - begin) - skip;
      if (count <= 0) continue;
      const float* seen = tile + skip * a.head_dim;
      for (int head = 0; head < a.heads;) {
        const float* weights =
            scores + static_cast<int64_t>(token * a.heads + head) * a.row_size() + begin + skip;
        float* out = a.out + token * a.out_stride + head * a.head_dim;
        const bool shared = Chunks <= 4 && a.heads - head >= kSharedHeads;
        if (shared)
          accumulate<Chunks, kSharedHeads>(weights, a.row_size(), seen, count, a.head_dim, last,
                                           out);
        else
          accumulate<Chunks, 1>(weights, a.row_size(), seen, count, a.head_dim, last, out);
        head += shared ? kSharedHeads : 1;
      }
    }
  }
}

template <int Chunks, typename E>
void attend_width(const AttentionQuery& a, const E* keys, const E* values) {
  static thread_local std::vector<float> scores;
  alignas(64) float scratch[kKeyTile * kMaxHeadDim];
  scores.resize(static_cast<std::size_t>(a.tokens) * a.heads * a.row_size());
  scores_all<Chunks>(a, keys, scratch, scores.data());
  float inverse[kQueryTile * 64];
  for (int index = 0; index < a.tokens * a.heads; ++index) {
    const int token = index / a.heads;
    inverse[index] = softmax_weights(scores.data() + static_cast<int64_t>(index) * a.row_size(),
                                     a.first_visible(token), a.visible(token));
  }
  accumulate_all<Chunks>(a, scores.data(), values, scratch);
  for (int index = 0; index < a.tokens * a.heads; ++index) {
    float* out = a.out + index / a.heads * a.out_stride + index % a.heads * a.head_dim;
    for (int i = 0; i < a.head_dim; ++i) out[i] *= inverse[index];
  }
}

// Attention of at most kQueryTile tokens and 64 heads of at most 128 each, or of 241 to 256. The
// head width is a template parameter in units of 16, so that queries and sums stay in registers.
template <typename E>
void attend(const AttentionQuery& a, const E* keys, const E* values) {
  const auto with = [&](auto chunks) { attend_width<decltype(chunks)::value>(a, keys, values); };
  if (a.head_dim <= 16) return with(std::integral_constant<int, 1>());
  if (a.head_dim <= 32) return with(std::integral_constant<int, 2>());
  if (a.head_dim <= 48) return with(std::integral_constant<int, 3>());
  if (a.head_dim <= 64) return with(std::integral_constant<int, 4>());
  if (a.head_dim <= 80) return with(std::integral_constant<int, 5>());
  if (a.head_dim <= 96) return with(std::integral_constant<int, 6>());
  if (a.head_dim <= 112) return with(std::integral_constant<int, 7>());
  if (a.head_dim <= 128) return with(std::integral_constant<int, 8>());
  return with(std::integral_constant<int, 16>());
}

}  // namespace bem
