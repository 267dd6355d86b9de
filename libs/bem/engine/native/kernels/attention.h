// Attention of neighbouring tokens of one slot, for the query heads that share keys: each tile of
// keys and values is read once for all of them. The order in which a token's terms are summed does
// not depend on its neighbours, so that results are the same in any batch.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace bem {

inline __m512 load16(const float* from, __mmask16 mask) {
  return _mm512_maskz_loadu_ps(mask, from);
}
inline __m512 load16(const uint16_t* from, __mmask16 mask) {  // float16
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, from));
}
inline void store16(float* to, __mmask16 mask, __m512 x) {
  _mm512_mask_storeu_ps(to, mask, x);
}
inline void store16(uint16_t* to, __mmask16 mask, __m512 x) {
  _mm256_mask_storeu_epi16(to, mask, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}

// Exponential by range reduction to a power of two and a polynomial of degree 6; relative error
// below 2e-7.
inline __m512 exponential(__m512 x) {
  x = _mm512_min_ps(_mm512_max_ps(x, _mm512_set1_ps(-87.3f)), _mm512_set1_ps(88.3f));
  const __m512 whole = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)),
                                            _MM_FROUND_TO_NEAREST_INT);
  __m512 rest = _mm512_fnmadd_ps(whole, _mm512_set1_ps(0.693359375f), x);
  rest = _mm512_fnmadd_ps(whole, _mm512_set1_ps(-2.12194440e-4f), rest);
  __m512 sum = _mm512_set1_ps(1.f / 720);
  for (float term : {1.f / 120, 1.f / 24, 1.f / 6, 0.5f, 1.f, 1.f})
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(term));
  return _mm512_scalef_ps(sum, whole);
}

// Horizontal sums of 16 vectors; lane i is the sum of v[i].
inline __m512 horizontal_sums(const __m512 (&v)[16]) {
  __m512 pair[8], four[4], eight[2];
  for (int i = 0; i < 8; ++i)
    pair[i] = _mm512_add_ps(_mm512_unpacklo_ps(v[2 * i], v[2 * i + 1]),
                            _mm512_unpackhi_ps(v[2 * i], v[2 * i + 1]));
  for (int i = 0; i < 4; ++i) {
    const __m512d a = _mm512_castps_pd(pair[2 * i]), b = _mm512_castps_pd(pair[2 * i + 1]);
    four[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)),
                            _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
  }
  for (int i = 0; i < 2; ++i)
    eight[i] = _mm512_add_ps(_mm512_shuffle_f32x4(four[2 * i], four[2 * i + 1], 0x88),
                             _mm512_shuffle_f32x4(four[2 * i], four[2 * i + 1], 0xDD));
  return _mm512_add_ps(_mm512_shuffle_f32x4(eight[0], eight[1], 0x88),
                       _mm512_shuffle_f32x4(eight[0], eight[1], 0xDD));
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
  int row_size() const { return (visible(tokens - 1) + 15) / 16 * 16; }
};

// Returns `count` rows as float32: the rows themselves, or a conversion of float16 in `scratch`.
inline const float* to_float32(const float* from, int, int, float*) {
  return from;
}
inline const float* to_float32(const uint16_t* from, int count, int head_dim, float* scratch) {
  const int size = count * head_dim;
  for (int i = 0; i < size; i += 16) {
    const __mmask16 mask = size - i >= 16 ? 0xFFFF : (1u << (size - i)) - 1;
    store16(scratch + i, mask, load16(from + i, mask));
  }
  return scratch;
}

// Scores of one query over 16 keys; keys from `count` on are hidden and score minus infinity.
template <int Chunks>
__m512 score(const __m512 (&query)[Chunks], const float* keys, int count, int head_dim,
             __mmask16 last) {
  __m512 partial[16];
  for (int j = 0; j < 16; ++j) {
    partial[j] = _mm512_setzero_ps();
    if (j >= count) continue;
    for (int c = 0; c < Chunks; ++c)
      partial[j] = _mm512_fmadd_ps(
          query[c], load16(keys + j * head_dim + 16 * c, c + 1 < Chunks ? 0xFFFF : last),
          partial[j]);
  }
  const __mmask16 visible = count >= 16 ? 0xFFFF : (1u << count) - 1;
  return _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), visible, horizontal_sums(partial));
}

// Lanes of 16 positions from `begin` on that are in [first, last).
inline __mmask16 lanes_within(int begin, int first, int last) {
  const int low = std::clamp(first - begin, 0, 16), high = std::clamp(last - begin, 0, 16);
  return low < high ? static_cast<__mmask16>(((1u << high) - 1) & ~((1u << low) - 1)) : 0;
}

// Bounded scores c tanh(x / c) (arXiv 2408.00118).
inline __m512 capped(__m512 x, float cap) {
  const __m512 one = _mm512_set1_ps(1), two = _mm512_set1_ps(2);
  const __m512 grown = exponential(_mm512_mul_ps(x, _mm512_set1_ps(2 / cap)));
  const __m512 tanh = _mm512_sub_ps(one, _mm512_div_ps(two, _mm512_add_ps(grown, one)));
  return _mm512_mul_ps(tanh, _mm512_set1_ps(cap));
}

// Scores of all queries over the keys that they see, `scores [token, head, row_size()]`.
template <int Chunks, typename E>
void scores_all(const AttentionQuery& a, const E* keys, float* scratch, float* scores) {
  const __mmask16 last = (1u << (a.head_dim - 16 * (Chunks - 1))) - 1;
  const __m512 scale = _mm512_set1_ps(a.scale);
  for (int begin = a.first_tile(); begin < a.visible(a.tokens - 1); begin += kKeyTile) {
    const int tile_keys = std::min(kKeyTile, a.visible(a.tokens - 1) - begin);
    const float* tile =
        to_float32(keys + static_cast<int64_t>(begin) * a.head_dim, tile_keys, a.head_dim, scratch);
    for (int index = 0; index < a.tokens * a.heads; ++index) {
      const int token = index / a.heads;
      const float* from = a.queries + token * a.stride + index % a.heads * a.head_dim;
      __m512 query[Chunks];
      for (int c = 0; c < Chunks; ++c)
        query[c] = _mm512_mul_ps(scale, load16(from + 16 * c, c + 1 < Chunks ? 0xFFFF : last));
      const int end = std::min(tile_keys, a.visible(token) - begin);
      for (int at = 0; at < end; at += 16) {
        __m512 found =
            score<Chunks>(query, tile + at * a.head_dim, std::min(16, end - at), a.head_dim, last);
        if (a.cap != 0) found = capped(found, a.cap);
        _mm512_storeu_ps(scores + static_cast<int64_t>(index) * a.row_size() + begin + at, found);
      }
    }
  }
}

// Softmax numerators of the scores [first, last) in place; returns the reciprocal of their sum.
inline float softmax_weights(float* scores, int first, int last) {
  const __m512 hidden = _mm512_set1_ps(-INFINITY);
  __m512 largest = hidden, sum = _mm512_setzero_ps();
  for (int i = first / 16 * 16; i < last; i += 16)
    largest = _mm512_max_ps(largest, _mm512_mask_mov_ps(hidden, lanes_within(i, first, last),
                                                        _mm512_loadu_ps(scores + i)));
  largest = _mm512_set1_ps(_mm512_reduce_max_ps(largest));
  for (int i = first / 16 * 16; i < last; i += 16) {
    const __mmask16 visible = lanes_within(i, first, last);
    const __m512 weight = _mm512_maskz_mov_ps(
        visible, exponential(_mm512_sub_ps(_mm512_loadu_ps(scores + i), largest)));
    _mm512_storeu_ps(scores + i, weight);
    sum = _mm512_add_ps(sum, weight);
  }
  return 1 / _mm512_reduce_add_ps(sum);
}

// Adds `count` values times their weights `[Heads, row_size]` to `out [Heads, head_dim]`.
template <int Chunks, int Heads>
void accumulate(const float* scores, int row_size, const float* values, int count, int head_dim,
                __mmask16 last, float* out) {
  __m512 sum[Heads][Chunks];
  for (int h = 0; h < Heads; ++h)
    for (int c = 0; c < Chunks; ++c)
      sum[h][c] = load16(out + h * head_dim + 16 * c, c + 1 < Chunks ? 0xFFFF : last);
  for (int j = 0; j < count; ++j)
    for (int c = 0; c < Chunks; ++c) {
      const __m512 value = load16(values + j * head_dim + 16 * c, c + 1 < Chunks ? 0xFFFF : last);
      for (int h = 0; h < Heads; ++h)
        sum[h][c] = _mm512_fmadd_ps(_mm512_set1_ps(scores[h * row_size + j]), value, sum[h][c]);
    }
  for (int h = 0; h < Heads; ++h)
    for (int c = 0; c < Chunks; ++c)
      store16(out + h * head_dim + 16 * c, c + 1 < Chunks ? 0xFFFF : last, sum[h][c]);
}

template <int Chunks, typename E>
void accumulate_all(const AttentionQuery& a, const float* scores, const E* values, float* scratch) {
  const __mmask16 last = (1u << (a.head_dim - 16 * (Chunks - 1))) - 1;
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
        const bool three = Chunks <= 4 && a.heads - head >= 3;
        if (three)
          accumulate<Chunks, 3>(weights, a.row_size(), seen, count, a.head_dim, last, out);
        else
          accumulate<Chunks, 1>(weights, a.row_size(), seen, count, a.head_dim, last, out);
        head += three ? 3 : 1;
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
