// Factors that the rows of one thread read in a pass, in the order of their use. Tiles of products
// prefetch them a bounded distance ahead of their use: products are bound by arithmetic and leave
// memory idle, and factors are bound by memory.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "adapter_sites.h"
#include "prefetch_ahead.h"

namespace bem {

class FactorStream {
 public:
  // Forgets everything.
  void clear() {
    ranges_.clear();
    ends_.clear();
    at_ = offset_ = 0;
    total_ = issued_ = used_ = 0;
  }

  // Adds the factors `down`, `up` or both of a site for the rows [first, last).
  void add(const Site& site, const ActiveAdapters& active, int first, int last, int inputs,
           bool down, bool up) {
    if (!site.down || !active.codes) return;
    const int64_t bytes = site.float16 ? 2 : 4;
    const int64_t* previous = nullptr;
    for (int row = first; row < last; ++row) {
      const int64_t* slots = active.row_slots(row);
      if (slots == previous) continue;  // tokens of one sequence
      previous = slots;
      for (int s = 0; s < active.adapters; ++s) {
        const int64_t rank = slots[s] * active.rank, used = site.used_ranks[slots[s]];
        if (down) add(site.down, rank * inputs * bytes, used * inputs * bytes);
        if (up) add(site.up, rank * site.outputs * bytes, used * site.outputs * bytes);
      }
    }
  }

  // Ends the factors of a stage of the pass.
  void end_stage() { ends_.push_back({ranges_.size(), total_}); }

  // Sets how many lines each of `groups` groups of inputs prefetches.
  void spread_over(int64_t groups) {
    lines_ = groups ? static_cast<int>((total_ / kLineBytes + groups - 1) / groups) : 0;
  }

  // Tells that a stage has used its factors; those not prefetched are skipped.
  void finish(std::size_t stage) {
    if (ranges_.empty()) return;
    const Stage& end = ends_[stage];
    used_ = end.bytes;
    if (issued_ >= used_) return;
    issued_ = used_;
    at_ = end.ranges;
    offset_ = 0;
  }

  PrefetchAhead take(int groups) {
    if (at_ == ranges_.size() || issued_ - used_ > kMostAhead) return {};
    const Range& range = ranges_[at_];
    const char* from = range.from + offset_;
    const int64_t bytes = std::min<int64_t>(range.bytes - offset_,
                                            static_cast<int64_t>(lines_) * groups * kLineBytes);
    offset_ += bytes;
    issued_ += bytes;
    if (offset_ >= range.bytes) {
      ++at_;
      offset_ = 0;
    }
    return {from, from + bytes, lines_};
  }

 private:
  static constexpr int64_t kMostAhead = 1 << 20;  // bytes: the size of many L2 caches

  struct Range {
    const char* from;
    int64_t bytes;
  };
  struct Stage {
    std::size_t ranges;
    int64_t bytes;
  };

  void add(const void* stack, int64_t offset, int64_t bytes) {
    if (bytes == 0) return;
    ranges_.push_back({static_cast<const char*>(stack) + offset, bytes});
    total_ += bytes;
  }

  std::vector<Range> ranges_;
  std::vector<Stage> ends_;
  std::size_t at_ = 0;
  int64_t offset_ = 0;
  int64_t total_ = 0, issued_ = 0, used_ = 0;
  int lines_ = 0;
};

}  // namespace bem
