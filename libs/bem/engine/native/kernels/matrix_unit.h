// Tiles of products on the processor's matrix unit (Intel AMX): one instruction multiplies a group
// of 32 inputs of 16 rows with 16 outputs. Its sums are integers, and what follows is added in the
// order of the vectors, so that the bits are the same.
#pragma once

#include <immintrin.h>

#include <vector>

#include "vectors.h"

namespace bem {

// Codes of one block, a byte each.
struct UnpackedCodes {
  const uint8_t* of = nullptr;
  std::vector<uint8_t> bytes;

  uint8_t* aligned() {
    const auto at = reinterpret_cast<uintptr_t>(bytes.data());
    return bytes.data() + (kLineBytes - at % kLineBytes) % kLineBytes;
  }
};

// The matrix unit of a thread; its tiles are shaped while this lives: 0 sums, 1 rows, 2 codes. A
// product of fewer than 16 rows is faster by vectors and leaves it alone.
class MatrixUnit {
 public:
  explicit MatrixUnit(int rows) : used_(rows >= kRows) {
    if (!used_) return;
    struct {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {64, kGroup, 64};
      uint8_t rows[16] = {kRows, kRows, kQuads};
    } const shapes;
    _tile_loadconfig(&shapes);
    for (auto& codes : unpacked_) codes.of = nullptr;
  }
  ~MatrixUnit() {
    if (used_) _tile_release();
  }
  MatrixUnit(const MatrixUnit&) = delete;
  MatrixUnit& operator=(const MatrixUnit&) = delete;

  // Codes of a block, a byte each, group by group; the last two blocks of 4 bits stay unpacked.
  static const uint8_t* codes(const Matrix& m, int block) {
    const uint8_t* packed = m.block(block);
    if (m.bits == 8) return packed;
    UnpackedCodes& to = unpacked_[block % 2];
    if (to.of == packed) return to.aligned();
    to.bytes.resize(m.groups() * kInt8GroupBytes + kLineBytes);
    to.of = packed;
    const __m512i low = _mm512_set1_epi8(15);
    uint8_t* out = to.aligned();
    for (int g = 0; g < m.groups(); ++g, packed += kInt4GroupBytes, out += kInt8GroupBytes) {
      prefetch_group(packed, kInt4GroupBytes);
      for (int q = 0; q < kQuads / 2; ++q) {
        const __m512i both = _mm512_load_si512(packed + 64 + 64 * q);
        _mm512_store_si512(out + 64 * q, _mm512_and_si512(both, low));
        _mm512_store_si512(out + 64 * (q + kQuads / 2),
                           _mm512_and_si512(_mm512_srli_epi16(both, 4), low));
      }
    }
    return to.aligned();
  }

 private:
  inline static thread_local UnpackedCodes unpacked_[2];
  bool used_;
};

// Products of a block with 16 rows, as `tile_int4` and `tile_int8` give them.
template <int Bits>
void matrix_unit_tile(const Matrix& m, int block, const QuantizedRows& x, PrefetchAhead ahead,
                      float (*out)[kLanes]) {
  // The unit and the vectors do not work at once: a switch for each group would cost a quarter.
  constexpr int kGroupsAtOnce = 24;
  alignas(64) static thread_local int32_t dots[kGroupsAtOnce][kRows][kLanes];
  const uint8_t *w = m.block(block), *codes = MatrixUnit::codes(m, block);
  const int groups = m.groups();
  __m512 sum[kRows];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) sum[r] = _mm512_setzero_ps();
  for (int begin = 0; begin < groups; begin += kGroupsAtOnce) {
    const int end = std::min(begin + kGroupsAtOnce, groups);
    for (int g = begin; g < end; ++g) {
      if (Bits == 8) prefetch_group(codes + g * kInt8GroupBytes, kInt8GroupBytes);
      _tile_zero(0);
      _tile_loadd(1, x.codes + static_cast<int64_t>(g) * kRows * kGroup, kGroup);
      _tile_loadd(2, codes + g * kInt8GroupBytes, 64);
      _tile_dpbsud(0, 1, 2);
      _tile_stored(0, dots[g - begin], 64);
    }
    for (int g = begin; g < end; ++g) {
      ahead.step();
      const auto* halves = reinterpret_cast<const __m256i*>(w + g * kInt4GroupBytes);
      const __m512 step = Bits == 4 ? _mm512_cvtph_ps(_mm256_load_si256(halves)) : __m512();
      const __m512 minimum = Bits == 4 ? _mm512_cvtph_ps(_mm256_load_si256(halves + 1)) : __m512();
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const int at = g * kRows + r;
        const __m512i dot = _mm512_load_si512(dots[g - begin][r]);
        const __m512 scale = _mm512_set1_ps(x.scales[at]);
        if constexpr (Bits == 4) {
          sum[r] = _mm512_fmadd_ps(_mm512_mul_ps(step, scale), _mm512_cvtepi32_ps(dot), sum[r]);
          sum[r] = _mm512_fmadd_ps(minimum, _mm512_set1_ps(x.sums[at]), sum[r]);
        } else {
          const __m512i whole = _mm512_add_epi32(dot, _mm512_set1_epi32(x.offsets[at]));
          sum[r] = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(whole), sum[r]);
        }
      }
    }
  }
  const __m512 scales = Bits == 8 ? _mm512_loadu_ps(m.scales + block * kLanes) : __m512();
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
    _mm512_storeu_ps(out[r], Bits == 8 ? _mm512_mul_ps(sum[r], scales) : sum[r]);
}

}  // namespace bem
