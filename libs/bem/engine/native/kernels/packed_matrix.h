// Memory layout of frozen matrices: one copy, in the order in which products read it.
//
// A block is 16 outputs. For each group of 32 inputs it stores:
//   4 bits: 16 steps and 16 minimums as float16, then 4 x 64 bytes of codes, two per byte;
//   8 bits: 8 x 64 bytes of codes; the scale of each output is stored apart.
// 64 bytes of unpacked codes are 4 neighbouring inputs of each of the 16 outputs: the operand of
// one VNNI instruction.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace bem {

constexpr int kLanes = 16, kGroup = 32, kQuads = kGroup / 4;
constexpr int64_t kInt4GroupBytes = 64 + kLanes * kGroup / 2, kInt8GroupBytes = kLanes * kGroup;
constexpr float kMinScale = 1e-12f;

struct Matrix {
  uint8_t* data;  // aligned to 64 bytes
  float* scales;  // 8 bits: one per output, padded to whole blocks; 4 bits: unused
  int32_t bits;   // 4 or 8
  int32_t outputs, inputs;

  int groups() const { return (inputs + kGroup - 1) / kGroup; }
  int blocks() const { return (outputs + kLanes - 1) / kLanes; }
  int64_t group_bytes() const { return bits == 4 ? kInt4GroupBytes : kInt8GroupBytes; }
  uint8_t* block(int64_t index) const { return data + index * groups() * group_bytes(); }
};

// Offset of the code of one output and input among the 8 x 64 bytes of a group.
inline int code_offset(int output, int input) {
  return input / 4 * 64 + output * 4 + input % 4;
}

// Packs 32 weights of one output: codes 0 to 15, w = step * code + minimum.
inline void pack_int4(const float* w, int output, uint8_t* group) {
  auto [low, high] = std::minmax_element(w, w + kGroup);
  const float step = std::max((*high - *low) / 15, kMinScale);
  const float minimum = *low;
  auto* header = reinterpret_cast<uint16_t*>(group);
  header[output] = _cvtss_sh(step, _MM_FROUND_TO_NEAREST_INT);
  header[kLanes + output] = _cvtss_sh(minimum, _MM_FROUND_TO_NEAREST_INT);
  for (int i = 0; i < kGroup; ++i) {
    const auto code =
        static_cast<uint8_t>(std::clamp(std::nearbyint((w[i] - minimum) / step), 0.0f, 15.0f));
    // The first four quads are the low nibbles, the other four the high ones.
    const int offset = code_offset(output, i), nibble = offset / 256;
    group[64 + offset % 256] |= static_cast<uint8_t>(code << (4 * nibble));
  }
}

inline void pack(const float* weight, const Matrix& to) {
  const int groups = to.groups();
#pragma omp parallel for
  for (int block = 0; block < to.blocks(); ++block) {
    uint8_t* out = to.block(block);
    std::memset(out, to.bits == 4 ? 0 : 128, groups * to.group_bytes());
    const int outputs = std::min(kLanes, to.outputs - block * kLanes);
    for (int o = 0; o < outputs; ++o) {
      const float* row = weight + static_cast<int64_t>(block * kLanes + o) * to.inputs;
      float scale = kMinScale;
      for (int i = 0; i < to.inputs; ++i) scale = std::max(scale, std::abs(row[i]) / 127);
      if (to.bits == 8) to.scales[block * kLanes + o] = scale;
      for (int g = 0; g < groups; ++g) {
        uint8_t* group = out + g * to.group_bytes();
        if (to.bits == 4) {
          pack_int4(row + g * kGroup, o, group);
          continue;
        }
        for (int i = 0; i < std::min(kGroup, to.inputs - g * kGroup); ++i)
          group[code_offset(o, i)] =
              static_cast<uint8_t>(std::nearbyint(row[g * kGroup + i] / scale) + 128);
      }
    }
  }
}

}  // namespace bem
