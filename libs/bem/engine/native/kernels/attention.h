// Attention of one token over the positions of its slot, for the query heads that share keys.
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

// Scores of one query over `length` keys, scaled, into `scores`; returns the largest.
template <int Chunks, typename E>
float score(const float* query, float scale, const E* keys, int length, int width,
            __mmask16 last, float* scores) {
  __m512 q[Chunks];
  for (int c = 0; c < Chunks; ++c)
    q[c] = _mm512_mul_ps(_mm512_set1_ps(scale),
                         take16(query + 16 * c, c + 1 < Chunks ? 0xFFFF : last));
  __m512 largest = _mm512_set1_ps(-INFINITY);
  for (int begin = 0; begin < length; begin += 16) {
    const int count = std::min(16, length - begin);
    __m512 partial[16];
    for (int j = 0; j < 16; ++j) {
      partial[j] = _mm512_setzero_ps();
      if (j >= count) continue;
      const E* key = keys + static_cast<int64_t>(begin + j) * width;
      for (int c = 0; c < Chunks; ++c)
        partial[j] = _mm512_fmadd_ps(
            q[c], take16(key + 16 * c, c + 1 < Chunks ? 0xFFFF : last), partial[j]);
    }
    const __mmask16 seen = (1u << count) - 1;
    const __m512 found =
        _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), seen, sums_of(partial));
    _mm512_storeu_ps(scores + begin, found);
    largest = _mm512_max_ps(largest, found);
  }
  return _mm512_reduce_max_ps(largest);
}

// Turns scores into exponentials and returns one over their sum.
inline float weigh(float* scores, float largest, int length) {
  __m512 sum = _mm512_setzero_ps();
  for (int begin = 0; begin < length; begin += 16) {
    const __mmask16 seen = length - begin >= 16 ? 0xFFFF : (1u << (length - begin)) - 1;
    const __m512 x = _mm512_sub_ps(_mm512_loadu_ps(scores + begin), _mm512_set1_ps(largest));
    const __m512 weight = _mm512_maskz_mov_ps(seen, exponential(x));
    _mm512_storeu_ps(scores + begin, weight);
    sum = _mm512_add_ps(sum, weight);
  }
  return 1 / _mm512_reduce_add_ps(sum);
}

// Adds up the values by the weights of `Heads` heads: `scores [Heads, room]` to `out [Heads, width]`.
template <int Chunks, int Heads, typename E>
void gather(const float* scores, int room, const float* inverse, const E* values, int length,
            int width, __mmask16 last, float* out) {
  __m512 sum[Heads][Chunks];
  for (auto& head : sum)
    for (auto& chunk : head) chunk = _mm512_setzero_ps();
  for (int j = 0; j < length; ++j) {
    const E* value = values + static_cast<int64_t>(j) * width;
    for (int c = 0; c < Chunks; ++c) {
      const __m512 v = take16(value + 16 * c, c + 1 < Chunks ? 0xFFFF : last);
      for (int h = 0; h < Heads; ++h)
        sum[h][c] = _mm512_fmadd_ps(_mm512_set1_ps(scores[h * room + j]), v, sum[h][c]);
    }
  }
  for (int h = 0; h < Heads; ++h)
    for (int c = 0; c < Chunks; ++c)
      give16(out + h * width + 16 * c, c + 1 < Chunks ? 0xFFFF : last,
             _mm512_mul_ps(sum[h][c], _mm512_set1_ps(inverse[h])));
}

// Attends `queries [heads, width]`, which share keys, over `length` positions.
template <int Chunks, typename E>
void attend_chunks(const float* queries, int heads, int width, const E* keys, const E* values,
                   int length, float* out) {
  static thread_local std::vector<float> scores;
  const int room = (length + 15) / 16 * 16;
  constexpr int kTogether = Chunks <= 4 ? 4 : 2;
  scores.resize(static_cast<std::size_t>(kTogether) * room);
  const __mmask16 last = (1u << (width - 16 * (Chunks - 1))) - 1;
  const float scale = 1 / std::sqrt(static_cast<float>(width));
  for (int first = 0; first < heads; first += kTogether) {
    const int count = std::min(kTogether, heads - first);
    const float* query = queries + first * width;
    float inverse[kTogether];
    for (int h = 0; h < count; ++h) {
      float* row = scores.data() + h * room;
      const float largest =
          score<Chunks>(query + h * width, scale, keys, length, width, last, row);
      inverse[h] = weigh(row, largest, length);
    }
    float* to = out + first * width;
    const auto with = [&](auto heads_together) {
      gather<Chunks, decltype(heads_together)::value>(scores.data(), room, inverse, values,
                                                      length, width, last, to);
    };
    if (count == 1) with(std::integral_constant<int, 1>());
    if (count == 2) with(std::integral_constant<int, 2>());
    if constexpr (kTogether == 4) {
      if (count == 3) with(std::integral_constant<int, 3>());
      if (count == 4) with(std::integral_constant<int, 4>());
    }
  }
}

constexpr int kWidest = 128;  // of a head

template <typename E>
void attend(const float* queries, int heads, int width, const E* keys, const E* values,
            int length, float* out) {
  const auto with = [&](auto chunks) {
    attend_chunks<decltype(chunks)::value>(queries, heads, width, keys, values, length, out);
  };
  if (width <= 16) return with(std::integral_constant<int, 1>());
  if (width <= 32) return with(std::integral_constant<int, 2>());
  if (width <= 48) return with(std::integral_constant<int, 3>());
  if (width <= 64) return with(std::integral_constant<int, 4>());
  if (width <= 80) return with(std::integral_constant<int, 5>());
  if (width <= 96) return with(std::integral_constant<int, 6>());
  if (width <= 112) return with(std::integral_constant<int, 7>());
  return with(std::integral_constant<int, 8>());
}

}  // namespace bem
