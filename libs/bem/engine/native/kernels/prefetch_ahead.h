// Memory that is prefetched while a tile of a product is computed.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace bem {

constexpr int kLineBytes = 64;

// Cache lines that one tile prefetches, some with each group of its inputs.
struct PrefetchAhead {
  const char *next = nullptr, *end = nullptr;
  int lines = 0;  // with each group

  void step() {
    for (int line = 0; line < lines && next < end; ++line, next += kLineBytes)
      _mm_prefetch(next, _MM_HINT_T1);
  }
};

}  // namespace bem
