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
constexpr int kTransposedFrom = 4;  // queries that pay for the transposition of a tile
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
  const auto products = [&](int j) {
    Floats sum = splat(0);
#pragma GCC unroll 16
    for (int c = 0; c < Chunks; ++c)
      sum = multiply_add(
          query[c], load(keys + j * head_dim + kLanes * c, c + 1 < Chunks ? kLanes : last), sum);
    return sum;
  };
  Floats partial[kLanes];
  if (count >= kLanes) {
#pragma GCC unroll 16
    for (int j = 0; j < kLanes; ++j) partial[j] = products(j);
    return horizontal_sums(partial);
  }
  for (int j = 0; j < kLanes; ++j) partial[j] = j < count ? products(j) : splat(0);
  return keep_lanes(horizontal_sums(partial), 0, count, splat(-INFINITY));
}

// Bounded scores c tanh(x / c) (arXiv 2408.00118).
inline Floats capped(Floats x, float cap) {
  const Floats grown = exponential(multiply(x, splat(2 / cap)));
  const Floats tanh = subtract(splat(1), divide(splat(2), add(grown, splat(1))));
  return multiply(tanh, splat(cap));
}

// Writes `count` keys to `to [Chunks * 16, kKeyTile]`, a position a lane; what is beyond them or
// beyond the head is 0.
template <int Chunks, typename E>
void transpose_keys(const E* keys, int count, int head_dim, float* to) {
  for (int at = 0; at < count; at += kLanes)
    for (int c = 0; c < Chunks; ++c) {
      Floats block[kLanes];
      for (int j = 0; j < kLanes; ++j)
        block[j] = at + j < count
                       ? load(keys + (at + j) * head_dim + kLanes * c, head_dim - kLanes * c)
                       : splat(0);
      transpose(block);
      for (int l = 0; l < kLanes; ++l) store(to + (kLanes * c + l) * kKeyTile + at, block[l]);
    }
}

// Sums of one lane over the chunks, of Queries queries and 16 transposed keys.
template <int Chunks, int Queries>
[[gnu::always_inline]] inline void sums_of_lane(const float* queries, const float* keys,
                                                Floats (&sum)[Queries]) {
#pragma GCC unroll 16
  for (int q = 0; q < Queries; ++q) sum[q] = splat(0);
#pragma GCC unroll 16
  for (int c = 0; c < Chunks; ++c) {
    const Floats key = load(keys + kLanes * c * kKeyTile);
#pragma GCC unroll 16
    for (int q = 0; q < Queries; ++q)
      sum[q] = multiply_add(splat(queries[(q * Chunks + c) * kLanes]), key, sum[q]);
  }
}

// Scores of Queries queries over 16 transposed keys. The sums are those of `score` in its order:
// each lane over the chunks, then the lanes as `horizontal_sums` adds them.
template <int Chunks, int Queries>
void scores_of_lanes(const float* queries, const float* keys, Floats (&found)[Queries]) {
  Floats four[4][Queries];
  for (int f = 0; f < 4; ++f, queries += 4, keys += 4 * kKeyTile) {
    Floats sum[4][Queries];
#pragma GCC unroll 4
    for (int l = 0; l < 4; ++l) sums_of_lane<Chunks>(queries + l, keys + l * kKeyTile, sum[l]);
#pragma GCC unroll 16
    for (int q = 0; q < Queries; ++q)
      four[f][q] = add(add(sum[0][q], sum[2][q]), add(sum[1][q], sum[3][q]));
  }
  for (int q = 0; q < Queries; ++q)
    found[q] = add(add(four[0][q], four[1][q]), add(four[2][q], four[3][q]));
}

// Scores of neighbouring queries from `first` on over a tile of transposed keys that begins at
// position `begin`.
template <int Chunks, int Queries>
void scores_of_tile(const AttentionQuery& a, int first, const float* queries, const float* keys,
                    int begin, int tile_keys, float* scores) {
  const auto end = [&](int q) {
    return std::min(tile_keys, a.visible((first + q) / a.heads) - begin);
  };
  for (int at = 0; at < end(Queries - 1); at += kLanes) {
    Floats found[Queries];
    scores_of_lanes<Chunks, Queries>(queries, keys + at, found);
    for (int q = 0; q < Queries; ++q) {
      if (at >= end(q)) continue;
      const Floats bounded = a.cap != 0 ? capped(found[q], a.cap) : found[q];
      store(scores + static_cast<int64_t>(first + q) * a.row_size() + begin + at,
            keep_lanes(bounded, 0, end(q) - at, splat(-INFINITY)));
    }
  }
}

// Scores of all queries over the keys that they see, `scores [token, head, row_size()]`. Keys that
// many queries read are transposed before, so that no query adds up lanes.
template <int Chunks, typename E>
void scores_all(const AttentionQuery& a, const E* keys, float* scratch, float* scores) {
  constexpr int kWidth = Chunks * kLanes;
  const int last = a.head_dim - kLanes * (Chunks - 1), count = a.tokens * a.heads;
  const bool transposed = count >= kTransposedFrom;
  static thread_local std::vector<float> queries;
  queries.resize(static_cast<std::size_t>(count) * kWidth);
  for (int index = 0; index < count; ++index) {
    const float* from = a.queries + index / a.heads * a.stride + index % a.heads * a.head_dim;
    for (int c = 0; c < Chunks; ++c)
      store(queries.data() + index * kWidth + kLanes * c,
            multiply(splat(a.scale), load(from + kLanes * c, c + 1 < Chunks ? kLanes : last)));
  }
  for (int begin = a.first_tile(); begin < a.visible(a.tokens - 1); begin += kKeyTile) {
    const int tile_keys = std::min(kKeyTile, a.visible(a.tokens - 1) - begin);
    const E* of_tile = keys + static_cast<int64_t>(begin) * a.head_dim;
    if (transposed) {
      transpose_keys<Chunks>(of_tile, tile_keys, a.head_dim, scratch);
      int first = 0;
      for (; first + kSharedQueries <= count; first += kSharedQueries)
        scores_of_tile<Chunks, kSharedQueries>(a, first, queries.data() + first * kWidth, scratch,
                                               begin, tile_keys, scores);
      for (; first < count; ++first)
        scores_of_tile<Chunks, 1>(a, first, queries.data() + first * kWidth, scratch, begin,
                                  tile_keys, scores);
      continue;
    }
    const float* tile = to_float32(of_tile, tile_keys, a.head_dim, scratch);
    for (int index = 0; index < count; ++index) {
      Floats query[Chunks];
      for (int c = 0; c < Chunks; ++c)
        query[c] = load(queries.data() + index * kWidth + kLanes * c);
      const int end = std::min(tile_keys, a.visible(index / a.heads) - begin);
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

// Adds `count` values times their weights `[Heads, row_size]` to `out [Heads, head_dim]`. All loops
// over sums are unrolled: GCC would keep an array in memory and store it with each value.
template <int Chunks, int Heads>
void accumulate(const float* scores, int row_size, const float* values, int count, int head_dim,
                int last, float* out) {
  const auto lanes = [&](int chunk) { return chunk + 1 < Chunks ? kLanes : last; };
  Floats sum[Heads][Chunks];
#pragma GCC unroll 16
  for (int h = 0; h < Heads; ++h)
#pragma GCC unroll 16
    for (int c = 0; c < Chunks; ++c) sum[h][c] = load(out + h * head_dim + kLanes * c, lanes(c));
  for (int j = 0; j < count; ++j) {
#pragma GCC unroll 16
    for (int c = 0; c < Chunks; ++c) {
      const Floats value = load(values + j * head_dim + kLanes * c, lanes(c));
#pragma GCC unroll 16
      for (int h = 0; h < Heads; ++h)
        sum[h][c] = multiply_add(splat(scores[h * row_size + j]), value, sum[h][c]);
    }
  }
#pragma GCC unroll 16
  for (int h = 0; h < Heads; ++h)
#pragma GCC unroll 16
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
