// Vectors of 16 lanes in two AVX2 registers, and tiles of products without VNNI. Sums are added in
// the order of AVX-512, so that both variants give the same bits.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "prefetch_ahead.h"
#include "quantized_rows.h"

namespace bem {

struct Floats {
  __m256 low, high;
};
struct Ints {
  __m256i low, high;
};

constexpr int kTileRows = 6;       // rows whose sums stay in registers
constexpr int kSharedHeads = 1;    // heads that share a value read into registers
constexpr int kSharedQueries = 1;  // queries that share a key

inline Floats splat(float x) {
  return {_mm256_set1_ps(x), _mm256_set1_ps(x)};
}
inline Floats load(const float* from) {
  return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)};
}
inline Floats load(const uint16_t* from) {  // float16
  const auto* halves = reinterpret_cast<const __m128i*>(from);
  return {_mm256_cvtph_ps(_mm_loadu_si128(halves)), _mm256_cvtph_ps(_mm_loadu_si128(halves + 1))};
}
// Loads the first `count` lanes, all if there are more; the others are 0.
template <typename E>
Floats load(const E* from, int count) {
  if (count >= kLanes) return load(from);
  E lanes[kLanes] = {};
  std::memcpy(lanes, from, count * sizeof(E));
  return load(lanes);
}
inline void store(float* to, Floats x) {
  _mm256_storeu_ps(to, x.low);
  _mm256_storeu_ps(to + 8, x.high);
}
inline void store(uint16_t* to, Floats x) {
  auto* halves = reinterpret_cast<__m128i*>(to);
  _mm_storeu_si128(halves, _mm256_cvtps_ph(x.low, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128(halves + 1, _mm256_cvtps_ph(x.high, _MM_FROUND_TO_NEAREST_INT));
}
template <typename E>
void store(E* to, int count, Floats x) {
  if (count >= kLanes) return store(to, x);
  E lanes[kLanes];
  store(lanes, x);
  std::memcpy(to, lanes, count * sizeof(E));
}

inline Floats add(Floats a, Floats b) {
  return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
inline Floats subtract(Floats a, Floats b) {
  return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
inline Floats multiply(Floats a, Floats b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
inline Floats divide(Floats a, Floats b) {
  return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}
inline Floats multiply_add(Floats a, Floats b, Floats c) {  // a b + c
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline Floats subtract_product(Floats c, Floats a, Floats b) {  // c - a b
  return {_mm256_fnmadd_ps(a.low, b.low, c.low), _mm256_fnmadd_ps(a.high, b.high, c.high)};
}
// The second operand if either is not a number.
inline Floats larger(Floats a, Floats b) {
  return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
inline Floats smaller(Floats a, Floats b) {
  return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}
inline Floats absolute(Floats x) {
  const __m256 sign = _mm256_set1_ps(-0.f);
  return {_mm256_andnot_ps(sign, x.low), _mm256_andnot_ps(sign, x.high)};
}
inline Floats round_to_even(Floats x) {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(x.low, kNearest), _mm256_round_ps(x.high, kNearest)};
}
// x times two to the power of `whole`, integers of at least -126 and at most 127.
inline Floats times_power_of_two(Floats x, Floats whole) {
  const auto power = [](__m256 exponent) {
    const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(exponent), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
  };
  return multiply(x, {power(whole.low), power(whole.high)});
}
inline bool any_larger(Floats a, Floats b) {
  const __m256 low = _mm256_cmp_ps(a.low, b.low, _CMP_GT_OQ);
  return _mm256_movemask_ps(_mm256_or_ps(low, _mm256_cmp_ps(a.high, b.high, _CMP_GT_OQ))) != 0;
}
// Lanes [first, last) of `x`, and of `other` elsewhere.
inline Floats keep_lanes(Floats x, int first, int last, Floats other) {
  if (first <= 0 && last >= kLanes) return x;
  const auto kept = [&](int lane) {
    const __m256i lanes =
        _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(lane));
    const __m256i before = _mm256_cmpgt_epi32(_mm256_set1_epi32(first), lanes);
    return _mm256_castsi256_ps(
        _mm256_andnot_si256(before, _mm256_cmpgt_epi32(_mm256_set1_epi32(last), lanes)));
  };
  return {_mm256_blendv_ps(other.low, x.low, kept(0)),
          _mm256_blendv_ps(other.high, x.high, kept(8))};
}

inline float sum_of_lanes(Floats x) {
  const __m256 eight = _mm256_add_ps(x.low, x.high);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float largest_lane(Floats x) {
  const __m256 eight = _mm256_max_ps(x.low, x.high);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

// Sums of the four lanes in each half of four registers, [half, register].
inline __m256 sums_of_four(__m256 a, __m256 b, __m256 c, __m256 d) {
  const __m256d ab =
      _mm256_castps_pd(_mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b)));
  const __m256d cd =
      _mm256_castps_pd(_mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d)));
  return _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(ab, cd)),
                       _mm256_castpd_ps(_mm256_unpackhi_pd(ab, cd)));
}
// Horizontal sums of 16 vectors; lane i is the sum of v[i].
inline Floats horizontal_sums(const Floats (&v)[16]) {
  __m256 low[4], high[4];
  for (int i = 0; i < 4; ++i) {
    const Floats* of = v + 4 * i;
    low[i] = sums_of_four(of[0].low, of[1].low, of[2].low, of[3].low);
    high[i] = sums_of_four(of[0].high, of[1].high, of[2].high, of[3].high);
  }
  const auto halves = [](__m256 a, __m256 b) {
    return _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
  };
  return {_mm256_add_ps(halves(low[0], low[1]), halves(high[0], high[1])),
          _mm256_add_ps(halves(low[2], low[3]), halves(high[2], high[3]))};
}

// Exchanges rows and lanes of 8 registers.
inline void transpose(__m256 (&v)[8]) {
  __m256 pair[8], four[8];
  for (int i = 0; i < 4; ++i) {
    pair[2 * i] = _mm256_unpacklo_ps(v[2 * i], v[2 * i + 1]);
    pair[2 * i + 1] = _mm256_unpackhi_ps(v[2 * i], v[2 * i + 1]);
  }
  for (int i = 0; i < 8; i += 4)  // half q of four[i + k]: column 4 q + k of the rows from i on
    for (int k = 0; k < 2; ++k) {
      const __m256d a = _mm256_castps_pd(pair[i + k]), b = _mm256_castps_pd(pair[i + k + 2]);
      four[i + 2 * k] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, b));
      four[i + 2 * k + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, b));
    }
  for (int k = 0; k < 4; ++k) {
    v[k] = _mm256_permute2f128_ps(four[k], four[4 + k], 0x20);
    v[4 + k] = _mm256_permute2f128_ps(four[k], four[4 + k], 0x31);
  }
}
// Exchanges rows and lanes of 16 vectors.
inline void transpose(Floats (&v)[16]) {
  __m256 low[2][8], high[2][8];
  for (int half = 0; half < 2; ++half) {
    for (int i = 0; i < 8; ++i) {
      low[half][i] = v[8 * half + i].low;
      high[half][i] = v[8 * half + i].high;
    }
    transpose(low[half]);
    transpose(high[half]);
  }
  for (int i = 0; i < 8; ++i) {
    v[i] = {low[0][i], low[1][i]};
    v[8 + i] = {high[0][i], high[1][i]};
  }
}

inline Ints to_ints(Floats x) {  // rounded to even
  return {_mm256_cvtps_epi32(x.low), _mm256_cvtps_epi32(x.high)};
}
inline int sum_of_lanes(Ints x) {
  const __m256i eight = _mm256_add_epi32(x.low, x.high);
  const __m128i four =
      _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  const __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
  return _mm_cvtsi128_si32(two) + _mm_extract_epi32(two, 1);
}
// Stores two vectors as 32 bytes, each lane clamped to [-128, 127].
inline void store_bytes(int8_t* to, Ints first, Ints second) {
  const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(first.low, first.high),
                                           _mm256_packs_epi32(second.low, second.high));
  // Packing works within halves of a register: put their quads in order.
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permutevar8x32_epi32(bytes, order));
}

inline __m256i broadcast_quad(const int8_t* codes) {
  int32_t four;
  std::memcpy(&four, codes, sizeof four);
  return _mm256_set1_epi32(four);
}

inline Floats to_floats(const __m256i (&dot)[2]) {
  return {_mm256_cvtepi32_ps(dot[0]), _mm256_cvtepi32_ps(dot[1])};
}

// Products of a block of 4 bits with R rows, of which `x` points to the first; each group of inputs
// has the codes of `stride` rows. Each group prefetches a part of `ahead`.
template <int R>
void tile_int4(const Matrix& m, int block, const QuantizedRows& x, int stride, PrefetchAhead ahead,
               float (*out)[kLanes]) {
  const uint8_t* w = m.block(block);
  const int groups = m.groups();
  const __m256i nibble = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
  Floats sum[R];
  for (int r = 0; r < R; ++r) sum[r] = splat(0);
  for (int g = 0; g < groups; ++g, w += kInt4GroupBytes) {
    prefetch_group(w, kInt4GroupBytes);
    ahead.step();
    const int8_t* codes = x.codes + static_cast<int64_t>(g) * stride * kGroup;
    // 16 bits hold the 16 products of 15 by 127 that a lane sums: at most 30,480.
    __m256i dot[R][2];
    // Not unrolled: the compiler would load inputs far ahead and run out of registers.
#pragma GCC unroll 1
    for (int half = 0; half < 2; ++half) {
      __m256i pairs[R];
      for (int r = 0; r < R; ++r) pairs[r] = _mm256_setzero_si256();
#pragma GCC unroll 1
      for (int q = 0; q < kQuads / 2; ++q) {
        const __m256i both =
            _mm256_load_si256(reinterpret_cast<const __m256i*>(w + 64 + 64 * q + 32 * half));
        const __m256i low = _mm256_and_si256(both, nibble);
        const __m256i high = _mm256_and_si256(_mm256_srli_epi16(both, 4), nibble);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          const int8_t* row = codes + r * kGroup + 4 * q;
          pairs[r] = _mm256_add_epi16(pairs[r], _mm256_maddubs_epi16(low, broadcast_quad(row)));
          pairs[r] = _mm256_add_epi16(pairs[r],
                                      _mm256_maddubs_epi16(high, broadcast_quad(row + kGroup / 2)));
        }
      }
      for (int r = 0; r < R; ++r) dot[r][half] = _mm256_madd_epi16(pairs[r], ones);
    }
    const auto* header = reinterpret_cast<const uint16_t*>(w);
    const Floats step = load(header), minimum = load(header + kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const int at = g * stride + r;
      sum[r] = multiply_add(multiply(step, splat(x.scales[at])), to_floats(dot[r]), sum[r]);
      sum[r] = multiply_add(minimum, splat(x.sums[at]), sum[r]);
    }
  }
  for (int r = 0; r < R; ++r) store(out[r], sum[r]);
}

// The same of a block of 8 bits.
template <int R>
void tile_int8(const Matrix& m, int block, const QuantizedRows& x, int stride, PrefetchAhead ahead,
               float (*out)[kLanes]) {
  const uint8_t* w = m.block(block);
  const int groups = m.groups();
  const __m256i offset = _mm256_set1_epi8(-128), ones = _mm256_set1_epi16(1);
  Floats sum[R];
  for (int r = 0; r < R; ++r) sum[r] = splat(0);
  for (int g = 0; g < groups; ++g, w += kInt8GroupBytes) {
    prefetch_group(w, kInt8GroupBytes);
    ahead.step();
    const int8_t* codes = x.codes + static_cast<int64_t>(g) * stride * kGroup;
    __m256i dot[R][2];
#pragma GCC unroll 1
    for (int half = 0; half < 2; ++half) {
      __m256i total[R];
      for (int r = 0; r < R; ++r) total[r] = _mm256_setzero_si256();
#pragma GCC unroll 1
      for (int q = 0; q < kQuads; ++q) {
        // Two products of 127 by 127 fit into 16 bits, two of 255 by 127 do not: magnitudes are
        // multiplied, and signs move to the inputs.
        const __m256i weight = _mm256_xor_si256(
            _mm256_load_si256(reinterpret_cast<const __m256i*>(w + 64 * q + 32 * half)), offset);
        const __m256i magnitude = _mm256_abs_epi8(weight);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          const __m256i input = broadcast_quad(codes + r * kGroup + 4 * q);
          const __m256i pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(input, weight));
          total[r] = _mm256_add_epi32(total[r], _mm256_madd_epi16(pairs, ones));
        }
      }
      for (int r = 0; r < R; ++r) dot[r][half] = total[r];
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
      sum[r] = multiply_add(splat(x.scales[g * stride + r]), to_floats(dot[r]), sum[r]);
  }
  const Floats scales = load(m.scales + block * kLanes);
  for (int r = 0; r < R; ++r) store(out[r], multiply(sum[r], scales));
}

}  // namespace bem
