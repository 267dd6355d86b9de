// Vectors of 16 lanes in one AVX-512 register, and tiles of products by VNNI.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "prefetch_ahead.h"
#include "quantized_rows.h"

namespace bem {

using Floats = __m512;
using Ints = __m512i;

constexpr int kTileRows = 16;      // rows whose sums stay in registers
constexpr int kSharedHeads = 3;    // heads that share a value read into registers
constexpr int kSharedQueries = 4;  // queries that share a key

inline __mmask16 first_lanes(int count) {
  return count >= kLanes ? 0xFFFF : (1u << count) - 1;
}

inline Floats splat(float x) {
  return _mm512_set1_ps(x);
}
inline Floats load(const float* from) {
  return _mm512_loadu_ps(from);
}
inline Floats load(const uint16_t* from) {  // float16
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
// Loads the first `count` lanes, all if there are more; the others are 0.
inline Floats load(const float* from, int count) {
  return _mm512_maskz_loadu_ps(first_lanes(count), from);
}
inline Floats load(const uint16_t* from, int count) {  // float16
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_lanes(count), from));
}
inline void store(float* to, Floats x) {
  _mm512_storeu_ps(to, x);
}
inline void store(float* to, int count, Floats x) {
  _mm512_mask_storeu_ps(to, first_lanes(count), x);
}
inline void store(uint16_t* to, int count, Floats x) {
  _mm256_mask_storeu_epi16(to, first_lanes(count), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}

inline Floats add(Floats a, Floats b) {
  return _mm512_add_ps(a, b);
}
inline Floats subtract(Floats a, Floats b) {
  return _mm512_sub_ps(a, b);
}
inline Floats multiply(Floats a, Floats b) {
  return _mm512_mul_ps(a, b);
}
inline Floats divide(Floats a, Floats b) {
  return _mm512_div_ps(a, b);
}
inline Floats multiply_add(Floats a, Floats b, Floats c) {  // a b + c
  return _mm512_fmadd_ps(a, b, c);
}
inline Floats subtract_product(Floats c, Floats a, Floats b) {  // c - a b
  return _mm512_fnmadd_ps(a, b, c);
}
// The second operand if either is not a number.
inline Floats larger(Floats a, Floats b) {
  return _mm512_max_ps(a, b);
}
inline Floats smaller(Floats a, Floats b) {
  return _mm512_min_ps(a, b);
}
inline Floats absolute(Floats x) {
  return _mm512_abs_ps(x);
}
inline Floats round_to_even(Floats x) {
  return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT);
}
// x times two to the power of `whole`, integers of at least -126 and at most 127.
inline Floats times_power_of_two(Floats x, Floats whole) {
  return _mm512_scalef_ps(x, whole);
}
inline bool any_larger(Floats a, Floats b) {
  return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) != 0;
}
// Lanes [first, last) of `x`, and of `other` elsewhere.
inline Floats keep_lanes(Floats x, int first, int last, Floats other) {
  const __mmask16 kept = first_lanes(last < 0 ? 0 : last) & ~first_lanes(first < 0 ? 0 : first);
  return _mm512_mask_mov_ps(other, kept, x);
}

inline float sum_of_lanes(Floats x) {
  return _mm512_reduce_add_ps(x);
}
inline float largest_lane(Floats x) {
  return _mm512_reduce_max_ps(x);
}

// Horizontal sums of 16 vectors; lane i is the sum of v[i].
inline Floats horizontal_sums(const Floats (&v)[16]) {
  Floats pair[8], four[4], eight[2];
  for (int i = 0; i < 8; ++i)
    pair[i] =
        add(_mm512_unpacklo_ps(v[2 * i], v[2 * i + 1]), _mm512_unpackhi_ps(v[2 * i], v[2 * i + 1]));
  for (int i = 0; i < 4; ++i) {
    const __m512d a = _mm512_castps_pd(pair[2 * i]), b = _mm512_castps_pd(pair[2 * i + 1]);
    four[i] =
        add(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
  }
  for (int i = 0; i < 2; ++i)
    eight[i] = add(_mm512_shuffle_f32x4(four[2 * i], four[2 * i + 1], 0x88),
                   _mm512_shuffle_f32x4(four[2 * i], four[2 * i + 1], 0xDD));
  return add(_mm512_shuffle_f32x4(eight[0], eight[1], 0x88),
             _mm512_shuffle_f32x4(eight[0], eight[1], 0xDD));
}

// Exchanges rows and lanes of 16 vectors.
inline void transpose(Floats (&v)[16]) {
  Floats pair[16], four[16];
  for (int i = 0; i < 8; ++i) {
    pair[2 * i] = _mm512_unpacklo_ps(v[2 * i], v[2 * i + 1]);
    pair[2 * i + 1] = _mm512_unpackhi_ps(v[2 * i], v[2 * i + 1]);
  }
  for (int i = 0; i < 16; i += 4)  // lane q of four[i + k]: column 4 q + k of the rows from i on
    for (int k = 0; k < 2; ++k) {
      const __m512d a = _mm512_castps_pd(pair[i + k]), b = _mm512_castps_pd(pair[i + k + 2]);
      four[i + 2 * k] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
      four[i + 2 * k + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
    }
  for (int k = 0; k < 4; ++k) {
    const Floats even[2] = {_mm512_shuffle_f32x4(four[k], four[4 + k], 0x88),
                            _mm512_shuffle_f32x4(four[8 + k], four[12 + k], 0x88)};
    const Floats odd[2] = {_mm512_shuffle_f32x4(four[k], four[4 + k], 0xDD),
                           _mm512_shuffle_f32x4(four[8 + k], four[12 + k], 0xDD)};
    v[k] = _mm512_shuffle_f32x4(even[0], even[1], 0x88);
    v[4 + k] = _mm512_shuffle_f32x4(odd[0], odd[1], 0x88);
    v[8 + k] = _mm512_shuffle_f32x4(even[0], even[1], 0xDD);
    v[12 + k] = _mm512_shuffle_f32x4(odd[0], odd[1], 0xDD);
  }
}

inline Ints to_ints(Floats x) {  // rounded to even
  return _mm512_cvtps_epi32(x);
}
inline int sum_of_lanes(Ints x) {
  return _mm512_reduce_add_epi32(x);
}
// Stores two vectors as 32 bytes, each lane clamped to [-128, 127].
inline void store_bytes(int8_t* to, Ints first, Ints second) {
  auto* halves = reinterpret_cast<__m128i*>(to);
  _mm_storeu_si128(halves, _mm512_cvtsepi32_epi8(first));
  _mm_storeu_si128(halves + 1, _mm512_cvtsepi32_epi8(second));
}

inline __m512i broadcast_quad(const int8_t* codes) {
  int32_t four;
  std::memcpy(&four, codes, sizeof four);
  return _mm512_set1_epi32(four);
}

// Products of a block of 4 bits with R rows, of which `x` points to the first; each group of inputs
// has the codes of `stride` rows. Each group prefetches a part of `ahead`.
template <int R>
void tile_int4(const Matrix& m, int block, const QuantizedRows& x, int stride, PrefetchAhead ahead,
               float (*out)[kLanes]) {
  const uint8_t* w = m.block(block);
  const int groups = m.groups();
  const __m512i low = _mm512_set1_epi8(15);
  __m512 sum[R];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) sum[r] = _mm512_setzero_ps();
  for (int g = 0; g < groups; ++g, w += kInt4GroupBytes) {
    prefetch_group(w, kInt4GroupBytes);
    ahead.step();
    const auto* halves = reinterpret_cast<const __m256i*>(w);
    const __m512 step = _mm512_cvtph_ps(_mm256_load_si256(halves));
    const __m512 minimum = _mm512_cvtph_ps(_mm256_load_si256(halves + 1));
    __m512i codes[kQuads];
    for (int q = 0; q < kQuads / 2; ++q) {
      const __m512i both = _mm512_load_si512(w + 64 + 64 * q);
      codes[q] = _mm512_and_si512(both, low);
      codes[q + kQuads / 2] = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const int at = g * stride + r;
      __m512i dot = _mm512_setzero_si512();
      for (int q = 0; q < kQuads; ++q)
        dot = _mm512_dpbusd_epi32(dot, codes[q], broadcast_quad(x.codes + at * kGroup + 4 * q));
      const __m512 scaled = _mm512_mul_ps(step, _mm512_set1_ps(x.scales[at]));
      sum[r] = _mm512_fmadd_ps(scaled, _mm512_cvtepi32_ps(dot), sum[r]);
      sum[r] = _mm512_fmadd_ps(minimum, _mm512_set1_ps(x.sums[at]), sum[r]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) _mm512_storeu_ps(out[r], sum[r]);
}

// The same of a block of 8 bits.
template <int R>
void tile_int8(const Matrix& m, int block, const QuantizedRows& x, int stride, PrefetchAhead ahead,
               float (*out)[kLanes]) {
  const uint8_t* w = m.block(block);
  const int groups = m.groups();
  __m512 sum[R];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) sum[r] = _mm512_setzero_ps();
  for (int g = 0; g < groups; ++g, w += kInt8GroupBytes) {
    prefetch_group(w, kInt8GroupBytes);
    ahead.step();
    __m512i codes[kQuads];
    for (int q = 0; q < kQuads; ++q) codes[q] = _mm512_load_si512(w + 64 * q);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const int at = g * stride + r;
      __m512i dot = _mm512_set1_epi32(x.offsets[at]);  // weight codes are stored with 128 added
      for (int q = 0; q < kQuads; ++q)
        dot = _mm512_dpbusd_epi32(dot, codes[q], broadcast_quad(x.codes + at * kGroup + 4 * q));
      sum[r] = _mm512_fmadd_ps(_mm512_set1_ps(x.scales[at]), _mm512_cvtepi32_ps(dot), sum[r]);
    }
  }
  const __m512 scales = _mm512_loadu_ps(m.scales + block * kLanes);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) _mm512_storeu_ps(out[r], _mm512_mul_ps(sum[r], scales));
}

}  // namespace bem
