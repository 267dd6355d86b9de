// Scalar emulation of the AVX-512 intrinsics that the kernels use, for tests on other processors
// and under sanitizers. Masked loads and stores touch only the lanes of their mask, so that an
// address sanitizer sees every access; aligned loads check their alignment.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

struct __m512 {
  float lane[16];
};
struct __m512d {
  double lane[8];
};
struct __m512i {
  int32_t lane[16];
};
struct __m256i {
  uint16_t lane[16];
};
struct __m128i {
  int8_t lane[16];
};
using __mmask16 = uint16_t;

#define _MM_FROUND_TO_NEAREST_INT 0
#define _MM_HINT_T0 0
#define _CMP_GT_OQ 30
#define _mm_prefetch(address, hint) static_cast<void>(address)

namespace emulated {

template <typename Function>
__m512 map(Function function) {
  __m512 out;
  for (int i = 0; i < 16; ++i) out.lane[i] = function(i);
  return out;
}

template <typename Function>
__m512i map_int(Function function) {
  __m512i out;
  for (int i = 0; i < 16; ++i) out.lane[i] = function(i);
  return out;
}

inline bool in(__mmask16 mask, int lane) {
  return mask >> lane & 1;
}

inline float from_half(uint16_t bits) {
  _Float16 half;
  std::memcpy(&half, &bits, sizeof half);
  return static_cast<float>(half);
}

inline uint16_t to_half(float value) {
  const auto half = static_cast<_Float16>(value);
  uint16_t bits;
  std::memcpy(&bits, &half, sizeof bits);
  return bits;
}

inline void check_aligned(const void* address, uintptr_t alignment) {
  if (reinterpret_cast<uintptr_t>(address) % alignment != 0) std::abort();
}

}  // namespace emulated

inline uint16_t _cvtss_sh(float value, int) {
  return emulated::to_half(value);
}

inline __m512 _mm512_set1_ps(float x) {
  return emulated::map([&](int) { return x; });
}
inline __m512 _mm512_setzero_ps() {
  return _mm512_set1_ps(0);
}
inline __m512 _mm512_loadu_ps(const float* from) {
  return emulated::map([&](int i) { return from[i]; });
}
inline __m512 _mm512_maskz_loadu_ps(__mmask16 mask, const float* from) {
  return emulated::map([&](int i) { return emulated::in(mask, i) ? from[i] : 0.f; });
}
inline void _mm512_mask_storeu_ps(float* to, __mmask16 mask, __m512 x) {
  for (int i = 0; i < 16; ++i)
    if (emulated::in(mask, i)) to[i] = x.lane[i];
}
inline void _mm512_storeu_ps(float* to, __m512 x) {
  _mm512_mask_storeu_ps(to, 0xFFFF, x);
}

#define EMULATE_BINARY(name, expression)        \
  inline __m512 name(__m512 x, __m512 y) {      \
    return emulated::map([&](int i) {           \
      const float a = x.lane[i], b = y.lane[i]; \
      return expression;                        \
    });                                         \
  }
EMULATE_BINARY(_mm512_add_ps, a + b)
EMULATE_BINARY(_mm512_sub_ps, a - b)
EMULATE_BINARY(_mm512_mul_ps, a* b)
EMULATE_BINARY(_mm512_div_ps, a / b)
EMULATE_BINARY(_mm512_max_ps, a > b ? a : b)
EMULATE_BINARY(_mm512_min_ps, a < b ? a : b)
EMULATE_BINARY(_mm512_scalef_ps, std::ldexp(a, static_cast<int>(std::floor(b))))
#undef EMULATE_BINARY

inline __m512 _mm512_fmadd_ps(__m512 a, __m512 b, __m512 c) {
  return emulated::map([&](int i) { return std::fma(a.lane[i], b.lane[i], c.lane[i]); });
}
inline __m512 _mm512_fnmadd_ps(__m512 a, __m512 b, __m512 c) {
  return emulated::map([&](int i) { return std::fma(-a.lane[i], b.lane[i], c.lane[i]); });
}
inline __m512 _mm512_abs_ps(__m512 x) {
  return emulated::map([&](int i) { return std::fabs(x.lane[i]); });
}
inline __m512 _mm512_roundscale_ps(__m512 x, int) {
  return emulated::map([&](int i) { return std::nearbyint(x.lane[i]); });
}
inline __m512 _mm512_mask_mov_ps(__m512 other, __mmask16 mask, __m512 x) {
  return emulated::map([&](int i) { return emulated::in(mask, i) ? x.lane[i] : other.lane[i]; });
}
inline __mmask16 _mm512_cmp_ps_mask(__m512 a, __m512 b, int) {
  __mmask16 out = 0;
  for (int i = 0; i < 16; ++i)
    if (a.lane[i] > b.lane[i]) out |= 1u << i;
  return out;
}
inline float _mm512_reduce_add_ps(__m512 x) {
  // Halves are added to halves, as by the compiler's sequence of instructions.
  for (int width = 8; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) x.lane[i] += x.lane[i + width];
  return x.lane[0];
}
inline float _mm512_reduce_max_ps(__m512 x) {
  float largest = x.lane[0];
  for (float value : x.lane) largest = value > largest ? value : largest;
  return largest;
}

inline __m512 _mm512_unpacklo_ps(__m512 a, __m512 b) {
  return emulated::map([&](int i) { return (i % 2 ? b : a).lane[i / 4 * 4 + i % 4 / 2]; });
}
inline __m512 _mm512_unpackhi_ps(__m512 a, __m512 b) {
  return emulated::map([&](int i) { return (i % 2 ? b : a).lane[i / 4 * 4 + 2 + i % 4 / 2]; });
}
inline __m512 _mm512_shuffle_f32x4(__m512 a, __m512 b, int control) {
  return emulated::map([&](int i) {
    const int block = i / 4;
    return (block < 2 ? a : b).lane[(control >> (2 * block) & 3) * 4 + i % 4];
  });
}
inline __m512d _mm512_castps_pd(__m512 x) {
  __m512d out;
  std::memcpy(&out, &x, sizeof out);
  return out;
}
inline __m512 _mm512_castpd_ps(__m512d x) {
  __m512 out;
  std::memcpy(&out, &x, sizeof out);
  return out;
}
inline __m512d _mm512_unpacklo_pd(__m512d a, __m512d b) {
  __m512d out;
  for (int i = 0; i < 8; ++i) out.lane[i] = (i % 2 ? b : a).lane[i / 2 * 2];
  return out;
}
inline __m512d _mm512_unpackhi_pd(__m512d a, __m512d b) {
  __m512d out;
  for (int i = 0; i < 8; ++i) out.lane[i] = (i % 2 ? b : a).lane[i / 2 * 2 + 1];
  return out;
}

inline __m256i _mm256_load_si256(const __m256i* from) {
  emulated::check_aligned(from, 32);
  __m256i out;
  std::memcpy(&out, from, sizeof out);
  return out;
}
inline __m256i _mm256_loadu_si256(const __m256i* from) {
  __m256i out;
  std::memcpy(&out, from, sizeof out);
  return out;
}
inline __m256i _mm256_maskz_loadu_epi16(__mmask16 mask, const uint16_t* from) {
  __m256i out;
  for (int i = 0; i < 16; ++i) out.lane[i] = emulated::in(mask, i) ? from[i] : 0;
  return out;
}
inline void _mm256_mask_storeu_epi16(uint16_t* to, __mmask16 mask, __m256i x) {
  for (int i = 0; i < 16; ++i)
    if (emulated::in(mask, i)) to[i] = x.lane[i];
}
inline __m512 _mm512_cvtph_ps(__m256i x) {
  return emulated::map([&](int i) { return emulated::from_half(x.lane[i]); });
}
inline __m256i _mm512_cvtps_ph(__m512 x, int) {
  __m256i out;
  for (int i = 0; i < 16; ++i) out.lane[i] = emulated::to_half(x.lane[i]);
  return out;
}

inline __m512i _mm512_set1_epi32(int32_t x) {
  return emulated::map_int([&](int) { return x; });
}
inline __m512i _mm512_setzero_si512() {
  return _mm512_set1_epi32(0);
}
inline __m512i _mm512_set1_epi8(int8_t x) {
  __m512i out;
  std::memset(&out, x, sizeof out);
  return out;
}
inline __m512i _mm512_load_si512(const void* from) {
  emulated::check_aligned(from, 64);
  __m512i out;
  std::memcpy(&out, from, sizeof out);
  return out;
}
inline __m512i _mm512_and_si512(__m512i a, __m512i b) {
  return emulated::map_int([&](int i) { return a.lane[i] & b.lane[i]; });
}
inline __m512i _mm512_srli_epi16(__m512i x, int count) {
  uint16_t parts[32];
  std::memcpy(parts, &x, sizeof parts);
  for (uint16_t& part : parts) part = static_cast<uint16_t>(part >> count);
  std::memcpy(&x, parts, sizeof parts);
  return x;
}
// Sums of four products of unsigned and signed bytes, added to each lane.
inline __m512i _mm512_dpbusd_epi32(__m512i sum, __m512i a, __m512i b) {
  uint8_t left[64];
  int8_t right[64];
  std::memcpy(left, &a, sizeof left);
  std::memcpy(right, &b, sizeof right);
  return emulated::map_int([&](int i) {
    int32_t total = sum.lane[i];
    for (int k = 4 * i; k < 4 * i + 4; ++k) total += left[k] * right[k];
    return total;
  });
}
inline __m512 _mm512_cvtepi32_ps(__m512i x) {
  return emulated::map([&](int i) { return static_cast<float>(x.lane[i]); });
}
inline __m512i _mm512_cvtps_epi32(__m512 x) {
  return emulated::map_int([&](int i) { return static_cast<int32_t>(std::nearbyint(x.lane[i])); });
}
inline __m128i _mm512_cvtsepi32_epi8(__m512i x) {
  __m128i out;
  for (int i = 0; i < 16; ++i) {
    const int32_t value = x.lane[i];
    out.lane[i] = static_cast<int8_t>(value > 127 ? 127 : value < -128 ? -128 : value);
  }
  return out;
}
inline void _mm_storeu_si128(__m128i* to, __m128i x) {
  std::memcpy(to, &x, sizeof x);
}
inline int32_t _mm512_reduce_add_epi32(__m512i x) {
  int32_t total = 0;
  for (int32_t value : x.lane) total += value;
  return total;
}
