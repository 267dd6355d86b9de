// Attention of neighbouring tokens over the positions of their slot, for the query heads that share
// keys: stretches of keys and values are read once for all of them. What a token sums, and in which
// order, does not depend on its neighbours.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace bem {

inline __m512 take16(const float* from, __mmask16 mask) {
  return _mm512_maskz_loadu_ps(mask, from);
}
inline __m512 take16(const uint16_t* from, __mmask16 mask) {  // float16
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, from));
}
inline void give16(float* to, __mmask16 mask, __m512 x) { _mm512_mask_storeu_ps(to, mask, x); }
inline void give16(uint16_t* to, __mmask16 mask, __m512 x) {
  _mm256_mask_storeu_epi16(to, mask, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}

// The exponential, by a polynomial of degree 6 around 0 and a power of two; error below 2e-7.
inline __m512 exponential(__m512 x) {
  x = _mm512_min_ps(_mm512_max_ps(x, _mm512_set1_ps(-87.3f)), _mm512_set1_ps(88.3f));
  const __m512 whole = _mm512_roundscale_ps(
      _mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT);
  __m512 rest = _mm512_fnmadd_ps(whole, _mm512_set1_ps(0.693359375f), x);
  rest = _mm512_fnmadd_ps(whole, _mm512_set1_ps(-2.12194440e-4f), rest);
  __m512 sum = _mm512_set1_ps(1.f / 720);
  for (float term : {1.f / 120, 1.f / 24, 1.f / 6, 0.5f, 1.f, 1.f})
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(term));
  return _mm512_scalef_ps(sum, whole);
}

// The sums of 16 vectors, in their order.
inline __m512 sums_of(const __m512 (&v)[16]) {
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

constexpr int kStretch = 64;    // positions that all queries pass while they are in the nearest cache
constexpr int kTogether = 8;    // neighbouring tokens that share them
constexpr int kWidest = 128;    // of a head

// Neighbouring tokens of one slot, and the query heads of each that share keys.
struct Asking {
  const float* queries;  // of the first token, [heads, width]
  int64_t stride;        // between tokens' queries
  int tokens, heads, width;
  int length;            // positions that the first one sees; the next one sees one more
  float* out;            // [heads, width] of the first token
  int64_t out_stride;

  int seen(int token) const { return length + token; }
  int room() const { return (seen(tokens - 1) + 15) / 16 * 16; }
};

// Returns `count` rows of width `width` as float32, in `room` if they are not already.
inline const float* widen(const float* from, int, int, float*) { return from; }
inline const float* widen(const uint16_t* from, int count, int width, float* room) {
  const int size = count * width;
  for (int i = 0; i < size; i += 16) {
    const __mmask16 mask = size - i >= 16 ? 0xFFFF : (1u << (size - i)) - 1;
    give16(room + i, mask, take16(from + i, mask));
  }
  return room;
}

// Scores of one query over up to 16 keys; those that it does not see are minus infinity.
template <int Chunks>
__m512 score(const __m512 (&query)[Chunks], const float* keys, int count, int width,
             __mmask16 last) {
  __m512 partial[16];
  for (int j = 0; j < 16; ++j) {
    partial[j] = _mm512_setzero_ps();
    if (j >= count) continue;
    for (int c = 0; c < Chunks; ++c)
      partial[j] = _mm512_fmadd_ps(
          query[c], take16(keys + j * width + 16 * c, c + 1 < Chunks ? 0xFFFF : last), partial[j]);
  }
  const __mmask16 seen = count >= 16 ? 0xFFFF : (1u << count) - 1;
  return _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), seen, sums_of(partial));
}

// Scores of all queries over all keys that they see, `scores [token, head, room]`.
template <int Chunks, typename E>
void score_all(const Asking& a, const E* keys, float* room, float* scores) {
  const __mmask16 last = (1u << (a.width - 16 * (Chunks - 1))) - 1;
  const __m512 scale = _mm512_set1_ps(1 / std::sqrt(static_cast<float>(a.width)));
  for (int begin = 0; begin < a.seen(a.tokens - 1); begin += kStretch) {
    const int held = std::min(kStretch, a.seen(a.tokens - 1) - begin);
    const float* near = widen(keys + static_cast<int64_t>(begin) * a.width, held, a.width, room);
    for (int one = 0; one < a.tokens * a.heads; ++one) {
      const int token = one / a.heads;
      const float* from = a.queries + token * a.stride + one % a.heads * a.width;
      __m512 query[Chunks];
      for (int c = 0; c < Chunks; ++c)
        query[c] =
            _mm512_mul_ps(scale, take16(from + 16 * c, c + 1 < Chunks ? 0xFFFF : last));
      const int end = std::min(held, a.seen(token) - begin);
      for (int at = 0; at < end; at += 16)
        _mm512_storeu_ps(
            scores + static_cast<int64_t>(one) * a.room() + begin + at,
            score<Chunks>(query, near + at * a.width, std::min(16, end - at), a.width, last));
    }
  }
}

// Turns `length` scores into exponentials over their largest; returns one over their sum.
inline float weigh(float* scores, int length) {
  __m512 largest = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps();
  for (int i = 0; i < length; i += 16)
    largest = _mm512_max_ps(largest, _mm512_loadu_ps(scores + i));
  largest = _mm512_set1_ps(_mm512_reduce_max_ps(largest));
  for (int i = 0; i < length; i += 16) {
    const __mmask16 seen = length - i >= 16 ? 0xFFFF : (1u << (length - i)) - 1;
    const __m512 weight = _mm512_maskz_mov_ps(
        seen, exponential(_mm512_sub_ps(_mm512_loadu_ps(scores + i), largest)));
    _mm512_storeu_ps(scores + i, weight);
    sum = _mm512_add_ps(sum, weight);
  }
  return 1 / _mm512_reduce_add_ps(sum);
}

// Adds `count` values by their weights, `scores [Heads, room]`, to `out [Heads, width]`.
template <int Chunks, int Heads>
void gather(const float* scores, int room, const float* values, int count, int width,
            __mmask16 last, float* out) {
  __m512 sum[Heads][Chunks];
  for (int h = 0; h < Heads; ++h)
    for (int c = 0; c < Chunks; ++c)
      sum[h][c] = take16(out + h * width + 16 * c, c + 1 < Chunks ? 0xFFFF : last);
  for (int j = 0; j < count; ++j)
    for (int c = 0; c < Chunks; ++c) {
      const __m512 value = take16(values + j * width + 16 * c, c + 1 < Chunks ? 0xFFFF : last);
      for (int h = 0; h < Heads; ++h)
        sum[h][c] = _mm512_fmadd_ps(_mm512_set1_ps(scores[h * room + j]), value, sum[h][c]);
    }
  for (int h = 0; h < Heads; ++h)
    for (int c = 0; c < Chunks; ++c)
      give16(out + h * width + 16 * c, c + 1 < Chunks ? 0xFFFF : last, sum[h][c]);
}

template <int Chunks, typename E>
void gather_all(const Asking& a, const float* scores, const E* values, float* room) {
  const __mmask16 last = (1u << (a.width - 16 * (Chunks - 1))) - 1;
  for (int token = 0; token < a.tokens; ++token)
    std::fill_n(a.out + token * a.out_stride, a.heads * a.width, 0.f);
  for (int begin = 0; begin < a.seen(a.tokens - 1); begin += kStretch) {
    const int held = std::min(kStretch, a.seen(a.tokens - 1) - begin);
    const float* near = widen(values + static_cast<int64_t>(begin) * a.width, held, a.width, room);
    for (int token = 0; token < a.tokens; ++token) {
      const int count = std::min(held, a.seen(token) - begin);
      for (int head = 0; head < a.heads;) {
        const float* weights =
            scores + static_cast<int64_t>(token * a.heads + head) * a.room() + begin;
        float* out = a.out + token * a.out_stride + head * a.width;
        const bool three = Chunks <= 4 && a.heads - head >= 3;
        if (three) gather<Chunks, 3>(weights, a.room(), near, count, a.width, last, out);
        else gather<Chunks, 1>(weights, a.room(), near, count, a.width, last, out);
        head += three ? 3 : 1;
      }
    }
  }
}

template <int Chunks, typename E>
void attend_chunks(const Asking& a, const E* keys, const E* values) {
  static thread_local std::vector<float> scores;
  alignas(64) float room[kStretch * kWidest];
  scores.resize(static_cast<std::size_t>(a.tokens) * a.heads * a.room());
  score_all<Chunks>(a, keys, room, scores.data());
  float inverse[kTogether * 64];
  for (int one = 0; one < a.tokens * a.heads; ++one)
    inverse[one] =
        weigh(scores.data() + static_cast<int64_t>(one) * a.room(), a.seen(one / a.heads));
  gather_all<Chunks>(a, scores.data(), values, room);
  for (int one = 0; one < a.tokens * a.heads; ++one) {
    float* out = a.out + one / a.heads * a.out_stride + one % a.heads * a.width;
    for (int i = 0; i < a.width; ++i) out[i] *= inverse[one];
  }
}

// Attends; there are at most `kTogether` tokens and 64 heads, of at most `kWidest` each.
template <typename E>
void attend(const Asking& a, const E* keys, const E* values) {
  const auto with = [&](auto chunks) {
    attend_chunks<decltype(chunks)::value>(a, keys, values);
  };
  if (a.width <= 16) return with(std::integral_constant<int, 1>());
  if (a.width <= 32) return with(std::integral_constant<int, 2>());
  if (a.width <= 48) return with(std::integral_constant<int, 3>());
  if (a.width <= 64) return with(std::integral_constant<int, 4>());
  if (a.width <= 80) return with(std::integral_constant<int, 5>());
  if (a.width <= 96) return with(std::integral_constant<int, 6>());
  if (a.width <= 112) return with(std::integral_constant<int, 7>());
  return with(std::integral_constant<int, 8>());
}

}  // namespace bem
