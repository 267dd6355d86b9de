// Products of packed matrices and quantized rows: tiles of 16 outputs and up to 16 rows, so that
// weights are read and unpacked once per tile. The sums of a row are added in the same order
// whatever other rows the tile has.
#pragma once

#include <array>
#include <utility>

#include "quantized_rows.h"

namespace bem {

using Tile = float[kRows][kLanes];

inline __m512i broadcast_quad(const int8_t* codes) {
  int32_t four;
  std::memcpy(&four, codes, sizeof four);
  return _mm512_set1_epi32(four);
}

template <int R>
void tile_int4(const Matrix& m, int block, const QuantizedRows& x, Tile& out) {
  const uint8_t* w = m.block(block);
  const int groups = m.groups();
  const __m512i low = _mm512_set1_epi8(15);
  __m512 sum[R];
  for (int r = 0; r < R; ++r) sum[r] = _mm512_setzero_ps();
  for (int g = 0; g < groups; ++g, w += kInt4GroupBytes) {
    // 2.5 KB ahead: the hardware prefetcher stops at the end of a 4 KB page.
    for (int line = 0; line < kInt4GroupBytes; line += 64)
      _mm_prefetch(reinterpret_cast<const char*>(w) + 2560 + line, _MM_HINT_T0);
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
      const int at = g * R + r;
      __m512i dot = _mm512_setzero_si512();
      for (int q = 0; q < kQuads; ++q)
        dot = _mm512_dpbusd_epi32(dot, codes[q], broadcast_quad(x.codes + at * kGroup + 4 * q));
      const __m512 scaled = _mm512_mul_ps(step, _mm512_set1_ps(x.scales[at]));
      sum[r] = _mm512_fmadd_ps(scaled, _mm512_cvtepi32_ps(dot), sum[r]);
      sum[r] = _mm512_fmadd_ps(minimum, _mm512_set1_ps(x.sums[at]), sum[r]);
    }
  }
  for (int r = 0; r < R; ++r) _mm512_storeu_ps(out[r], sum[r]);
}

template <int R>
void tile_int8(const Matrix& m, int block, const QuantizedRows& x, Tile& out) {
  const uint8_t* w = m.block(block);
  const int groups = m.groups();
  __m512 sum[R];
  for (int r = 0; r < R; ++r) sum[r] = _mm512_setzero_ps();
  for (int g = 0; g < groups; ++g, w += kInt8GroupBytes) {
    __m512i codes[kQuads];
    for (int q = 0; q < kQuads; ++q) {
      _mm_prefetch(reinterpret_cast<const char*>(w) + 4096 + 64 * q, _MM_HINT_T0);
      codes[q] = _mm512_load_si512(w + 64 * q);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const int at = g * R + r;
      __m512i dot = _mm512_set1_epi32(x.offsets[at]);  // weight codes are stored with 128 added
      for (int q = 0; q < kQuads; ++q)
        dot = _mm512_dpbusd_epi32(dot, codes[q], broadcast_quad(x.codes + at * kGroup + 4 * q));
      sum[r] = _mm512_fmadd_ps(_mm512_set1_ps(x.scales[at]), _mm512_cvtepi32_ps(dot), sum[r]);
    }
  }
  const __m512 scales = _mm512_loadu_ps(m.scales + block * kLanes);
  for (int r = 0; r < R; ++r) _mm512_storeu_ps(out[r], _mm512_mul_ps(sum[r], scales));
}

using TileFunction = void (*)(const Matrix&, int, const QuantizedRows&, Tile&);

template <std::size_t... R>
TileFunction tile_of(int bits, int rows, std::index_sequence<R...>) {
  static constexpr TileFunction four[] = {tile_int4<R + 1>...};
  static constexpr TileFunction eight[] = {tile_int8<R + 1>...};
  return (bits == 4 ? four : eight)[rows - 1];
}

// Computes a tile: 16 outputs of the rows of one row block.
inline void tile(const Matrix& m, int block, const QuantizedRows& x, int rows, Tile& out) {
  tile_of(m.bits, rows, std::make_index_sequence<kRows>())(m, block, x, out);
}

// Calls `consume(block, first row, rows, tile)` with each tile of the product of `m` and `x`. All
// threads of a parallel region must call it; they share the blocks.
template <typename Consume>
void matmul(const Matrix& m, const QuantizedRows& x, int rows, const Consume& consume) {
#pragma omp for schedule(static)
  for (int block = 0; block < m.blocks(); ++block) {
    alignas(64) Tile out;
    for (int row = 0; row < rows; row += kRows) {
      const int count = std::min(kRows, rows - row);
      tile(m, block, x.block(row / kRows, m.groups()), count, out);
      consume(block, row, count, out);
    }
  }
}

}  // namespace bem
