// Adapter sites: gated low-rank updates s B (code * (A x)), each row with its own adapters.
#pragma once

#include <cstdint>
#include <cstring>

#include "vectors.h"

namespace bem {

struct Site {
  const void* down;           // A [slots, rank, inputs]; null where the layer has no site
  const void* up;             // B [slots, rank, outputs], transposed
  const float* scale;         // [slots]
  const int32_t* used_ranks;  // [slots]: leading ranks that add anything
  int32_t index;              // place among the sites with factors of codes; -1 for none
  int32_t offset, outputs;    // of a matrix that several layers share, the part of this one
  int32_t float16;            // whether A and B are float16 instead of float32
};

// Calls `use` with a factor in its own type.
template <typename Use>
auto with_type(const Site& site, const void* factor, const Use& use) {
  if (site.float16) return use(static_cast<const uint16_t*>(factor));
  return use(static_cast<const float*>(factor));
}

// Adapters and codes of the rows of one pass, shared by all sites.
struct ActiveAdapters {
  const int64_t* slots;                  // [*, adapters]: slots
  const float* codes;                    // [*, adapters, rank]; null if no adapter is active
  const int32_t *slot_rows, *code_rows;  // [tokens]: index of each row in them
  int32_t adapters, rank;
  const float* site_factors;  // [sites, code_count]: factors of the codes; null for 1 everywhere
  int32_t code_count;         // number of codes that code_rows choose from

  int width() const { return codes ? adapters * rank : 0; }
  const int64_t* row_slots(int row) const {
    return slots + static_cast<int64_t>(slot_rows[row]) * adapters;
  }
};

template <typename E>
float dot(const E* a, const float* b, int size) {
  Floats sum[4] = {splat(0), splat(0), splat(0), splat(0)};
  int i = 0;
  for (; i + 4 * kLanes <= size; i += 4 * kLanes)
    for (int part = 0; part < 4; ++part)
      sum[part] = multiply_add(load(a + i + kLanes * part), load(b + i + kLanes * part), sum[part]);
  for (; i < size; i += kLanes)
    sum[0] = multiply_add(load(a + i, size - i), load(b + i, size - i), sum[0]);
  return sum_of_lanes(add(add(sum[0], sum[1]), add(sum[2], sum[3])));
}

// Writes scale * code * (A x) of one row to its part of `low [tokens, adapters * rank]`, as far as
// ranks are used; returns whether any is not zero.
inline bool project_down(const Site& site, const ActiveAdapters& active, int row, const float* x,
                         int inputs, float* low) {
  if (!site.down || !active.codes) return false;
  const int64_t* slots = active.row_slots(row);
  const float* codes = active.codes + static_cast<int64_t>(active.code_rows[row]) * active.width();
  const float factor =
      active.site_factors && site.index >= 0
          ? active.site_factors[static_cast<int64_t>(site.index) * active.code_count +
                                active.code_rows[row]]
          : 1;
  low += static_cast<int64_t>(row) * active.width();
  bool any = false;
  with_type(site, site.down, [&](auto* stack) {
    for (int s = 0; s < active.adapters; ++s)
      for (int k = 0; k < site.used_ranks[slots[s]]; ++k) {
        const int at = s * active.rank + k;
        const float code = codes[at] * factor;
        const auto* down = stack + (slots[s] * active.rank + k) * inputs;
        // The code of ranks beyond an adapter's own is zero; their factors are not read.
        low[at] = code == 0 ? 0 : code * site.scale[slots[s]] * dot(down, x, inputs);
        any |= low[at] != 0;
      }
  });
  return any;
}

// Adds `up [Count, outputs]` times `low [Count]` to `out [outputs]`, rank by rank.
template <int Count, typename E>
void add_ranks(const E* const* up, const float* low, int outputs, float* out) {
  Floats factors[Count];
  for (int k = 0; k < Count; ++k) factors[k] = splat(low[k]);
  int i = 0;
  for (; i + kLanes <= outputs; i += kLanes) {
    Floats sum = load(out + i);
#pragma GCC unroll 8
    for (int k = 0; k < Count; ++k) sum = multiply_add(factors[k], load(up[k] + i), sum);
    store(out + i, sum);
  }
  if (const int left = outputs - i) {
    Floats sum = load(out + i, left);
    for (int k = 0; k < Count; ++k) sum = multiply_add(factors[k], load(up[k] + i, left), sum);
    store(out + i, left, sum);
  }
}

// The same of any number of ranks below `2 * Count`.
template <int Count, typename E>
void add_few_ranks(const E* const* up, const float* low, int count, int outputs, float* out) {
  const int now = count >= Count ? Count : 0;
  if (now) add_ranks<Count>(up, low, outputs, out);
  if constexpr (Count > 1) add_few_ranks<Count / 2>(up + now, low + now, count - now, outputs, out);
}

// Adds B times the result of `project_down` to `out [outputs]`.
inline void add_projected_up(const Site& site, const ActiveAdapters& active, int row,
                             const float* low, int outputs, float* out) {
  if (!site.down || !active.codes) return;
  constexpr int kRanksAtOnce = 8;  // ranks that share a pass over the outputs
  const int64_t* slots = active.row_slots(row);
  low += static_cast<int64_t>(row) * active.width();
  with_type(site, site.up, [&](auto* stack) {
    decltype(stack) up[kRanksAtOnce];
    float factors[kRanksAtOnce];
    int count = 0;
    for (int s = 0; s < active.adapters; ++s)
      for (int k = 0; k < site.used_ranks[slots[s]]; ++k) {
        const float factor = low[s * active.rank + k];
        if (factor == 0) continue;
        up[count] = stack + (slots[s] * active.rank + k) * outputs;
        factors[count++] = factor;
        if (count < kRanksAtOnce) continue;
        add_ranks<kRanksAtOnce>(up, factors, outputs, out);
        count = 0;
      }
    add_few_ranks<kRanksAtOnce / 2>(up, factors, count, outputs, out);
  });
}

// Sites of the layers that one matrix joins, in the order of its outputs.
struct SiteGroup {
  const Site* sites;
  int count, outputs;

  bool present() const {
    for (int i = 0; i < count; ++i)
      if (sites[i].down) return true;
    return false;
  }
};

// Writes the low-rank updates of a row `x` to `out [outputs]`; returns whether there are any,
// otherwise `out` is not written.
inline bool update_row(const SiteGroup& group, const ActiveAdapters& active, int row,
                       const float* x, int inputs, float* low, float* out) {
  bool any = false;
  for (int i = 0; i < group.count; ++i) {
    const Site& site = group.sites[i];
    if (!project_down(site, active, row, x, inputs, low)) continue;
    if (!any) std::memset(out, 0, group.outputs * sizeof(float));
    any = true;
    add_projected_up(site, active, row, low, site.outputs, out + site.offset);
  }
  return any;
}

}  // namespace bem
